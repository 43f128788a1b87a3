"""What would have to change for an order that was refused to pass, in words, for whoever administers the quotas.

A refusal is as `gateway.refused` keeps it: a table of plain values, which an older version may have written.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gateway.core.catalog import Settings, Team
from gateway.core.orders import permitted_models
from gateway.core.quota import MICRO, ORGANIZATION, Unit
from gateway.core.refusals import dollars, local_time, measured

Refusal = Mapping[str, Any]


def remedies(refusal: Refusal, settings: Settings) -> list[str]:
    """One sentence for each thing that stood in the way. settings: the config as it is now."""
    if rules := refusal.get("rules"):
        return [_of_rule(rule) for rule in rules]
    team = settings.teams.get(str(refusal.get("team")))
    # By its reason where that says more than its code: no key helps who sent a token.
    found = _BY_REASON.get(str(refusal.get("reason"))) or _BY_CODE.get(str(refusal.get("code")))
    if team is None or found is None:
        return ["The request itself: its answer said what was wrong with it, and nothing here would change that."]
    return [found(team, settings)]


def _of_rule(rule: Mapping[str, Any]) -> str:
    scale = MICRO if rule["unit"] == "usd" else 1
    asked, used, limit = (round(rule[name] * scale) for name in ("requested", "used", "limit"))
    unit, scope, name, resets = Unit(rule["unit"]), rule["scope"], rule["rule"], rule["resets_at"]

    if unit is Unit.CONCURRENT:
        whose = "all teams together" if scope == ORGANIZATION else f"team {scope}"
        return (
            f"Rule {name} lets it pass with fewer than {limit} requests of {whose} in flight, or with a higher limit."
        )
    lacking = used + asked - limit
    add = dollars(lacking) if unit is Unit.USD else str(lacking)
    extra = f"gateway quota grant --team {scope} --rule {name} --add {add} --until … --reason …"
    higher = f"with a limit of at least {measured(unit, used + asked)}, {add} more than then ({extra})"
    ways = []
    if limit > used and unit is not Unit.REQUESTS:
        ways.append(f"as an order of at most {measured(unit, limit - used)}")
    if resets is not None:
        smaller = f" as an order of at most {measured(unit, limit)}" if asked > limit else ""
        ways.append(f"from {resets} on{smaller}")
    return f"Rule {name} lets it pass {', or '.join([*ways, higher])}."


def _suspended(team: Team, settings: Settings) -> str:
    del settings
    if team.suspended is None:
        return f"Nothing any more: team {team.id} is not suspended now."
    return f"Team {team.id} is suspended ({team.suspended}): take `suspended` out of its part of the config."


def _models(team: Team, settings: Settings) -> str:
    return _allowed(team, "models", [model.alias for model in permitted_models(settings, team)])


def _unknown_model(team: Team, settings: Settings) -> str:
    del team
    return f"Another model, or an entry for it under `models`, which has: {_listed(settings.models)}."


def _list_of(kind: str) -> Callable[[Team, Settings], str]:
    def told(team: Team, settings: Settings) -> str:
        del settings
        allowed: Iterable[str] | None = getattr(team, kind)
        return _allowed(team, kind, sorted(allowed) if allowed is not None else None)

    return told


def _allowed(team: Team, kind: str, values: Sequence[str] | None) -> str:
    if values is None:
        return f"Nothing any more: the config lets team {team.id} use all {kind} now."
    return f"Another of the {kind} that team {team.id} may use ({_listed(values)}), or one more in its `{kind}`."


def _listed(values: Iterable[str]) -> str:
    return ", ".join(values) or "none"


def _key(team: Team, settings: Settings) -> str:
    del settings
    return f"A key that has not ended: gateway keys new --team {team.id} --id …"


def _token(team: Team, settings: Settings) -> str:
    del settings
    if team.tokens_revoked_before is None:
        return f"A new token: the config voids none of team {team.id} by its time any more."
    moment = local_time(team.tokens_revoked_before, team.zone)
    return f"A token that was issued after {moment}: all before it are void."


def _overloaded(team: Team, settings: Settings) -> str:
    del team
    inflight = settings.limits.max_inflight_per_worker
    accounts = ", ".join(f"{account.name} {account.max_concurrent}" for account in settings.upstream.accounts)
    return (
        "Fewer requests at once, or higher bounds: each worker holds "
        f"{inflight} (request_limits.max_inflight_per_worker), the accounts take {accounts} (max_concurrent)."
    )


_BY_CODE: Mapping[str, Callable[[Team, Settings], str]] = {
    "team_suspended": _suspended,
    "model_not_allowed": _models,
    "size_not_allowed": _list_of("sizes"),
    "quality_not_allowed": _list_of("qualities"),
    "endpoint_not_allowed": _list_of("endpoints"),
    "model_not_found": _unknown_model,
    "invalid_api_key": _key,
    "overloaded": _overloaded,
}

_BY_REASON: Mapping[str, Callable[[Team, Settings], str]] = {"token_revoked": _token}
