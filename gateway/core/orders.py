"""An order: what one request asks for, decided once and the same for the price, the quota and the upstream.

`from_json` and `from_form` turn the two bodies into one `Order` by the same checks. Everything the price depends on
(model, n, size, quality) is always set: what a request leaves open is filled from the config, never by the upstream.
``null`` counts as left open, and so does ``auto`` for size and quality. Nothing unknown passes: a parameter that
means nothing here could mean money there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.core.catalog import Model, Settings, Team
from gateway.core.errors import (
    EndpointNotAllowed,
    MissingParameter,
    ModelNotAllowed,
    ModelNotFound,
    ParameterError,
    QualityNotAllowed,
    SizeNotAllowed,
)
from gateway.core.parameters import choice, count, from_text, listed, shown, text, typed, unknown

Endpoint = Literal["generations", "edits"]

#: What the API document lists beside the prompt and what is decided here (n, model, size, quality).
CHOICES = {"style": ("vivid", "natural"), "response_format": ("url", "b64_json")}

#: The document gives no style on edits, and no quality either; that one may be named if it is the one charged.
DOCUMENTED: Mapping[Endpoint, tuple[str, ...]] = {
    "generations": ("model", "prompt", "n", "size", "quality", "style", "response_format"),
    "edits": ("model", "prompt", "n", "size", "quality", "response_format"),
}

_PLACE = {"generations": "a generation", "edits": "an edit"}

_AUTO = "auto"

#: A number of images from which on it is not told: nobody meant it.
_TELLABLE = 1_000_000


@dataclass(frozen=True, slots=True)
class Order:
    """What will be priced, charged and sent. `model` is the alias teams use; `size` is ``WIDTHxHEIGHT``.

    fields: the rest that goes up beside model, n, size and quality (prompt, style, response_format, and the
    parameters the config lets through), decoded and validated.
    """

    endpoint: Endpoint
    model: str
    n: int
    size: str
    quality: str
    fields: tuple[tuple[str, object], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asked for that became no order, as far as it may stand in a log or a label: what the config has.

    What was not named is the config's default. A model that it does not have is ``other``; None is any other value
    that it does not have, or where nothing was read.
    """

    model: str | None = None
    n: int | None = None
    size: str | None = None
    quality: str | None = None


NOTHING_ASKED = Asked()


def asked(given: Mapping[str, object], *, settings: Settings, endpoint: Endpoint) -> Asked:
    """What these parameters ask for. given: of a JSON body, or an edit's texts."""
    alias, n = given.get("model"), given.get("n")
    alias = settings.default_model if alias is None else alias
    model = settings.models.get(alias) if isinstance(alias, str) else None
    images = from_text(n, "count") if isinstance(n, str) and endpoint == "edits" else 1 if n is None else n
    plain = images if isinstance(images, int) and not isinstance(images, bool) and 0 <= images < _TELLABLE else None
    if model is None:
        return Asked("other", plain)
    qualities, quality = model.qualities, model.default_quality
    if endpoint == "edits":
        qualities, quality = (model.edit_quality,), model.edit_quality
    return Asked(
        model.alias,
        plain,
        _offered(given.get("size"), model.sizes, model.default_size),
        _offered(given.get("quality"), qualities, quality),
    )


def _offered(given: object, offered: Collection[str], default: str) -> str | None:
    if given in (None, _AUTO):
        return default
    return given if isinstance(given, str) and given in offered else None


def from_json(body: Mapping[str, object], *, settings: Settings, team: Team, endpoint: Endpoint) -> Order:
    """The order of a decoded JSON object. Raises what `gateway.core.errors` has for each wrong parameter."""
    given = {name: value for name, value in body.items() if value is not None}
    model = _model(given.pop("model", None), settings=settings, team=team, endpoint=endpoint)
    return _order(given, model=model, team=team, endpoint=endpoint, max_prompt_chars=settings.limits.max_prompt_chars)


def from_form(fields: Mapping[str, str], files: Sequence[str], *, settings: Settings, team: Team) -> Order:
    """The order of an edit's form. files: the names of its file parts (image, image[], mask) as they came."""
    texts = dict(fields)
    model = _model(texts.pop("model", None), settings=settings, team=team, endpoint="edits")
    kinds = {**model.parameters, "n": "count"}
    given = {name: from_text(value, kinds.get(name, "string")) for name, value in texts.items()}
    order = _order(given, model=model, team=team, endpoint="edits", max_prompt_chars=settings.limits.max_prompt_chars)
    _check_images(len(files) - files.count("mask"), model)
    return order


def permitted_sizes(model: Model, team: Team) -> tuple[str, ...]:
    return _permitted(model.sizes, team.sizes)


def permitted_qualities(model: Model, team: Team, endpoint: Endpoint) -> tuple[str, ...]:
    """On edits the one that the config charges: the API takes none there."""
    return _permitted(model.qualities if endpoint == "generations" else (model.edit_quality,), team.qualities)


