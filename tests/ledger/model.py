"""The quota engine as a page of Python: what the Lua scripts promise, said once more and plainly.

It is neither fast nor shared; tests run it beside the real scripts and compare every answer and all that is kept.
Times are unix ms. A calendar window is known here by its first local day alone, so nothing of gateway.core.windows
is needed to say when it begins or ends. Refunds, leases, presumptions: contract 5.
"""

import operator
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import accumulate
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.core.quota import Charge, Per, Rule, Unit
from gateway.core.settlement import Settlement
from gateway.ledger.base import Booking

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
LEASE, AWAY, GRACE = 30 * SECOND, 10 * SECOND, 30 * SECOND
KEEP, KEEP_PRESUMED = HOUR, 24 * HOUR
SLIDING = {Per.MINUTE: MINUTE, Per.HOUR: HOUR}  # counted in sixtieths, of which the oldest counts whole
LIVE = ("admitted", "reserved")


class State(NamedTuple):
    """What is said of one rule. reset: when its window is empty again; fit: when a refused order would fit."""

    used: int
    limit: int
    reset: int | None
    fit: int | None
    refused: bool


class Answer(NamedTuple):
    """1 done, 0 refused, 2 done before, -2 this id has ended."""

    status: int
    states: tuple[State, ...] = ()


class Taken(NamedTuple):
    rule: Rule
    at: date | int  # the window or the sixtieth it was taken from
    amount: int


