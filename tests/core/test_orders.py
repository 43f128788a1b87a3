"""Orders: both bodies meet the same checks, every gap is filled from the config, every refusal can be acted on."""

from dataclasses import replace

import pytest

from gateway.core.catalog import Team
from gateway.core.errors import (
    EndpointNotAllowed,
    GatewayError,
    MissingParameter,
    ModelNotAllowed,
    ModelNotFound,
    ParameterError,
    QualityNotAllowed,
    SizeNotAllowed,
    UnknownParameter,
)
from gateway.core.orders import Asked, Order, asked, from_form, from_json
from gateway.core.pricing import cheapest, price
from tests.core.sample import COLLAGE, DALLE, TEAM, settings

SETTINGS = settings()


def generation(team: Team = TEAM, /, **body: object) -> Order:
    return from_json({"prompt": "a cat", **body}, settings=SETTINGS, team=team, endpoint="generations")


def edit(team: Team = TEAM, files: tuple[str, ...] = ("image",), /, **fields: str) -> Order:
    return from_form({"prompt": "a cat", **fields}, files, settings=SETTINGS, team=team)


def test_gaps_are_filled_from_the_config() -> None:
    """A prompt alone is one image of the default model, size and quality."""
    assert generation() == Order(
        endpoint="generations",
        model="dall-e-3",
        n=1,
        size="1024x1024",
        quality="standard",
        fields=(("prompt", "a cat"),),
    )


@pytest.mark.parametrize("name", ["model", "n", "size", "quality", "style", "response_format", "user", "unheard_of"])
def test_null_is_as_good_as_absent(name: str) -> None:
    """A parameter that is null has been left open, whatever its name."""
    assert generation(**{name: None}) == generation()


@pytest.mark.parametrize("name", ["size", "quality"])
def test_auto_is_the_default(name: str) -> None:
    """`auto` for size and quality is the config's default, on both endpoints."""
    assert generation(**{name: "auto"}) == generation()
    assert edit(**{name: "auto"}) == edit()


def test_the_rest_goes_up_in_one_order() -> None:
    """Documented fields come first and parameters of the config by name, however the request ordered them."""
    order = generation(user="u", tile=True, style="natural", response_format="url", seed=7, guidance=0.5, n=2)
    assert order.fields == (
        ("prompt", "a cat"),
        ("style", "natural"),
        ("response_format", "url"),
        ("guidance", 0.5),
        ("seed", 7),
        ("tile", True),
        ("user", "u"),
    )


def test_ignored_parameters_are_taken_off() -> None:
    """What the config ignores changes nothing, whatever its type."""
    assert generation(background={"a": [1]}, moderation=1) == generation()
    assert edit(background="transparent") == edit()


def test_a_form_says_the_same_as_the_json() -> None:
    """The texts of a form become the values that the JSON of the same order has."""
    texts = {"n": "3", "size": "1792x1024", "seed": "-7", "guidance": "1.5e1", "tile": "false", "user": "7"}
    order = edit(**texts, response_format="b64_json", quality="standard")
    values = {"n": 3, "size": "1792x1024", "seed": -7, "guidance": 15.0, "tile": False, "user": "7"}
    assert order == replace(generation(**values, response_format="b64_json"), endpoint="edits")


