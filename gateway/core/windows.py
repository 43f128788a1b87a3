"""Calendar windows: where a day, a week or a month begins and ends in a time zone. Weeks begin on Monday.

A store has no time zones, so the gateway tells it the bounds of the present window and of the next; the store's
own clock then picks. All bounds are unix milliseconds; a window holds its start and not its end.
"""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from gateway.core.quota import Per


@dataclass(frozen=True, slots=True)
class Bounds:
    """[start, end) is the window that holds the asked-for moment, [end, following) the one after it; unix ms."""

    start: int
    end: int
    following: int


@dataclass(slots=True)
class Calendar:
    """Answers `bounds` and remembers the last answer for each (window, zone), for most requests share it."""

    _known: dict[tuple[Per, str], Bounds] = field(default_factory=dict)

    def bounds(self, per: Per, zone: str, now: int) -> Bounds:
        """The windows of kind `per` around `now` (unix ms) in IANA zone `zone`. per: day, week or month."""
        known = self._known.get((per, zone))
        if known is not None and known.start <= now < known.end:
            return known
        found = _bounds(per, ZoneInfo(zone), now)
        self._known[per, zone] = found
        return found


def _bounds(per: Per, zone: ZoneInfo, now: int) -> Bounds:
    first = _first_day(per, datetime.fromtimestamp(now / 1000, zone).date())
    second = _next_first_day(per, first)
    return Bounds(_midnight(first, zone), _midnight(second, zone), _midnight(_next_first_day(per, second), zone))


def _first_day(per: Per, day: date) -> date:
    match per:
        case Per.DAY:
            return day
        case Per.WEEK:
            return day - timedelta(days=day.weekday())
        case Per.MONTH:
            return day.replace(day=1)
        case _:
            raise ValueError(f"{per} is no calendar window")


def _next_first_day(per: Per, first: date) -> date:
    match per:
        case Per.DAY:
            return first + timedelta(days=1)
        case Per.WEEK:
            return first + timedelta(days=7)
        case _:
            return (first.replace(day=1) + timedelta(days=32)).replace(day=1)


def _midnight(day: date, zone: ZoneInfo) -> int:
    """The first moment of `day` in `zone`. Where a clock change skips midnight, it is the moment after the gap."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp() * 1000)
