"""What counts, under which limit, until when: the counters of the reference model.

Times are unix ms. A calendar window is known here by its first local day alone, so nothing of gateway.core.windows
is needed to say when it begins or ends.
"""

import math
import operator
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import cache
from itertools import accumulate
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.core.quota import Charge, Per, Rule, Unit

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
SLIDING = {Per.MINUTE: MINUTE, Per.HOUR: HOUR}  # counted in sixtieths, each of which leaves with its last charge


class State(NamedTuple):
    """What is said of one rule. reset: when its window is empty again; fit: when a refused order would fit."""

    used: int
    limit: int
    reset: int | None
    fit: int | None
    refused: bool


def window(rule: Rule, now: int) -> date | int:
    """What a charge made now is booked under: the window's first day, or the number of the sixtieth."""
    if rule.per in SLIDING:
        return now // (SLIDING[rule.per] // 60)
    return first_day(rule.per, rule.zone, now)


def first_day(per: Per | None, zone: str, now: int) -> date:
    today = datetime.fromtimestamp(now / 1000, ZoneInfo(zone)).date()
    starts = {Per.DAY: today, Per.WEEK: today - timedelta(days=today.weekday()), Per.MONTH: today.replace(day=1)}
    return starts.get(per or Per.TOTAL, date.min)


@cache
def end_of(per: Per, zone: str, at: date) -> int:
    """The first moment at which what was taken at `at` counts no more."""
    before = int(datetime(at.year, at.month, at.day, tzinfo=UTC).timestamp()) * SECOND
    moments = range(before, before + 40 * 24 * HOUR)
    return moments[bisect_left(moments, 1, key=lambda moment: int(first_day(per, zone, moment) > at))]


class Place(NamedTuple):
    """Where a charge is booked: the window or the sixtieth, and how often the counter had been corrected."""

    at: date | float
    corrections: int


def _had_part(at: date | float, correction: date | float) -> bool:
    """Whether what was booked there was still in the window when that was corrected."""
    if isinstance(at, date) or isinstance(correction, date):
        return at == correction
    return at > int(correction) - 60


class Counters:
    def __init__(self, now: int) -> None:
        self.now = now
        self.granted: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)  # (counter, mode): amount, until
        self._kept: dict[str, dict[date | float, int]] = defaultdict(dict)  # charged since the last correction
        self._left: dict[str, dict[date | float, int]] = defaultdict(dict)  # of what that said is used
        self._corrections: dict[str, list[date | float]] = defaultdict(list)
        self._holders: dict[str, set[str]] = defaultdict(set)
        self._last: dict[tuple[str, date | float], int] = {}  # when it was charged last there

    def take(self, rule: Rule, amount: int) -> Place:
        """Charge it; what it was charged to. What has left the window is forgotten with that."""
        at = self._present(rule)
        kept, left = self._live(rule, self._kept), self._live(rule, self._left)
        before = self._last[rule.counter, at] if at in kept else self.now
        self._last[rule.counter, at] = max(before, self.now)
        self._kept[rule.counter], self._left[rule.counter] = kept | {at: kept.get(at, 0) + amount}, left
        return Place(at, len(self._corrections[rule.counter]))

    def correct(self, rule: Rule, amount: int) -> None:
        """From now on that is used. In a sliding window it stands between two sixtieths, where nothing is charged."""
        at: date | float = self._present(rule)
        earlier = self._corrections[rule.counter]
        if not isinstance(at, date):
            last = max((name for name in earlier if not isinstance(name, date)), default=0.0)
            at = max(at + 0.5, last + 2**-10)
        earlier.append(at)
        self._kept[rule.counter], self._left[rule.counter] = {}, {at: amount}

    def give_back(self, rule: Rule, place: Place, amount: int) -> None:
        """Into the window it was taken from; where the counter has moved on there is nothing to give back to.

        What was taken before a correction comes out of what that left, if it had a part in it.
        """
        corrections = self._corrections[rule.counter]
        if place.corrections == len(corrections):
            if place.at in self._kept[rule.counter]:
                self._kept[rule.counter][place.at] -= max(0, amount)
            return
        at, left = corrections[-1], self._left[rule.counter]
        if at in left and _had_part(place.at, at):
            left[at] = max(0, left[at] - max(0, amount))

    def _present(self, rule: Rule) -> date | int:
        live = [at for at in self.live(rule) if isinstance(at, date)]
        return max(live) if live else window(rule, self.now)  # only forward

    def hold(self, counter: str, rid: str) -> None:
        self._holders[counter].add(rid)

    def free(self, counter: str, rid: str) -> None:
        self._holders[counter].discard(rid)

    def is_over(self, charge: Charge) -> bool:
        return self.used(charge.rule) + charge.amount > self.limit(charge.rule)

    def live(self, rule: Rule) -> dict[date | float, int]:
        """What still counts on the rule's counter. A clock that went back opens no earlier window again."""
        kept, left = self._live(rule, self._kept), self._live(rule, self._left)
        return kept | {at: amount + kept.get(at, 0) for at, amount in left.items()}

    def _live(self, rule: Rule, table: Mapping[str, dict[date | float, int]]) -> dict[date | float, int]:
        kept, now = table[rule.counter], window(rule, self.now)
        if isinstance(now, int):
            return {at: amount for at, amount in kept.items() if self._leaves(rule, at) > self.now}
        return {at: amount for at, amount in kept.items() if str(at) >= str(now)}

    def _leaves(self, rule: Rule, at: date | float) -> int:
        """The first moment at which nothing of a sixtieth counts: a window's length behind its last charge's
        millisecond, to the next 1024th of it. A correction counts as if it were its sixtieth's last.
        """
        assert not isinstance(at, date), "a day does not slide"
        length = SLIDING[rule.per or Per.TOTAL]
        begin = int(at) * (length // 60)
        passed = self._last[rule.counter, at] + 1 - begin if at == int(at) else length // 60
        return length + begin + math.ceil(Fraction(math.ceil(Fraction(passed * 1024 * 60, length)) * length, 1024 * 60))

    def used(self, rule: Rule) -> int:
        return len(self._holders[rule.counter]) if rule.unit is Unit.CONCURRENT else sum(self.live(rule).values())

    def limit(self, rule: Rule) -> int:
        running = (g.amount for g in rule.grants if g.until is None or self.now < g.until * 1000)
        granted = (amount for amount, until in self.granted[rule.counter, rule.mode] if self.now < until)
        return rule.limit + sum(running) + sum(granted)

    def state(self, charge: Charge, *, refused: bool) -> State:
        rule, limit, used = charge.rule, self.limit(charge.rule), self.used(charge.rule)
        reset = fit = None
        if rule.per in SLIDING:
            live = sorted((at, amount) for at, amount in self.live(rule).items() if not isinstance(at, date))
            reset = max((self._leaves(rule, at) for at, amount in live if amount), default=None)
            left = accumulate((amount for _, amount in live), operator.sub, initial=used)
            fits = (at for (at, _), rest in zip(live, list(left)[1:], strict=True) if rest + charge.amount <= limit)
            fit = next((self._leaves(rule, at) for at in fits), None)
        elif rule.per not in (None, Per.TOTAL):
            reset = fit = end_of(rule.per, rule.zone, max(self.live(rule), default=window(rule, self.now)))
        return State(used, limit, reset, fit if refused and charge.amount <= limit else None, refused)