WRONG: list[tuple[dict[str, object], type[GatewayError], str | None, str]] = [
    ({"n": True}, ParameterError, "n", "n must be an integer from 1 to 10; got true."),
    ({"n": False}, ParameterError, "n", "got false"),
    ({"n": 1.0}, ParameterError, "n", "got 1.0"),
    ({"n": "1"}, ParameterError, "n", 'got "1"'),
    ({"n": [1]}, ParameterError, "n", "got a list"),
    ({"n": {}}, ParameterError, "n", "got an object"),
    ({"n": 0}, ParameterError, "n", "got 0"),
    ({"n": -1}, ParameterError, "n", "got -1"),
    ({"n": 11}, ParameterError, "n", "got 11"),
    ({"n": 10**4000}, ParameterError, "n", "a very large number"),
    ({"n": "auto"}, ParameterError, "n", "integer"),
    ({"prompt": None}, MissingParameter, "prompt", "prompt is missing"),
    ({"prompt": ""}, ParameterError, "prompt", "prompt is empty"),
    ({"prompt": " \n\u3000"}, ParameterError, "prompt", "prompt is empty"),
    ({"prompt": "x" * 101}, ParameterError, "prompt", "prompt has 101 characters; at most 100"),
    ({"prompt": ["a"]}, ParameterError, "prompt", "must be a string; got a list"),
    ({"prompt": "a\ud800"}, ParameterError, "prompt", "surrogate"),
    ({"size": "256x256"}, ParameterError, "size", 'one of 1024x1024, 1792x1024, 1024x1792 for dall-e-3; got "256x256"'),
    ({"size": "1024X1024"}, ParameterError, "size", "1024X1024"),
    ({"size": " 1024x1024"}, ParameterError, "size", "one of"),
    ({"size": 1024}, ParameterError, "size", "got 1024"),
    ({"size": ["1024x1024"]}, ParameterError, "size", "got a list"),
    ({"size": "AUTO"}, ParameterError, "size", "AUTO"),
    ({"quality": "HD"}, ParameterError, "quality", 'one of standard, hd for dall-e-3; got "HD"'),
    ({"style": "loud"}, ParameterError, "style", "vivid, natural"),
    ({"response_format": "png"}, ParameterError, "response_format", "url, b64_json"),
    ({"user": 1}, ParameterError, "user", "must be a string; got 1"),
    ({"seed": True}, ParameterError, "seed", "an integer; got true"),
    ({"seed": 1.5}, ParameterError, "seed", "an integer; got 1.5"),
    ({"guidance": "1"}, ParameterError, "guidance", "a number"),
    ({"guidance": True}, ParameterError, "guidance", "a number"),
    ({"tile": 1}, ParameterError, "tile", "true or false"),
    ({"model": 3}, ParameterError, "model", "must be a string"),
    ({"model": "dall-e-2"}, ModelNotFound, "model", 'no model "dall-e-2". Models for team design: dall-e-3, collage.'),
    ({"model": "DALL-E-3"}, ModelNotFound, "model", "DALL-E-3"),
    ({"model": ""}, ModelNotFound, "model", 'no model ""'),
    ({"model": "collage"}, EndpointNotAllowed, "model", "has no generations; it has: edits"),
    ({"stream": True}, UnknownParameter, "stream", 'Unknown parameter "stream" for a generation'),
    ({"stream": False}, UnknownParameter, "stream", "Known are: guidance, model, n, prompt"),
    ({"qualty": "hd"}, UnknownParameter, "qualty", 'Did you mean "quality"?'),
    ({"N": 10}, UnknownParameter, "N", 'Did you mean "n"?'),
    ({"\u017fize": "x"}, UnknownParameter, "\u017fize", 'Did you mean "size"?'),
    ({"responseFormat": "url"}, UnknownParameter, "responseFormat", 'Did you mean "response_format"?'),
    ({"n[]": 2}, UnknownParameter, "n[]", "Unknown parameter"),
    ({"image": "x"}, UnknownParameter, "image", "Unknown parameter"),
    ({"a\r\nb\u202e": 1}, UnknownParameter, r"a\r\nb\u202e", "Unknown"),
    ({"x" * 10_000: 1}, UnknownParameter, "x" * 40 + "…", "Unknown"),
]


@pytest.mark.parametrize(("body", "error", "param", "says"), WRONG)
def test_a_wrong_parameter_is_named(body: dict[str, object], error: type[GatewayError], param: str, says: str) -> None:
    """Each wrong value raises its own class with the parameter, what was got and what is allowed."""
    with pytest.raises(error) as caught:
        generation(**body)
    assert (type(caught.value), caught.value.param) == (error, param)
    assert says in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 250