def permitted_models(settings: Settings, team: Team, endpoint: Endpoint | None = None) -> tuple[Model, ...]:
    """What the team may order, in the config's order. endpoint: only models that have it and that the team may use."""
    return tuple(
        model
        for alias, model in settings.models.items()
        if (team.models is None or alias in team.models)
        and (endpoint is None or endpoint in model.endpoints)
        and (endpoint is None or team.endpoints is None or endpoint in team.endpoints)
    )


def _permitted(offered: tuple[str, ...], allowed: frozenset[str] | None) -> tuple[str, ...]:
    return offered if allowed is None else tuple(value for value in offered if value in allowed)


def _model(given: object, *, settings: Settings, team: Team, endpoint: Endpoint) -> Model:
    alias = settings.default_model if given is None else text("model", given)
    model = settings.models.get(alias)
    if model is None or (team.models is not None and alias not in team.models):
        usable = listed(m.alias for m in permitted_models(settings, team)) or "none"
        if model is None:
            message = f"There is no model {shown(alias)}. Models for team {team.id}: {usable}."
            raise ModelNotFound(message, param="model")
        default = ", the default," if given is None else ""
        message = f"Team {team.id} may not use model {alias}{default}. Models for it: {usable}."
        raise ModelNotAllowed(message, param="model")
    if endpoint not in model.endpoints:
        others = listed(sorted(model.endpoints)) or "none"
        raise EndpointNotAllowed(f"Model {alias} has no {endpoint}; it has: {others}.", param="model")
    if team.endpoints is not None and endpoint not in team.endpoints:
        others = listed(sorted(team.endpoints)) or "none"
        raise EndpointNotAllowed(f"Team {team.id} may not use {endpoint}; it may use: {others}.")
    return model


def _order(
    given: Mapping[str, object], *, model: Model, team: Team, endpoint: Endpoint, max_prompt_chars: int
) -> Order:
    if model.ignore:
        given = {name: value for name, value in given.items() if name not in model.ignore}
    documented = DOCUMENTED[endpoint]
    _refuse_unknown(given, documented=documented, model=model, place=_PLACE[endpoint])
    return Order(
        endpoint=endpoint,
        model=model.alias,
        n=count("n", given.get("n", 1), most=model.max_n),
        size=_size(given.get("size"), model=model, team=team),
        quality=_quality(given.get("quality"), model=model, team=team, endpoint=endpoint),
        fields=(
            ("prompt", _prompt(given.get("prompt"), most=max_prompt_chars)),
            *(
                (name, choice(name, given[name], CHOICES[name]))
                for name in CHOICES
                if name in given and name in documented
            ),
            *(
                (name, typed(name, given[name], kind))
                for name, kind in (sorted(model.parameters.items()) if model.parameters else ())
                if name in given and name not in documented
            ),
        ),
    )


def _refuse_unknown(given: Collection[str], *, documented: tuple[str, ...], model: Model, place: str) -> None:
    for name in given:
        if name not in documented and name not in model.parameters:
            raise unknown(name, {*documented, *model.parameters}, place=place)


def _prompt(given: object, *, most: int) -> str:
    if given is None:
        raise MissingParameter("prompt is missing: say what the image shall show.", param="prompt")
    prompt = text("prompt", given)
    if not prompt.strip():
        raise ParameterError("prompt is empty: say what the image shall show.", param="prompt")
    if len(prompt) > most:
        raise ParameterError(f"prompt has {len(prompt)} characters; at most {most} are taken.", param="prompt")
    return prompt


def _size(given: object, *, model: Model, team: Team) -> str:
    named = given not in (None, _AUTO)
    size = choice("size", given, model.sizes, where=f"for {model.alias}") if named else model.default_size
    allowed = permitted_sizes(model, team)
    if size not in allowed:
        raise SizeNotAllowed(_not_for_team("size", size, allowed, team=team, model=model, named=named), param="size")
    return size


def _quality(given: object, *, model: Model, team: Team, endpoint: Endpoint) -> str:
    named = given not in (None, _AUTO)
    if endpoint == "generations":
        where = f"for {model.alias}"
        quality = choice("quality", given, model.qualities, where=where) if named else model.default_quality
    else:
        # The upstream takes no quality on edits: another than the one that is charged could not be had.
        where = f"for edits with {model.alias}, or left out"
        quality = choice("quality", given, (model.edit_quality,), where=where) if named else model.edit_quality
    allowed = permitted_qualities(model, team, endpoint)
    if quality not in allowed:
        message = _not_for_team("quality", quality, allowed, team=team, model=model, named=named)
        raise QualityNotAllowed(message, param="quality")
    return quality


def _not_for_team(what: str, value: str, allowed: tuple[str, ...], *, team: Team, model: Model, named: bool) -> str:
    default = "" if named else f", which a request gets that names no {what}"
    instead = f"It may use: {listed(allowed)}." if allowed else f"It may use no {what} of {model.alias} here."
    return f"Team {team.id} may not use {what} {value}{default}. {instead}"


def _check_images(images: int, model: Model) -> None:
    if images == 0:
        raise MissingParameter("image is missing: an edit needs a PNG file under that name.", param="image")
    if images > model.edit_max_images:
        takes = "one image" if model.edit_max_images == 1 else f"at most {model.edit_max_images} images"
        raise ParameterError(f"An edit with {model.alias} takes {takes}; got {images}.", param="image")
