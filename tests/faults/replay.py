"""The ledger's history, gone through write by write: what each reservation took, gave back and came to.

I1  no limit is passed at any moment, by what the reservations took; of a sliding window's oldest slice all counts that
    was charged no earlier in it than this charge in its own
I2  a reservation is taken once and ends exactly once; a presumption may be replaced, once
I4  a counter is the sum of what was taken and not given back, after every write and at the end; so is the usage
I7  nobody holds a slot at the end
"""

import math
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Mapping

from tests.faults.history import Charge, History, Record, Step, Violation

ENDS = {"committed", "refunded", "presumed"}

#: What may follow a state that is written anew: the same one again only where slots alone are given up.
AFTER = {
    "": {"admitted", "reserved", "refunded"},
    "admitted": {"admitted", "reserved", "refunded"},
    "reserved": {"reserved", "committed", "refunded", "presumed"},
    "presumed": {"committed", "refunded"},
    "committed": set[str](),
    "refunded": set[str](),
}

SLICES = 60  # of a sliding window

_Place = tuple[str, int]  # a counter and one of its windows or slices


class Replay:
    """After `run` everything is known: states and final charges by reservation id, and the violations."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.states: dict[str, str] = {}
        self.reserved: dict[str, Record] = {}  #: as it was taken
        self.charged: dict[str, int] = {}  #: images
        self.presumed: set[str] = set()  #: those whose presumption stands
        self.lost: set[str] = set()  #: those that were open when the store was emptied
        self.tightest: dict[str, int] = Tally()  #: the most that ever stood on a counter
        self.violations: list[Violation] = []
        self._slots: dict[str, tuple[str, ...]] = {}
        self._kept: dict[_Place, int] = defaultdict(int)
        self._parts: dict[_Place, float] = {}  # of slices: how far into it its last charge was
        self._booked: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def run(self) -> None:
        for step in self._history.steps:
            if step.lost:
                self._forget()
            for counter, value in step.counters:
                for at, used in value.items() if isinstance(value, Mapping) else ():
                    self._parts[counter, at] = used % 1 or 1
            for rid, record in step.records:
                self._write(rid, record, step)
            self._compare(step)
        self._end()

    def _forget(self) -> None:
        """The store begins anew. What was open there is charged by no one but those who read the hosts' logs."""
        self.lost |= {rid for rid, state in self.states.items() if state == "reserved"}
        for rid in self.lost:
            told = self._history.told.get(rid)
            self.charged[rid] = told.images if told else 0
            if told and told.presumed:
                self.presumed.add(rid)
        self.states.clear()
        self._slots.clear()
        self._kept.clear()
        self._booked.clear()

    def _fault(self, invariant: str, what: str, *ids: str) -> None:
        self.violations.append(Violation(invariant, what, ids))

    def _write(self, rid: str, record: Record | None, step: Step) -> None:
        before = self.states.get(rid, "")
        if record is None:
            if before == "reserved":
                self._fault("I2", "forgotten while it was open", rid)
            self.states.pop(rid, None)
            self._slots.pop(rid, None)
            return
        again = record.state == before == "reserved"
        if record.state not in AFTER[before] or (again and record.charges != self.reserved[rid].charges):
            self._fault("I2", f"{record.state} after it was {before or 'nothing'}", rid)
        self.states[rid] = record.state
        if record.slots:
            self._slots[rid] = record.slots
            self._check_slots(rid, record)
        else:
            self._slots.pop(rid, None)
        if record.state == "reserved" and not again:
            self._take(rid, record)
        elif record.state in ENDS and before in ("reserved", "presumed") and rid in self.reserved:
            self._give_back(rid, record.state, step)

    def _take(self, rid: str, record: Record) -> None:
        self.lost.discard(rid)
        self.reserved[rid], self.charged[rid] = record, record.images
        for charge in record.charges:
            self._kept[charge.counter, charge.at] += charge.amount
            used = self._used(charge)
            self.tightest[charge.counter] = max(self.tightest[charge.counter], used)
            limit = self._history.limits.get(charge.counter)
            if limit is not None and used > limit.limit:
                self._fault("I1", f"{used} of {limit.limit} on {charge.counter}", rid)

    def _used(self, charge: Charge) -> int:
        if charge.window != "roll":
            return self._kept[charge.counter, charge.at]
        oldest = charge.counter, charge.at - SLICES
        counts = self._parts.get(oldest, 1) >= self._parts.get((charge.counter, charge.at), 1)
        slices = range(charge.at - SLICES + (not counts), charge.at + 1)
        return sum(self._kept.get((charge.counter, at), 0) for at in slices)

    def _check_slots(self, rid: str, record: Record) -> None:
        for counter in record.slots:
            held = sum(counter in slots for slots in self._slots.values())
            self.tightest[counter] = max(self.tightest[counter], held)
            limit = self._history.limits.get(counter)
            if limit is not None and held > limit.limit:
                self._fault("I1", f"{held} of {limit.limit} slots on {counter}", rid)

    def _give_back(self, rid: str, end: str, step: Step) -> None:
        """What an end charges stands in the bookings beside it; whether a refund gives the request back, nowhere."""
        self.presumed.discard(rid)
        record = self.reserved[rid]
        images = cost = 0
        if end == "presumed":
            self.presumed.add(rid)
            images, cost = record.images, record.cost
            kind = "unknown"
        else:
            images, cost = _delivered(step)
            kind = "delivered"
        self.charged[rid] = images
        if images:
            labels = "|".join(record.labels)
            self._booked[rid] = {f"{labels}|{kind}|images": images, f"{labels}|{kind}|usd": cost}
        else:
            self._booked.pop(rid, None)
        if end == "presumed":
            return
        written = dict(step.counters)
        for charge in record.charges:
            place = charge.counter, charge.at
            final = {"images": images, "usd": cost, "requests": charge.amount}[charge.unit]
            if charge.unit == "requests" and end == "refunded" and _value(written, place) == self._kept[place] - 1:
                final = 0
            self._kept[place] -= charge.amount - final

    def _compare(self, step: Step) -> None:
        by = tuple(rid for rid, _ in step.records) or ("no reservation",)
        for counter, value in step.counters:
            for at, used in value.items() if isinstance(value, Mapping) else ():
                whole = math.floor(used)
                if whole != self._kept[counter, at]:
                    self._fault("I4", f"{counter} says {whole} at {at} where {self._kept[counter, at]} were taken", *by)
                    self._kept[counter, at] = whole  # told once

    def _end(self) -> None:
        left = self._history.left
        for rid, record in self.reserved.items():
            if rid in self.states and self.states[rid] not in ENDS:
                self._fault("I2", f"never ended ({record.images} images)", rid)
        for rid in sorted(left.open):
            self._fault("I2", "still open at the end", rid)
        for counter, value in left.counters.items():
            if isinstance(value, int):
                if value:
                    self._fault("I7", f"{value} slots are taken at the end", counter)
                continue
            for at, used in value.items():
                if math.floor(used) != self._kept[counter, at]:
                    self._fault("I4", f"{used} at the end where {self._kept[counter, at]} were taken", counter)
        for rid in sorted(left.leases):
            self._fault("I7", "a lease is left at the end", rid)
        self._compare_usage()

    def _compare_usage(self) -> None:
        wanted: dict[str, int] = Tally()
        for booked in self._booked.values():
            for name, amount in booked.items():
                wanted[name] += amount
        # Each is booked under a day and under a month; the longer name is the day's.
        days = [table for period, table in self._history.left.usage.items() if period.count("-") >= 2]
        found: dict[str, int] = Tally()
        for table in days:
            for name, amount in table.items():
                found[name] += amount
        for name in sorted(wanted.keys() | found.keys()):
            if wanted[name] != found[name]:
                self._fault("I4", f"usage says {found[name]}, the reservations came to {wanted[name]}", name)


def _delivered(step: Step) -> tuple[int, int]:
    """Images and money of the end that this step is, as its day's booking has them."""
    booked = {name.rpartition("|")[2]: amount for _, name, amount in step.bookings if "|delivered|" in name}
    return booked.get("images", 0), booked.get("usd", 0)


def _value(written: Mapping[str, object], place: _Place) -> int | None:
    value = written.get(place[0])
    return math.floor(value[place[1]]) if isinstance(value, Mapping) and place[1] in value else None
