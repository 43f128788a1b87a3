"""The quota engine as a page of Python: what the Lua scripts promise, said once more and plainly.

It is neither fast nor shared; tests run it beside the real scripts and compare every answer and all that is kept.
Times are unix ms. Refunds, leases, presumptions: contract 5.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.core.quota import Charge, Rule, Unit
from gateway.core.settlement import Settlement
from gateway.ledger.base import Booking
from tests.ledger.counters import HOUR, SECOND, SLIDING, Counters, Place, State

LEASE, AWAY, GRACE = 30 * SECOND, 10 * SECOND, 30 * SECOND
KEEP, KEEP_PRESUMED = HOUR, 24 * HOUR
REPEATED = 60 * SECOND
LIVE = ("admitted", "reserved")


class Answer(NamedTuple):
    """1 done, 0 refused, 2 done before, -2 this id has ended, -5 the answer to this order was cut off.

    passed: (place of a rule, threshold) to be told of. cut: ms for which the order is not made again, whose it was.
    """

    status: int
    states: tuple[State, ...] = ()
    passed: tuple[tuple[int, int], ...] = ()
    cut: tuple[int, str] | None = None


class Taken(NamedTuple):
    rule: Rule
    place: Place
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


class Model:
    def __init__(self, *, now: int, deadline: int, patience: int) -> None:
        self.counters, self.deadline, self.patience = Counters(now), deadline, patience
        self.reservations: dict[str, Reservation] = {}
        self.usage: dict[tuple[str, str], int] = defaultdict(int)
        self.last: int | None = None  # nobody has called yet
        self.grace = 0
        self.told: dict[tuple[str, str, int], tuple[date | int, int, str]] = {}
        self.commands: set[str] = set()
        self.cut: dict[str, tuple[str, int]] = {}

    @property
    def now(self) -> int:
        return self.counters.now

    @property
    def just_back(self) -> bool:
        """Whether no lease ends yet after the store was away. A grace further ahead is of a clock set right since."""
        return self.now < self.grace <= self.now + GRACE

    def admit(self, rid: str, team: str, charges: Sequence[Charge], orders: Sequence[Sequence[int]]) -> Answer:
        """Take the slots; look, without charging, whether one of the orders fits."""
        self._end_leases()
        known = self.reservations.get(rid)
        if known and known.state not in LIVE:
            return Answer(-2)
        refused = [not (known and _is_slot(charge)) and self.counters.is_over(charge) for charge in charges]
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
        refused = [
            not again and charge.rule.counter not in held and self.counters.is_over(charge) for charge in charges
        ]
        if again:
            return self._answer(2, charges, refused)._replace(passed=tuple(self._passed(charges, rid, again=True)))
        whose, until = self.cut.get(booking.repeated() if booking.repeated else "", ("", 0))
        if self.now < until <= self.now + REPEATED:
            return Answer(-5, cut=(until - self.now, whose))
        if any(over and charge.rule.mode == "enforce" for over, charge in zip(refused, charges, strict=True)):
            return self._answer(0, charges, refused)
        mine = self.reservations.setdefault(rid, Reservation("reserved"))
        day = datetime.fromtimestamp(self.now / 1000, ZoneInfo(booking.zone)).date().isoformat()
        mine.state, mine.team, mine.booking, mine.due = "reserved", booking.team, booking, self.now + self.deadline
        mine.periods = (f"{booking.team}:{day}", f"{booking.team}:{day[:7]}")
        self._take_slots(rid, charges)
        for rule, amount in {c.rule.counter: (c.rule, c.amount) for c in charges if not _is_slot(c)}.values():
            mine.taken.append(Taken(rule, self.counters.take(rule, amount), amount))
        return self._answer(1, charges, refused)._replace(passed=tuple(self._passed(charges, rid)))

    def settle(self, rid: str, end: Settlement) -> tuple[int, str]:
        """End it once; a definite end replaces a presumption, once. A refund of the unknown forbids it for later."""
        if end.cut:
            self.cut[end.cut] = rid, self.now + REPEATED
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
        for rule, place, amount in mine.taken:
            self.counters.give_back(rule, place, amount - final[rule.unit])
        mine.state, mine.due = end.end.value, None
        mine.forget = self.now + (KEEP_PRESUMED if end.end == "presumed" else KEEP)
        if end.end != "refunded":
            self._book(mine, "unknown" if end.end == "presumed" else "delivered", end, 1)
        return 1, before

    def beat(self, renew: Sequence[str]) -> list[tuple[str, int, int]]:
        """Renew leases, presume what is overdue (told as team, images, cost), forget what is old.

        In the grace after an outage nothing is presumed: the ends of that time are still being delivered.
        """
        for rid in renew:
            if rid in self.reservations and self.reservations[rid].lease is not None:
                self.reservations[rid].lease = self.now + LEASE
        self._end_leases()
        presumed = []
        for rid, mine in sorted(self.reservations.items(), key=lambda item: (item[1].due or 0, item[0])):
            if not self.just_back and mine.due is not None and mine.due <= self.now:
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

    def grant(self, id_: str, rule: Rule, amount: int, until: int) -> int:
        """The difference that this id made, now or before. It is the rule's own, whatever it is called."""
        if id_ not in self.commands:
            self.counters.granted[rule.counter, rule.mode].append((amount, until))
            self.commands.add(id_)
        return amount

    def reset(self, id_: str, rule: Rule, used: int) -> None:
        if id_ not in self.commands:
            self.counters.correct(rule, used)
            self.commands.add(id_)

    def _passed(self, charges: Sequence[Charge], rid: str, *, again: bool = False) -> Iterator[tuple[int, int]]:
        """Thresholds that this charge is the first in their window to find passed, or passed at a new height.

        again: those that this reservation was told of before.
        """
        for number, rule in enumerate(charge.rule for charge in charges):
            used, limit = self.counters.used(rule), self.counters.limit(rule)
            present: date | int = self.now
            span = SLIDING.get(rule.per, HOUR) if rule.per else HOUR
            if rule.unit is not Unit.CONCURRENT and rule.per not in SLIDING:
                present = max((at for at in self.counters.live(rule) if isinstance(at, date)), default=self.now)
            for percent in rule.warn_at:
                level = -(-limit * percent // 100)
                key = (rule.counter, rule.mode, percent)
                window, height, whom = self.told.get(key, (None, 0, ""))
                if isinstance(window, date):
                    told = window == present and height >= level
                else:
                    told = window is not None and self.now - window < span and height >= level
                if 0 < used >= level and again and whom == rid:
                    yield number, percent
                if 0 < used >= level and not again and not told:
                    self.told[key] = present, level, rid
                    yield number, percent

    def _answer(self, status: int, charges: Sequence[Charge], refused: Sequence[bool]) -> Answer:
        both = zip(charges, refused, strict=True)
        return Answer(status, tuple(self.counters.state(charge, refused=over) for charge, over in both))

    def _take_slots(self, rid: str, charges: Sequence[Charge]) -> None:
        mine = self.reservations[rid]
        mine.slots |= {charge.rule.counter for charge in charges if _is_slot(charge)}
        for counter in mine.slots:
            self.counters.hold(counter, rid)
        if mine.slots:
            mine.lease = self.now + LEASE

    def _free(self, rid: str) -> None:
        mine = self.reservations[rid]
        for counter in mine.slots:
            self.counters.free(counter, rid)
        mine.slots, mine.lease = set(), None

    def _end_leases(self) -> None:
        """A store that was away longer than AWAY missed the renewals too: for GRACE no lease ends."""
        if self.last is not None and self.now - self.last > AWAY:
            self.grace = self.now + GRACE
        self.last = self.now
        for rid, mine in self.reservations.items():
            if not self.just_back and mine.lease is not None and mine.lease <= self.now:
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