@dataclass
class Reservation:
    state: str
    team: str = ""
    slots: set[str] = field(default_factory=set)
    taken: list[Taken] = field(default_factory=list)
    booking: Booking | None = None
    periods: tuple[str, ...] = ()
    lease: int | None = None  # when its slots fall free
    due: int | None = None  # when its charge is presumed, or an admission forgotten
    forget: int | None = None


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
def end_of(per: Per, zone: str, at: date | int) -> int:
    """The first moment at which what was taken at `at` counts no more."""
    if isinstance(at, int):
        return (at + 61) * (SLIDING[per] // 60)
    before = int(datetime(at.year, at.month, at.day, tzinfo=UTC).timestamp()) * SECOND
    moments = range(before, before + 40 * 24 * HOUR)
    return moments[bisect_left(moments, 1, key=lambda moment: int(first_day(per, zone, moment) > at))]


class Model:
    def __init__(self, *, now: int, deadline: int, patience: int) -> None:
        self.now, self.deadline, self.patience = now, deadline, patience
        self.counters: dict[str, dict[date | int, int]] = defaultdict(dict)
        self.holders: dict[str, set[str]] = defaultdict(set)
        self.reservations: dict[str, Reservation] = {}
        self.usage: dict[tuple[str, str], int] = defaultdict(int)
        self.last, self.grace = now, 0

    def admit(self, rid: str, team: str, charges: Sequence[Charge], orders: Sequence[Sequence[int]]) -> Answer:
        """Take the slots; look, without charging, whether one of the orders fits."""
        self._end_leases()
        known = self.reservations.get(rid)
        if known and known.state not in LIVE:
            return Answer(-2)
        refused = [not (known and _is_slot(charge)) and self._is_over(charge) for charge in charges]
        binding = [over and charge.rule.mode == "enforce" for over, charge in zip(refused, charges, strict=True)]
        if known:
            return self._answer(2, charges, refused)
        slots_fit = not any(bound and _is_slot(charge) for bound, charge in zip(binding, charges, strict=True))
        if not slots_fit or not any(all(not binding[i] for i in order) for order in orders or [[]]):
            return self._answer(0, charges, refused)
        self.reservations[rid] = Reservation("admitted", team, due=self.now + self.patience)
        self._take_slots(rid, charges)
        return self._answer(1, charges, refused)

    def reserve(self, rid: str, charges: Sequence[Charge], booking: Booking) -> Answer:
        """Take all or nothing. Two rules on one counter charge it once."""
        self._end_leases()
        known = self.reservations.get(rid)
        if known and known.state not in LIVE:
            return Answer(-2)
        again, held = known is not None and known.state == "reserved", known.slots if known else set()
        refused = [not again and charge.rule.counter not in held and self._is_over(charge) for charge in charges]
        if again:
            return self._answer(2, charges, refused)
        if any(over and charge.rule.mode == "enforce" for over, charge in zip(refused, charges, strict=True)):
            return self._answer(0, charges, refused)
        mine = self.reservations.setdefault(rid, Reservation("reserved"))
        day = datetime.fromtimestamp(self.now / 1000, ZoneInfo(booking.zone)).date().isoformat()
        mine.state, mine.team, mine.booking, mine.due = "reserved", booking.team, booking, self.now + self.deadline
        mine.periods = (f"{booking.team}:{day}", f"{booking.team}:{day[:7]}")
        self._take_slots(rid, charges)
        for rule, amount in {c.rule.counter: (c.rule, c.amount) for c in charges if not _is_slot(c)}.values():
            kept = self.live(rule)
            at = max(kept) if kept and rule.per not in SLIDING else window(rule, self.now)  # only forward
            self.counters[rule.counter] = kept | {at: kept.get(at, 0) + amount}
            mine.taken.append(Taken(rule, at, amount))
        return self._answer(1, charges, refused)

    def settle(self, rid: str, end: Settlement) -> tuple[int, str]:
        """End it once; a definite end replaces a presumption, once. A refund of the unknown forbids it for later."""
        mine = self.reservations.get(rid)
        if mine is None:
            if end.end == "refunded":
                self.reservations[rid] = Reservation("refunded", forget=self.now + KEEP)
            return -1, ""
        before = mine.state
        if before in ("committed", "refunded") or before == end.end == "presumed":
            return 0, before
        self._free(rid)
        if before == "presumed":
            self._book(mine, "unknown", None, -1)
        final = {Unit.IMAGES: end.images, Unit.USD: end.cost, Unit.REQUESTS: end.requests}
        for rule, at, amount in mine.taken:
            if at in self.counters[rule.counter]:  # else the window has moved on: there is nothing to give back to
                self.counters[rule.counter][at] -= max(0, amount - final[rule.unit])
        mine.state, mine.due = end.end.value, None
        mine.forget = self.now + (KEEP_PRESUMED if end.end == "presumed" else KEEP)
        if end.end != "refunded":
            self._book(mine, "unknown" if end.end == "presumed" else "delivered", end, 1)
        return 1, before

    def beat(self, renew: Sequence[str]) -> list[tuple[str, int, int]]:
        """Renew leases, presume what is overdue (told as team, images, cost), forget what is old."""
        for rid in renew:
            if rid in self.reservations and self.reservations[rid].lease is not None:
                self.reservations[rid].lease = self.now + LEASE
        self._end_leases()
        presumed = []
        for rid, mine in sorted(self.reservations.items(), key=lambda item: (item[1].due or 0, item[0])):
            if mine.due is not None and mine.due <= self.now:
                self._free(rid)
                mine.due = None
                if mine.state == "admitted":
                    del self.reservations[rid]
                elif mine.booking:
                    mine.state, mine.forget = "presumed", self.now + KEEP_PRESUMED
                    self._book(mine, "unknown", None, 1)
                    presumed.append((mine.team, mine.booking.images, mine.booking.cost))
        for rid, mine in list(self.reservations.items()):
            if mine.forget is not None and mine.forget <= self.now:
                del self.reservations[rid]
        return presumed

    def live(self, rule: Rule) -> dict[date | int, int]:
        """What still counts on the rule's counter. A clock that went back opens no earlier window again."""
        kept, now = self.counters[rule.counter], window(rule, self.now)
        if isinstance(now, int):
            return {at: amount for at, amount in kept.items() if isinstance(at, int) and at >= now - 60}
        return {at: amount for at, amount in kept.items() if str(at) >= str(now)}

    def used(self, rule: Rule) -> int:
        return len(self.holders[rule.counter]) if rule.unit is Unit.CONCURRENT else sum(self.live(rule).values())

    def limit(self, rule: Rule) -> int:
        running = (g.amount for g in rule.grants if g.until is None or self.now < g.until * 1000)
        return rule.limit + sum(running)

    def state(self, charge: Charge, *, refused: bool) -> State:
        rule, limit, used = charge.rule, self.limit(charge.rule), self.used(charge.rule)
        reset = fit = None
        if rule.per in SLIDING:
            live = sorted(self.live(rule).items())
            reset = max((end_of(rule.per, "", at) for at, amount in live if amount), default=None)
            left = accumulate((amount for _, amount in live), operator.sub, initial=used)
            fits = (at for (at, _), rest in zip(live, list(left)[1:], strict=True) if rest + charge.amount <= limit)
            fit = next((end_of(rule.per, "", at) for at in fits), None)
        elif rule.per not in (None, Per.TOTAL):
            reset = fit = end_of(rule.per, rule.zone, max(self.live(rule), default=window(rule, self.now)))
        return State(used, limit, reset, fit if refused and charge.amount <= limit else None, refused)

    def _answer(self, status: int, charges: Sequence[Charge], refused: Sequence[bool]) -> Answer:
        both = zip(charges, refused, strict=True)
        return Answer(status, tuple(self.state(charge, refused=over) for charge, over in both))

    def _is_over(self, charge: Charge) -> bool:
        return self.used(charge.rule) + charge.amount > self.limit(charge.rule)

    def _take_slots(self, rid: str, charges: Sequence[Charge]) -> None:
        mine = self.reservations[rid]
        mine.slots |= {charge.rule.counter for charge in charges if _is_slot(charge)}
        for counter in mine.slots:
            self.holders[counter].add(rid)
        if mine.slots:
            mine.lease = self.now + LEASE

    def _free(self, rid: str) -> None:
        mine = self.reservations[rid]
        for counter in mine.slots:
            self.holders[counter].discard(rid)
        mine.slots, mine.lease = set(), None

    def _end_leases(self) -> None:
        """A store that was away longer than AWAY missed the renewals too: for GRACE no lease ends."""
        if self.now - self.last > AWAY:
            self.grace = self.now + GRACE
        self.last = self.now
        for rid, mine in self.reservations.items():
            if self.grace <= self.now and mine.lease is not None and mine.lease <= self.now:
                self._free(rid)

    def _book(self, mine: Reservation, kind: str, end: Settlement | None, sign: int) -> None:
        if (b := mine.booking) is None:
            return
        labels = f"{b.key}|{b.account}|{b.model}|{b.size}|{b.quality}|{b.endpoint}|{kind}"
        for period in mine.periods:
            self.usage[period, f"{labels}|images"] += sign * (end or b).images
            self.usage[period, f"{labels}|usd"] += sign * (end or b).cost


def _is_slot(charge: Charge) -> bool:
    return charge.rule.unit is Unit.CONCURRENT
