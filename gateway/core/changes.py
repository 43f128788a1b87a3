"""What another version of the config changes, in the words of who has to approve it. No I/O, no clock, no secret.

Only what takes effect is told: comments, order and spelling change nothing. What is used so far belongs beside a
limit; a `Difference` names the rule, and whoever can reach the store asks for it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from urllib.parse import urlsplit, urlunsplit

from gateway.core.catalog import JwtIssuer, Model, Settings, Store
from gateway.core.differences import Difference, compared, listed, none_or
from gateway.core.quota import ORGANIZATION, Rule, RuleState, Unit
from gateway.core.refusals import dollars
from gateway.core.rulechanges import rule_differences
from gateway.core.teamchanges import revocations, team_differences

RESTART = "needs a restart, and a reload that changes it is refused whole"


def differences(old: Settings, new: Settings) -> list[Difference]:
    """All that `new` changes of `old`: teams first, then what is common to them, then how the gateway runs."""
    return [
        *team_differences(old, new),
        *rule_differences(ORGANIZATION, old.organization, new.organization),
        *_models(old, new),
        *_common(old, new),
        *_upstream(old, new),
        *_issuers(old.jwt_issuers, new.jwt_issuers),
        *_fixed(old, new),
    ]


def restart_needed(old: Settings, new: Settings) -> list[str]:
    """The sections that differ and that only a restart can change.

    The admin token and the store's password may be rotated: who asks for the token reads it anew each time, and new
    workers log in to the same store with the new password.
    """
    listen = replace(old.listen, admin_token=None) != replace(new.listen, admin_token=None)
    store = _without_login(old.store) != _without_login(new.store)
    return [name for name, differs in (("listen", listen), ("store", store)) if differs]


def _without_login(store: Store) -> tuple[Store, str | None]:
    """A store by its place alone: its URL without user and password."""
    if store.url is None:
        return store, None
    try:
        scheme, place, *rest = urlsplit(store.url.reveal())
    except ValueError:  # no URL at all: as it stands
        return replace(store, url=None), store.url.reveal()
    return replace(store, url=None), urlunsplit((scheme, place.rpartition("@")[2], *rest))


def _models(old: Settings, new: Settings) -> Iterator[Difference]:
    for alias, model in new.models.items():
        about = f"model {alias}"
        if alias not in old.models:
            yield Difference(about, "model", f"new model, goes up as {model.upstream_name}")
            yield from _prices(about, {}, model.prices)
            continue
        before = old.models[alias]
        yield from compared(about, zip(_MODEL, _model_texts(before), _model_texts(model), strict=True))
        yield from _prices(about, before.prices, model.prices)
    for alias in old.models.keys() - new.models.keys():
        yield Difference(f"model {alias}", "model", "model removed: requests for it are refused")
    yield from compared("requests without a model", [("get", old.default_model, new.default_model)])


_MODEL = (
    "upstream_name",
    "endpoints",
    "sizes",
    "qualities",
    "default_size",
    "default_quality",
    "max_n",
    "edits.quality",
    "edits.max_images",
    "parameters",
    "ignore",
)


def _model_texts(model: Model) -> tuple[str, ...]:
    return (
        model.upstream_name,
        listed(model.endpoints),
        ", ".join(model.sizes),
        ", ".join(model.qualities),
        model.default_size,
        model.default_quality,
        str(model.max_n),
        model.edit_quality,
        str(model.edit_max_images),
        listed(f"{name} ({kind})" for name, kind in model.parameters.items()),
        listed(model.ignore),
    )


def _prices(about: str, old: Mapping[tuple[str, str], int], new: Mapping[tuple[str, str], int]) -> Iterator[Difference]:
    for pair in {**old, **new}:
        texts = [f"${dollars(prices[pair])}" if pair in prices else "no price" for prices in (old, new)]
        yield from compared(about, [(f"price of {' '.join(pair)}", texts[0], texts[1])])


def _common(old: Settings, new: Settings) -> Iterator[Difference]:
    yield from compared("all teams", [("contact", old.contact, new.contact), ("timezone", old.zone, new.zone)])
    for about, before, after in (
        ("request_limits", old.limits, new.limits),
        ("idempotency", old.idempotency, new.idempotency),
    ):
        yield from _numbers(about, type(after).__slots__, before, after)


def _numbers(about: str, names: Iterable[str], old: object, new: object) -> Iterator[Difference]:
    texts = ((name, _measured(name, getattr(old, name)), _measured(name, getattr(new, name))) for name in names)
    yield from compared(about, texts)


def _measured(name: str, value: float) -> str:
    """A number of `request_limits`, `idempotency` or `upstream` with the unit that its name implies."""
    if name.endswith("_timeout") or name == "keep":
        return f"{value:g}s"
    if (name.endswith("_size") or name == "max_answer") and value % 1024 == 0:
        return f"{value // 1024}KB"
    return str(value)


def _upstream(old: Settings, new: Settings) -> Iterator[Difference]:
    before, after = old.upstream, new.upstream
    yield from _numbers("upstream", ("connect_timeout", "total_timeout"), before, after)
    yield from compared(
        "upstream",
        [("base_url", before.base_url, after.base_url), ("edit_framing", before.edit_framing, after.edit_framing)],
    )
    accounts = {account.name: account for account in before.accounts}
    kept = accounts.keys() & {account.name for account in after.accounts}
    for account in after.accounts:
        about, earlier = f"account {account.name}", accounts.pop(account.name, None)
        if earlier is None:
            yield Difference(about, "account", f"new account, at most {account.max_concurrent} requests in flight")
            continue
        yield from compared(about, [("max_concurrent", str(earlier.max_concurrent), str(account.max_concurrent))])
        if earlier.api_key != account.api_key:
            yield Difference(about, "api_key", "another api_key")
    for name in accounts:
        yield Difference(f"account {name}", "account", "account removed")
    order = [[a.name for a in one.accounts if a.name in kept] for one in (before, after)]
    if order[0] != order[1]:
        yield Difference("upstream", "accounts", "accounts in another order")


def _issuers(old: tuple[JwtIssuer, ...], new: tuple[JwtIssuer, ...]) -> Iterator[Difference]:
    earlier = {issuer.name: issuer for issuer in old}
    for issuer in new:
        about, before = f"jwt issuer {issuer.name}", earlier.pop(issuer.name, None)
        if before is None:
            yield Difference(about, "issuer", f"new: {issuer.issuer} may sign tokens for teams")
            continue
        names = ("issuer", "audience", "team_claim", "jwks_url", "jwks_file")
        yield from compared(about, ((n, none_or(getattr(before, n)), none_or(getattr(issuer, n))) for n in names))
        yield from compared(about, [("algorithms", ", ".join(before.algorithms), ", ".join(issuer.algorithms))])
        yield from revocations(about, "revoked_before", before.revoked_before, issuer.revoked_before)
        for name, noun in (("revoked_keys", "keys"), ("revoked_tokens", "tokens")):
            had, has = getattr(before, name), getattr(issuer, name)
            if has - had:
                yield Difference(about, name, f"{noun} revoked: {listed(has - had)}")
            if had - has:
                yield Difference(about, name, f"{noun} no longer revoked: {listed(had - has)}")
        for name in ("public_key", "secret"):
            if getattr(before, name) != getattr(issuer, name):
                yield Difference(about, name, f"another {name}")
    for name in earlier:
        yield Difference(f"jwt issuer {name}", "issuer", "removed: its tokens are refused")


def _fixed(old: Settings, new: Settings) -> Iterator[Difference]:
    """What belongs to a run of the gateway."""
    moved = _without_login(old.store)[1] != _without_login(new.store)[1]
    for about, before, after in (("listen", old.listen, new.listen), ("store", old.store, new.store)):
        for name in type(after).__slots__:
            earlier, now = getattr(before, name), getattr(after, name)
            if earlier == now:
                continue
            had, has = _place(earlier), _place(now)
            if name == "url":
                words = f"another url; {RESTART}" if moved else "another user or password, for workers that begin"
                yield Difference(about, name, words, restart=moved)
            elif name == "admin_token":
                yield Difference(about, name, "another admin_token")
            else:
                yield Difference(about, name, f"{name} {had} -> {has}; {RESTART}", had, has, restart=True)


def _place(value: object) -> str:
    match value:
        case (str() as host, int() as port):
            return f"{host}:{port}"
        case tuple():
            return ", ".join(map(_place, value)) or "none"
        case _:
            return none_or(value)


def told(found: Iterable[Difference], used: Mapping[Rule, RuleState] = MappingProxyType({})) -> list[str]:
    """One sentence each. used: how their rules stand, as far as that is known."""
    return [f"{each.about}: {each.words}{_so_far(used.get(each.rule)) if each.rule else ''}" for each in found]


def _so_far(state: RuleState | None) -> str:
    if state is None:
        return ""
    return f"; {f'${dollars(state.used)}' if state.rule.unit is Unit.USD else state.used} used"