WRONG_FORMS: list[tuple[dict[str, str], type[GatewayError], str, str]] = [
    *(({"n": n}, ParameterError, "n", f'got "{n}"') for n in ("", "0", "01", "+1", "1.0", "1e0", "-1", " 1", "100")),
    ({"n": "11"}, ParameterError, "n", "got 11"),
    ({"n": "\u0661"}, ParameterError, "n", "integer"),
    ({"n": "true"}, ParameterError, "n", "integer"),
    ({"size": ""}, ParameterError, "size", 'got ""'),
    ({"quality": "hd"}, ParameterError, "quality", "one of standard for edits with dall-e-3, or left out"),
    ({"style": "vivid"}, UnknownParameter, "style", "for an edit"),
    ({"n[]": "2"}, UnknownParameter, "n[]", "Unknown"),
    ({"N": "2"}, UnknownParameter, "N", 'Did you mean "n"?'),
    ({"Image": "x"}, UnknownParameter, "Image", "Unknown"),
    ({"": "x"}, UnknownParameter, "", "Unknown"),
    ({"seed": "1.0"}, ParameterError, "seed", "an integer"),
    ({"seed": "9" * 5000}, ParameterError, "seed", "an integer"),
    ({"guidance": "1e999"}, ParameterError, "guidance", "a number"),
    ({"guidance": "NaN"}, ParameterError, "guidance", "a number"),
    ({"tile": "True"}, ParameterError, "tile", "true or false"),
    ({"prompt": ""}, ParameterError, "prompt", "empty"),
]


@pytest.mark.parametrize(("fields", "error", "param", "says"), WRONG_FORMS)
def test_a_wrong_text_is_named(fields: dict[str, str], error: type[GatewayError], param: str, says: str) -> None:
    """Forms meet the same checks; a text that is no value of its kind is refused as it was written."""
    with pytest.raises(error) as caught:
        edit(**fields)
    assert (type(caught.value), caught.value.param) == (error, param)
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("team", "body", "error", "param", "says"),
    [
        ({"models": frozenset({"collage"})}, {}, ModelNotAllowed, "model", "dall-e-3, the default,"),
        (
            {"models": frozenset({"collage"})},
            {"model": "dall-e-3"},
            ModelNotAllowed,
            "model",
            "Models for it: collage.",
        ),
        ({"models": frozenset[str]()}, {}, ModelNotAllowed, "model", "Models for it: none."),
        (
            {"endpoints": frozenset({"edits"})},
            {},
            EndpointNotAllowed,
            None,
            "may not use generations; it may use: edits",
        ),
        (
            {"sizes": frozenset({"1792x1024"})},
            {"size": "1024x1024"},
            SizeNotAllowed,
            "size",
            "may not use size 1024x1024. It may use: 1792x1024.",
        ),
        (
            {"sizes": frozenset({"1792x1024"})},
            {},
            SizeNotAllowed,
            "size",
            "which a request gets that names no size. It may use: 1792x1024.",
        ),
        ({"sizes": frozenset({"8x8"})}, {}, SizeNotAllowed, "size", "no size of dall-e-3"),
        (
            {"qualities": frozenset({"standard"})},
            {"quality": "hd"},
            QualityNotAllowed,
            "quality",
            "It may use: standard.",
        ),
        ({"qualities": frozenset({"hd"})}, {"quality": "auto"}, QualityNotAllowed, "quality", "names no quality"),
    ],
)
def test_what_is_not_for_the_team_is_a_403(
    team: dict[str, frozenset[str]], body: dict[str, object], error: type[GatewayError], param: str | None, says: str
) -> None:
    """What the model has but the team may not use is refused as such, with what it may use instead."""
    with pytest.raises(error) as caught:
        generation(replace(TEAM, **team), **body)  # type: ignore[arg-type]  # one field each
    assert (caught.value.status, caught.value.param) == (403, param)
    assert says in caught.value.message


def test_a_size_no_model_has_is_wrong_rather_than_forbidden() -> None:
    """A size outside the model's list is a 400 also for a team that may use few sizes."""
    with pytest.raises(ParameterError):
        generation(replace(TEAM, sizes=frozenset({"1792x1024"})), size="8x8")


def test_an_edit_is_charged_at_the_configured_quality() -> None:
    """Edits carry the config's edit quality, whether the client names it or not, and a team must be allowed it."""
    assert edit().quality == edit(quality="standard").quality == "standard"
    with pytest.raises(QualityNotAllowed):
        edit(replace(TEAM, qualities=frozenset({"hd"})))


@pytest.mark.parametrize(
    ("model", "files", "error", "says"),
    [
        ("dall-e-3", (), MissingParameter, "image is missing"),
        ("dall-e-3", ("mask",), MissingParameter, "image is missing"),
        ("dall-e-3", ("image[]", "image[]"), ParameterError, "takes one image; got 2"),
        ("collage", ("image[]",) * 5, ParameterError, "takes at most 4 images; got 5"),
    ],
)
def test_an_edit_needs_its_images(model: str, files: tuple[str, ...], error: type[GatewayError], says: str) -> None:
    """No image, or more than the ordered model takes, is refused under the name `image`."""
    with pytest.raises(error, match=says) as caught:
        edit(TEAM, files, model=model)
    assert caught.value.param == "image"


