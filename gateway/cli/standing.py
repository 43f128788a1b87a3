"""How quotas stand, for `gateway quota show`: as JSON, as tables on a terminal, as plain lines in a pipe."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from gateway.cli.tables import print_table

if TYPE_CHECKING:
    from gateway.core.catalog import Settings
    from gateway.core.quota import Rule, RuleState
    from gateway.ledger.administration import Change, Granted


class Standing(NamedTuple):
    """now: the store's clock, unix seconds."""

    states: "list[RuleState]"
    grants: "list[Granted]"
    changes: "list[Change]"
    now: float


class Running(NamedTuple):
    """A grant that runs. by: who, or that it stands in the config."""

    amount: int
    until: float | None
    by: str
    reason: str


def zone_of(settings: "Settings", team: str) -> str:
    return settings.teams[team].zone if team in settings.teams else settings.zone


def json_of(standing: Standing, settings: "Settings") -> dict[str, object]:
    from gateway.core.refusals import iso, number, rule_facts
    from gateway.ledger.administration import told

    rules = []
    for state in standing.states:
        facts = {"team": state.rule.scope, **rule_facts(state)}
        del facts["scope"]
        facts["warnings"] = [{"threshold": f"{p}%", "passed": state.has_passed(p)} for p in state.rule.warn_at]
        facts["grants"] = [
            {
                "add": number(state.rule.unit, grant.amount),
                "until": iso(grant.until, state.rule.zone),
                "by": grant.by,
                "reason": grant.reason,
            }
            for grant in _running(standing, state.rule)
        ]
        rules.append(facts)
    changes = [{"act": c.act, **told(c, zone_of(settings, c.team))} for c in standing.changes]
    return {"rules": rules, "changes": changes}


def _running(standing: Standing, rule: "Rule") -> list[Running]:
    own = [Running(g.amount, g.until, "config", "") for g in rule.grants if g.until is None or standing.now < g.until]
    return own + [Running(g.amount, g.until, g.by, g.reason) for g in standing.grants if g.rule is rule]


def print_tables(standing: Standing, settings: "Settings") -> None:
    from gateway.core.refusals import local_time, measured

    rows = []
    for state in standing.states:
        rule = state.rule
        amount = _plain(rule)
        resets = local_time(state.resets_at, rule.zone) if state.resets_at is not None else "-"
        passed = " ".join(f"{percent}%" for percent in rule.warn_at if state.has_passed(percent)) or "-"
        numbers = [amount(state.limit), amount(state.used), amount(state.remaining)]
        rows.append([rule.scope, rule.name, rule.unit.value, rule.per or "now", rule.mode, *numbers, resets, passed])
    print_table("team,rule,unit,per,mode,limit,used,remaining,resets,warnings", rows)
    grants = [
        [
            state.rule.scope,
            state.rule.name,
            f"+{_plain(state.rule)(grant.amount)}",
            local_time(grant.until, state.rule.zone) if grant.until is not None else "for ever",
            grant.by,
            grant.reason,
        ]
        for state in standing.states
        for grant in _running(standing, state.rule)
    ]
    print_table("team,rule,grant,until,by,reason", grants)
    changes = [
        [
            c.team,
            c.rule,
            c.act,
            measured(c.unit, c.before),
            measured(c.unit, c.after),
            local_time(c.at // 1, zone_of(settings, c.team)),
            c.by,
            c.reason,
        ]
        for c in standing.changes
    ]
    print_table("team,rule,change,before,after,at,by,reason", changes)


def _plain(rule: "Rule") -> Callable[[int], str]:
    from gateway.core.quota import Unit
    from gateway.core.refusals import dollars

    return dollars if rule.unit is Unit.USD else str
