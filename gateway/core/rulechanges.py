"""What becomes of a list of rules: limits that move, counters that begin anew, plans that are replaced.

Two rules are the same one where counter and mode are: then what was used stays. The scope is left out, so that the
rules of a team that was renamed are set beside its old ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gateway.core.catalog import Team
from gateway.core.differences import Difference, compared
from gateway.core.quota import Grant, Per, Rule, Unit
from gateway.core.refusals import dollars, local_time, measured, number


def rule_differences(
    about: str, old: Sequence[Rule], new: Sequence[Rule], team: Team | None = None
) -> Iterator[Difference]:
    """All changes from one list to the other. team: whose rules `new` are; None for the organization's."""
    before, after = {_same(rule): rule for rule in old}, {_same(rule): rule for rule in new}
    gone = [rule for same, rule in before.items() if same not in after]
    for same, rule in after.items():
        earlier = before.get(same) or _predecessor(rule, gone)
        if earlier in gone:
            gone.remove(earlier)
        if earlier is None:
            words = f"new rule {rule.name}: {described(rule)}{_replaced(rule, team)}"
            yield Difference(about, "rule", words, after=rule.name, rule=rule)
            yield from _grants(about, rule, (), rule.grants)
        else:
            yield from _moved(about, earlier, rule, _replaced(rule, team))
    for rule in gone:
        words = f"rule {rule.name} is gone: {described(rule)}"
        yield Difference(about, "rule", words, before=rule.name, rule=rule)
    if old and not new and team is not None:
        yield Difference(about, "rule", "no rule of its own is left: unlimited")


def described(rule: Rule) -> str:
    """``40 images per day, hd only``."""
    span = {None: "", Per.TOTAL: " in total"}.get(rule.per, f" per {rule.per}")
    narrowed = [
        " or ".join(sorted(values))
        for values in (rule.models, rule.sizes, rule.qualities, rule.endpoints)
        if values is not None
    ]
    only = f", {' '.join(narrowed)} only" if narrowed else ""
    return f"{measured(rule.unit, rule.limit)}{span}{only}" + (", shadow" if rule.mode == "shadow" else "")


def _same(rule: Rule) -> tuple[str, str]:
    return _counted(rule), rule.mode


def _counted(rule: Rule) -> str:
    """The counter without the scope, which no two rules of a list differ in."""
    return rule.counter.partition("|")[2]


def _predecessor(rule: Rule, gone: Sequence[Rule]) -> Rule | None:
    """Of the rules that have gone the one that this one took over from: by its counter, else by its name."""
    by_counter = next((each for each in gone if _counted(each) == _counted(rule)), None)
    return by_counter or next((each for each in gone if each.name == rule.name), None)


def _moved(about: str, old: Rule, new: Rule, replaced: str) -> Iterator[Difference]:
    """One rule in both versions."""
    if _counted(old) != _counted(new):
        changes = [(described(old), described(new))] if described(old) != described(new) else []
        changes += [(f"calendar of {old.zone}", new.zone)] if old.zone != new.zone else []
        change = "; ".join(f"{before} -> {after}" for before, after in changes)
        words = f"{new.name}: {change}; counts from zero{replaced}"
        yield Difference(about, "rule", words, old.name, new.name, rule=old)
    elif old.mode != new.mode:
        effect = "refuses from now on" if new.mode == "enforce" else "counts and refuses no more"
        words = f"{new.name}: {old.mode} -> {new.mode}, {effect}"
        yield Difference(about, "mode", words, old.mode, new.mode, rule=new)
    if _counted(old) == _counted(new):
        if old.limit != new.limit:
            words = f"{new.name} {_amount(old)} -> {_amount(new)}{replaced}"
            numbers = (number(old.unit, old.limit), number(new.unit, new.limit))
            yield Difference(about, "limit", words, *numbers, rule=new)
        if old.name != new.name:
            words = f"rule {old.name} is now named {new.name}"
            yield Difference(about, "name", words, old.name, new.name, rule=new)
    yield from compared(
        about,
        [
            (f"{new.name} warn_at", _percents(old), _percents(new)),
            (f"{new.name} wait", f"{old.wait:g}s", f"{new.wait:g}s"),
        ],
    )
    yield from _grants(about, new, old.grants, new.grants)


def _amount(rule: Rule) -> str:
    return f"${dollars(rule.limit)}" if rule.unit is Unit.USD else str(rule.limit)


def _percents(rule: Rule) -> str:
    return ", ".join(f"{percent}%" for percent in rule.warn_at) or "none"


def _replaced(rule: Rule, team: Team | None) -> str:
    """That a team's own rule stands in a plan's place, which no grant does."""
    for planned in team.planned if team is not None else ():
        if _same(planned) == _same(rule) and replace(planned, grants=()) != replace(rule, grants=()):
            assert team is not None
            return f", replaces plan {team.plan}: {_amount(planned)}"
    return ""


def _grants(about: str, rule: Rule, old: Sequence[Grant], new: Sequence[Grant]) -> Iterator[Difference]:
    """Grants that came and went; of two that are alike one may have."""
    left = list(old)
    for grant in new:
        if grant in left:
            left.remove(grant)
        else:
            words = f"{rule.name}: a grant of {_granted(rule, grant)}"
            yield Difference(about, "grant", words, after=number(rule.unit, grant.amount), rule=rule)
    for grant in left:
        words = f"{rule.name}: no more grant of {_granted(rule, grant)}"
        yield Difference(about, "grant", words, before=number(rule.unit, grant.amount), rule=rule)


def _granted(rule: Rule, grant: Grant) -> str:
    until = "for ever" if grant.until is None else f"until {local_time(grant.until, rule.zone)}"
    return f"{measured(rule.unit, grant.amount)} {until}"
