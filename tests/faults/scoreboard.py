"""What the trials came to, in one table and one JSON object: figures, and whether they are as they must be."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from tests.faults.history import EMPTIED, SILENT, Attempt, Fault, Violation
from tests.faults.trial import SLOTS_FREE, Outcome
from tests.faults.workload import TEAMS

BACK = 5.0  # seconds after the store's return in which it must be used again: contract 5.5

AWAY = "quota_store_unavailable"

OUTAGES = frozenset(
    {
        "kill store",
        "freeze store",
        "freeze store past a lease",
        "failover",
        "full store",
        "read-only store",
        "full disk",
    }
)


@dataclass(frozen=True, slots=True)
class Control:
    """A variant made wrong: what the checker had to name, and what it named."""

    variant: str
    expected: str
    named: Mapping[str, int]

    @property
    def caught(self) -> bool:
        return self.expected in self.named


@dataclass(frozen=True, slots=True)
class Line:
    """value: as it is said. good: None where it is a figure and no promise."""

    name: str
    value: str
    good: bool | None = None


def lines(outcomes: Sequence[Outcome], controls: Sequence[Control]) -> list[Line]:
    faults = Counter(fault.name for outcome in outcomes for fault in outcome.faults)
    found: Counter[str] = Counter()
    for outcome in outcomes:
        found.update(outcome.verdict.by_invariant)
    total = {
        name: sum(getattr(outcome.verdict, name) for outcome in outcomes)
        for name in ("reserved", "ended_once", "made", "charged", "presumed")
    }
    attempts = [attempt for outcome in outcomes for attempt in outcome.attempts]
    sent_again = sum(attempt.again for attempt in attempts)
    refused = sorted(duration for outcome in outcomes for duration in refusals(outcome))
    back = [seconds for outcome in outcomes for seconds in recoveries(outcome)]
    freed = [outcome.freed for outcome in outcomes if outcome.freed is not None]

    def none(*invariants: str) -> tuple[str, bool]:
        count = sum(found[invariant] for invariant in invariants)
        return str(count), count == 0

    said = [
        Line("requests", f"{len(attempts)} by {_answers(attempts)}"),
        Line("kill -9", _several(faults, "kill worker", "kill master", "kill host", "kill store")),
        Line("freezes", _several(faults, "freeze worker", "freeze store", "busy store", "slow store")),
        Line("frozen for longer than a lease", f"worker {faults['freeze worker past a lease']}, "
             f"store {faults['freeze store past a lease']}"),
        Line("stores that could not write", _several(faults, "full store", "full disk", "read-only store")),
        Line("clock steps", str(faults["step clock"])),
        Line("losses of all history noticed", f"{sum(o.history.noticed for o in outcomes)} of {faults[EMPTIED]}"),
        Line("failovers, reloads, script flushes", _several(faults, "failover", "reload", "flush scripts")),
        Line("connections reset", f"store {sum(o.store_cuts for o in outcomes)}, "
             f"upstream {sum(o.upstream_cuts for o in outcomes)}"),
        Line("images", f"made {total['made']}, charged {total['charged']}, of these presumed {total['presumed']}"),
        Line("images unaccounted (I3)", *none("I3")),
        Line("over-admissions (I1)", *none("I1")),
        Line("tightest limit used", f"{max((o.verdict.tightest for o in outcomes), default=0.0):.3%}"),
        Line("reservations ended exactly once (I2)", f"{total['ended_once']} of {total['reserved']}", not found["I2"]),
        Line("counters and usage that differ (I4)", *none("I4")),
        Line("double generations (I5)", *none("I5")),
        Line("orders read other than charged (I6)", *none("I6")),
        Line("sent again by clients", f"{sent_again}, made twice after a kill cut a client without an Idempotency-Key: "
             f"{sum(o.bought_again for o in outcomes)}"),
        Line("slots left, descriptors left (I7, I8)", *none("I7", "I8")),
        Line("hangs, cuts and unreadable answers (I9)", *none("I9")),
    ]  # fmt: skip
    if freed:
        said.append(Line("slots freed after kill -9", f"{max(freed):.1f} s at most", max(freed) <= SLOTS_FREE))
    if refused:
        said.append(Line("refusals in an outage", f"{len(refused)}, p99 {1000 * _quantile(refused, 0.99):.0f} ms"))
    if back:
        said.append(Line("recovery of the store", f"{max(back):.1f} s at most of {len(back)}", max(back) <= BACK))
    if controls:
        caught = sum(control.caught for control in controls)
        said.append(Line("wrong variants caught", f"{caught} of {len(controls)}", caught == len(controls)))
    return said


def violations(outcomes: Sequence[Outcome]) -> list[Violation]:
    return [violation for outcome in outcomes for violation in outcome.verdict.violations]


def table(title: str, said: Sequence[Line]) -> Table:
    grid = Table(title=title, show_header=False, title_justify="left")
    for line in said:
        grid.add_row(line.name, line.value, "" if line.good is None else "ok" if line.good else "VIOLATED")
    return grid


def as_json(seed: int, seconds: float, said: Sequence[Line], outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {
        "seed": seed,
        "seconds": round(seconds),
        "lines": {line.name: {"value": line.value, "good": line.good} for line in said},
        "violations": [str(violation) for violation in violations(outcomes)],
    }


def refusals(outcome: Outcome) -> list[float]:
    """Seconds that refusals for the store's sake took, of those that had nothing else to wait for: no slot, no other
    request with the same Idempotency-Key, no frozen worker.
    """
    frozen = [fault for fault in outcome.faults if fault.name == "freeze worker"]
    return [
        attempt.ended - attempt.began
        for attempt in outcome.attempts
        if attempt.code == AWAY
        and not attempt.keyed
        and not any("wait" in rule for rule in TEAMS[attempt.team])
        and not any(fault.began < attempt.ended and attempt.began < fault.ended for fault in frozen)
    ]


def recoveries(outcome: Outcome) -> list[float]:
    """For each time the store was away: seconds from its return to the first answer that needed it."""
    found = []
    for fault in outcome.faults:
        if fault.name not in OUTAGES:
            continue
        answers = [a.ended for a in outcome.attempts if _needed_store(a) and a.ended > fault.ended]
        if answers and not _followed(fault, outcome.faults):
            found.append(min(answers) - fault.ended)
    return found


def _needed_store(attempt: Attempt) -> bool:
    return attempt.how not in SILENT and attempt.status in (200, 429)


def _followed(fault: Fault, faults: Sequence[Fault]) -> bool:
    """Whether another outage began before this one can have been got over."""
    return any(fault.ended <= other.began < fault.ended + BACK for other in faults if other.name in OUTAGES)


def _several(faults: Counter[str], *names: str) -> str:
    return ", ".join(f"{name.removeprefix('kill ')} {faults[name]}" for name in names)


def _answers(attempts: Sequence[Attempt]) -> str:
    by = Counter(str(attempt.status) if attempt.status else attempt.how.value for attempt in attempts)
    return ", ".join(f"{name}: {count}" for name, count in by.most_common())


def _quantile(values: Sequence[float], part: float) -> float:
    return values[min(len(values) - 1, int(part * len(values)))]
