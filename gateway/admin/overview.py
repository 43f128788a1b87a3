"""What the dashboard's first page says of all teams together, and what it asks somebody to look at."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.admin.bars import Bar, bar, level, tightest
from gateway.admin.figures import Member, Reading, whole
from gateway.core.catalog import Settings
from gateway.core.quota import ORGANIZATION, RuleState, Unit
from gateway.core.refusals import local_time, measured
from gateway.core.usage import Spent, entries, grouped
from gateway.core.windows import Calendar

MOST = 12  #: notices that are listed; how many more there are is said

_SOON = 14 * 86_400  # seconds: keys that end within them are told of, as clients are


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to look at. team: whose page says more, if it is a team's."""

    level: Literal["bad", "near"]
    words: str
    team: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A team, or a size and quality: its names, and what was charged."""

    names: tuple[str, ...]
    today: Spent
    month: Spent


@dataclass(frozen=True, slots=True)
class TeamLine:
    """bar: of the rule that is fullest, None without rules. suspended: why, or None."""

    member: Member
    today: Spent
    month: Spent
    bar: Bar | None
    suspended: str | None


def team_lines(reading: Reading, calendar: Calendar) -> list[TeamLine]:
    """Every team, the dearest of this month first. A team that has left the config is there while it has figures."""
    states = _by_scope(reading.states)
    lines = []
    for member in reading.members.values():
        usage = reading.usage[member.id]
        today, month = whole(usage["day"]), whole(usage["month"])
        if not member.known and not month.images:
            continue
        fullest = tightest(states[member.id])
        shown = bar(fullest, reading.at, calendar) if fullest is not None else None
        suspended = reading.settings.teams[member.id].suspended if member.known else None
        lines.append(TeamLine(member, today, month, shown, suspended))
    return sorted(lines, key=lambda line: (-line.month.usd, line.member.id))


def totals(reading: Reading, teams: Iterable[str] | None = None) -> Line:
    """These teams, or all: the present day and month of each."""
    tables = [reading.usage[team] for team in (reading.members if teams is None else teams)]
    return Line((), *(sum((whole(table[period]) for table in tables), Spent()) for period in ("day", "month")))


def by_labels(reading: Reading, labels: Sequence[str], teams: Iterable[str]) -> list[Line]:
    """What these teams were charged, told apart by these labels (core/usage.py)."""
    sums = {}
    chosen = list(teams)
    for period in ("day", "month"):
        found = (entry for team in chosen for entry in entries(reading.usage[team][period]))
        sums[period] = grouped(found, labels)
    names = sorted({*sums["day"], *sums["month"]})
    lines = [Line(name, *(sums[period].get(name, Spent()) for period in ("day", "month"))) for name in names]
    return [line for line in lines if line.month.images or line.today.images]


def bars(reading: Reading, scope: str, calendar: Calendar) -> list[Bar]:
    """The rules of a team or of the organization as they stand."""
    return [bar(state, reading.at, calendar) for state in reading.states if state.rule.scope == scope]


def notices_of_rules(reading: Reading) -> Iterator[Notice]:
    """Rules that refuse now or are near to it. A shadow rule refuses nobody; requests in flight come and go."""
    for wanted in ("full", "near"):
        for state in reading.states:
            rule = state.rule
            if rule.mode == "shadow" or rule.unit is Unit.CONCURRENT or level(state) != wanted:
                continue
            team = rule.scope if rule.scope != ORGANIZATION else None
            until = f", free again {local_time(state.resets_at, rule.zone)}" if state.resets_at is not None else ""
            words = f"{rule.scope}: {measured(rule.unit, state.used)} of {measured(rule.unit, state.limit)} used"
            yield Notice("bad" if wanted == "full" else "near", f"{words} (rule {rule.name}){until}", team)


def notices_of_config(problems: Sequence[str], workers: Mapping[str, int]) -> Iterator[Notice]:
    """workers: how many are on which version of the config."""
    if problems:
        yield Notice("bad", f"The config file as it stands now is not in force: {problems[0]}")
    if len(workers) > 1:
        yield Notice("bad", "Workers are on different versions of the config: " + ", ".join(sorted(workers)))


def notices_of_keys(settings: Settings, now: float) -> Iterator[Notice]:
    """Keys that end soon. One that has ended is told of for as long again: somebody may be looking for the reason."""
    for key in sorted(settings.keys.values(), key=lambda key: key.expires or 0.0):
        if key.expires is None or not now - _SOON < key.expires < now + _SOON:
            continue
        zone = settings.teams[key.team].zone
        ends = "has ended on" if key.expires <= now else "ends on"
        yield Notice("near", f"{key.team}: key {key.id} {ends} {local_time(key.expires, zone)}", key.team)


def _by_scope(states: Iterable[RuleState]) -> Mapping[str, list[RuleState]]:
    found: defaultdict[str, list[RuleState]] = defaultdict(list)
    for state in states:
        found[state.rule.scope].append(state)
    return found