def test_lists_of_images_pass_where_the_model_takes_them() -> None:
    """A model for four images takes four and a mask."""
    files = ("image[]", "mask", "image[]", "image[]", "image[]")
    assert edit(TEAM, files, model="collage").model == "collage"


def test_a_price_is_n_times_the_unit() -> None:
    """Prices are whole micro-dollars of all images, or None where the config gives none."""
    assert price(generation(n=3, size="1792x1024", quality="hd"), DALLE) == 360_000
    assert price(edit(), DALLE) == 40_000
    assert price(generation(), replace(DALLE, prices={})) is None


def test_the_cheapest_orders_come_first() -> None:
    """All single images that a team may order are listed by price, then by name."""
    found = cheapest(SETTINGS, TEAM, "generations")
    assert [(o.size, o.quality) for o in found] == [
        ("1024x1024", "standard"),
        ("1024x1024", "hd"),
        ("1024x1792", "standard"),
        ("1792x1024", "standard"),
        ("1024x1792", "hd"),
        ("1792x1024", "hd"),
    ]
    assert all(order.n == 1 and not order.fields for order in found)
    assert [o.model for o in cheapest(SETTINGS, TEAM, "edits")] == ["collage"] + ["dall-e-3"] * 3


def test_the_cheapest_orders_are_within_the_permissions() -> None:
    """What a team may not use is never a candidate; who may use nothing has none."""
    team = replace(TEAM, models=frozenset({"dall-e-3"}), sizes=frozenset({"1792x1024"}), qualities=frozenset({"hd"}))
    assert cheapest(SETTINGS, team, "generations") == [Order("generations", "dall-e-3", 1, "1792x1024", "hd")]
    assert cheapest(SETTINGS, team, "edits") == []
    assert cheapest(SETTINGS, replace(TEAM, endpoints=frozenset({"edits"})), "generations") == []


def test_an_order_without_a_price_is_the_cheapest() -> None:
    """No rule in dollars holds an order that has no price, so it is looked at first."""
    free = settings({"dall-e-3": DALLE, "collage": replace(COLLAGE, prices={})})
    assert cheapest(free, TEAM, "edits")[0].model == "collage"


def test_a_prompt_is_not_in_the_repr() -> None:
    """What prints an order prints no prompt."""
    assert "a cat" not in repr(generation())


NO_MODELS: tuple[object, ...] = ("a cat", 5, ["dall-e-3"], {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Asked("dall-e-3", 1, "1024x1024", "standard")),
        ({"size": "auto", "quality": None, "n": 2}, Asked("dall-e-3", 2, "1024x1024", "standard")),
        ({"size": "1792x1024", "quality": "hd"}, Asked("dall-e-3", 1, "1792x1024", "hd")),
        ({"size": "a cat", "quality": ["hd"], "n": "2"}, Asked("dall-e-3", None, None, None)),
        ({"n": 0}, Asked("dall-e-3", 0, "1024x1024", "standard")),
        *(({"n": n}, Asked("dall-e-3", None, "1024x1024", "standard")) for n in (True, 1.5, -1, 10**400, [2])),
        *(({"model": model, "size": "1024x1024"}, Asked("other", 1)) for model in NO_MODELS),
    ],
)
def test_what_is_told_of_no_order_is_the_configs(given: dict[str, object], expected: Asked) -> None:
    """Of what a client named only values that the config has, or a plain number, may stand in a log or a label."""
    assert asked(given, settings=SETTINGS, endpoint="generations") == expected


def test_what_is_told_of_no_edit_is_read_as_texts() -> None:
    """A form's n is a number, and the one quality is the one that edits are charged as."""
    quality = SETTINGS.models["dall-e-3"].edit_quality
    assert asked({"n": "3"}, settings=SETTINGS, endpoint="edits") == Asked("dall-e-3", 3, "1024x1024", quality)
    told = asked({"n": "x", "quality": "none"}, settings=SETTINGS, endpoint="edits")
    assert told == Asked("dall-e-3", None, "1024x1024", None)
