"""What the store says, read once for all who look: a wall of screens costs it no more than one of them."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from gateway.core.catalog import Settings
from gateway.core.quota import RuleState
from gateway.core.usage import Spent, entries
from gateway.parts import Parts

FRESH = 2.0  #: seconds for which a reading serves whoever else asks
DAYS = 30  #: days that are drawn, today included

_OPEN = 2  # days before today that may still change: a definite outcome may come 24 hours after a presumption
_OPEN_FRESH = 60.0  # seconds for which what is known of them will do
_AT_ONCE = 100  # tables that are read in one write, so that no decision waits long for them


@dataclass(frozen=True, slots=True)
class Member:
    """A team that has figures. known: whether the config still has it; its days are those of `zone`."""

    id: str
    zone: str
    known: bool = True


@dataclass(frozen=True, slots=True)
class Reading:
    """All rules and the present day and month of every team, of one moment: `at`, unix seconds of the store's clock.

    usage: team -> "day" and "month" -> usage field -> number (core/usage.py).
    """

    settings: Settings
    at: float
    states: Sequence[RuleState]
    members: Mapping[str, Member]
    usage: Mapping[str, Mapping[str, Mapping[str, int]]]


class Figures:
    """One worker's. Both calls raise StoreUnavailable."""

    def __init__(self, parts: Parts, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self._settings, self._clock = parts.ledger, parts.settings, clock
        self._reading: Reading | None = None
        self._read_at = 0.0
        self._days: dict[tuple[str, date], tuple[float, Spent]] = {}  # of a team: when it was read, what it came to
        self._lost: int | None = None
        self._one = asyncio.Lock()  # whoever comes meanwhile gets the same reading

    async def reading(self) -> Reading:
        async with self._one:
            settings, last = self._settings(), self._reading
            if last is None or last.settings is not settings or self._clock() - self._read_at > FRESH:
                last = self._reading = await self._read(settings)
                self._read_at = self._clock()
            return last

    async def _read(self, settings: Settings) -> Reading:
        rules = [*(rule for team in settings.teams.values() for rule in team.rules), *settings.organization]
        states = await self._ledger.states(rules)  # first: it is refused at once where the store is known to be away
        gone = [team for team in await self._ledger.booked_teams() if team not in settings.teams]
        members = [Member(team.id, team.zone) for team in settings.teams.values()]
        members += [Member(team, settings.zone, known=False) for team in gone]
        usage = await self._ledger.usage([(member.id, member.zone) for member in members])
        return Reading(settings, self._ledger.now(), states, {member.id: member for member in members}, usage)

    async def days(self, reading: Reading, teams: Sequence[str]) -> dict[date, Spent]:
        """What these teams were charged on each of the last days, by their own calendars, the oldest first."""
        zones = {reading.members[team].zone for team in teams}
        calendars = {zone: _last_days(reading.at, zone) for zone in zones}
        spans = {team: calendars[reading.members[team].zone] for team in teams}
        async with self._one:
            if len(self._days) > 2 * DAYS * len(reading.members):  # days that nobody asks for any more
                self._days = {}
            await self._fetch(spans)
            known = self._days
        return await asyncio.to_thread(_summed, spans, known, reading)

    async def _fetch(self, spans: Mapping[str, Sequence[date]]) -> None:
        """Have the days before today; those that are open are read anew now and then, the others once."""
        if self._lost != self._ledger.lost:  # what is kept here is of a history that the store no longer has
            self._days, self._lost = {}, self._ledger.lost
        now, days = self._clock(), self._days
        missing = [
            (team, day)
            for team, span in spans.items()
            for closed, past in ((True, span[: -1 - _OPEN]), (False, span[-1 - _OPEN : -1]))
            for day in past
            if (team, day) not in days or not (closed or now - days[team, day][0] <= _OPEN_FRESH)
        ]
        for i in range(0, len(missing), _AT_ONCE):
            some = missing[i : i + _AT_ONCE]
            tables = await self._ledger.booked([f"{team}:{day}" for team, day in some])
            days.update({name: (now, whole(table)) for name, table in zip(some, tables, strict=True)})


def _summed(
    spans: Mapping[str, Sequence[date]], known: Mapping[tuple[str, date], tuple[float, Spent]], reading: Reading
) -> dict[date, Spent]:
    """All teams' days, by date. Of five hundred teams it takes a while: not for the event loop."""
    totals: dict[date, Spent] = {}
    for team, days in spans.items():
        for day in days[:-1]:
            totals[day] = totals.get(day, Spent()) + known[team, day][1]
        totals[days[-1]] = totals.get(days[-1], Spent()) + whole(reading.usage[team]["day"])
    return dict(sorted(totals.items()))


def whole(table: Mapping[str, int]) -> Spent:
    """A usage table's sum."""
    return sum((spent for _, spent in entries(table)), Spent())


def _last_days(at: float, zone: str) -> list[date]:
    today = datetime.fromtimestamp(at, ZoneInfo(zone)).date()
    return [today - timedelta(days=age) for age in reversed(range(DAYS))]
