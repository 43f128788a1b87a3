"""The judge: pure functions from a history to the violations of the invariants. It asks nobody and waits for nothing.

I1  never over: what the upstream made for a team stays under each of its limits, and so do its requests at once
I2  every reservation ends exactly once (replay), and there is none without a request
I3  nothing is lost: what the upstream made is charged; what is charged and was not made is flagged as presumed. Where
    the store was emptied that is said, and each order that was under way then stands in a log instead
I4  counters and usage are what the reservations came to (replay)
I5  the upstream never gets an order twice
I6  what the upstream read is what was charged: endpoint, size, quality, n
I7  all slots come free (replay)
I8  a worker's descriptors go back to where they were
I9  every client gets a readable answer, or a connection that was cut by the end of a worker; nobody hangs
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.history import SILENT, Attempt, Generation, History, How, Violation
from tests.faults.replay import Replay

ENDING = frozenset({"kill worker", "kill master", "kill host"})  # the faults that cut clients' connections
SPARE_DESCRIPTORS = 16  # connections to the store, which are made when they are needed, and are kept
CUT_LATE = 12.0  # seconds after its master's end in which a worker's last connection may be cut


@dataclass(slots=True)
class Verdict:
    """What the check came to. made, charged, presumed: images; tightest: the most that was used of any limit, as a part
    of it.
    """

    violations: list[Violation]
    reserved: int = 0
    ended_once: int = 0
    made: int = 0
    charged: int = 0
    presumed: int = 0
    tightest: float = 0.0
    by_invariant: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        return set(self.by_invariant)


def check(history: History) -> Verdict:
    replay = Replay(history)
    replay.run()
    violations = [
        *replay.violations,
        *_over(history),
        *_at_once(history),
        *_sent_twice(history),
        *_accounts(history, replay),
        *_losses(history),
        *_descriptors(history),
        *_answers(history),
    ]
    return Verdict(
        violations,
        reserved=len(replay.reserved),
        ended_once=len(replay.reserved) - len({v.ids for v in violations if v.invariant == "I2"}),
        made=sum(generation.made for generation in history.generations),
        charged=sum(replay.charged.values()),
        presumed=sum(replay.charged[rid] for rid in replay.presumed),
        tightest=max(
            (most / history.limits[name].limit for name, most in replay.tightest.items() if name in history.limits),
            default=0.0,
        ),
        by_invariant=Counter(violation.invariant for violation in violations),
    )


def _over(history: History) -> Iterator[Violation]:
    """Limits of a day by the upstream's word alone: neither clients nor ledger are asked what was made."""
    teams = {attempt.token: attempt.team for attempt in history.attempts}
    images: Counter[str] = Counter()
    money: Counter[str] = Counter()
    for generation in history.generations:
        _, size, quality, _ = generation.kind
        for scope in (teams[generation.token], "organization"):
            images[scope] += generation.made
            money[scope] += generation.made * history.prices[size, quality]
    for name, limit in history.limits.items():
        made = {"images": images, "usd": money}.get(limit.unit, Counter())[limit.team]
        allowed = limit.limit * (1 + len(history.emptied))
        if limit.per == "day" and made > allowed:
            yield Violation("I1", f"the upstream made {made} where {allowed} are allowed", (name,))


def _at_once(history: History) -> Iterator[Violation]:
    """Slots by the upstream's word: from its decision to its answer an order that came to a 200 was in flight."""
    astride = _astride(history)
    answered = {a.token: a.team for a in history.attempts if a.status == 200 and a.token not in astride}
    for name, limit in history.limits.items():
        if limit.per != "now":
            continue
        spans = [g for g in history.generations if g.made and answered.get(g.token) == limit.team]
        moments = sorted([(g.decided, 1) for g in spans] + [(g.until, -1) for g in spans])
        held = most = 0
        for _, change in moments:
            held += change
            most = max(most, held)
        if most > limit.limit:
            yield Violation("I1", f"{most} at once at the upstream where {limit.limit} are allowed", (name,))


def _sent_twice(history: History) -> Iterator[Violation]:
    """One request of one client goes up once. Under an Idempotency-Key what was refunded may be tried again."""
    keyed = {attempt.token for attempt in history.attempts if attempt.keyed}
    sent: dict[str, list[Generation]] = defaultdict(list)
    for generation in history.generations:
        sent[generation.token].append(generation)
    forgotten = _forgotten(history)
    for token, generations in sent.items():
        paid = [generation for generation in generations if generation.made]
        if token in forgotten:
            continue
        if len(paid) > 1 or (len(generations) > 1 and token not in keyed):
            yield Violation(
                "I5", f"the upstream got it {len(generations)} times and made it {len(paid)} times", (token,)
            )
    for attempt in history.attempts:
        if attempt.again and attempt.how is How.ANSWERED and not attempt.keyed and _made(sent[attempt.token]):
            yield Violation("I5", f"a {attempt.status} that invites another try was paid for", (attempt.token,))


def _accounts(history: History, replay: Replay) -> Iterator[Violation]:
    """Joins the three logs: an answered attempt by its id, the others by client and kind, for they know no id."""
    sent: dict[str, list[Generation]] = defaultdict(list)
    for generation in history.generations:
        sent[generation.token].append(generation)
    named = {attempt.rid for attempt in history.attempts if attempt.rid}
    orphans: dict[tuple[str, object], list[str]] = defaultdict(list)
    for rid, record in replay.reserved.items():
        if rid not in named:
            orphans[record.key, record.kind].append(rid)
    settled: set[str] = set()
    forgotten = _forgotten(history)
    bought_again: dict[str, set[str]] = defaultdict(set)
    for attempt in history.attempts:
        if attempt.rid in replay.reserved and attempt.token in forgotten:
            bought_again[attempt.token].add(attempt.rid)
            settled.add(attempt.token)
        elif attempt.rid in replay.reserved:
            yield from _named(attempt, sent[attempt.token], replay, settled)
        elif attempt.status == 200 and not attempt.replayed:
            yield Violation("I3", "answered with images, and no reservation", (attempt.rid, attempt.token))
    for token, ids in bought_again.items():
        yield from _forgotten_key(token, ids, sent[token], replay)
    silent: dict[tuple[str, object], list[Attempt]] = defaultdict(list)
    for attempt in history.attempts:
        if attempt.how in SILENT:
            silent[attempt.key, attempt.kind].append(attempt)
    for place in orphans.keys() | silent.keys():
        yield from _silent(orphans[place], silent[place], sent, replay, settled)
    attempted = {attempt.token for attempts in silent.values() for attempt in attempts}
    for token, generations in sent.items():
        if _made(generations) and token not in settled and token not in attempted:
            yield Violation("I3", f"{_made(generations)} images were made and not charged", (token,))


def _named(attempt: Attempt, generations: list[Generation], replay: Replay, settled: set[str]) -> Iterator[Violation]:
    """An attempt that got an answer, and the reservation of that name."""
    rid, record, ids = attempt.rid, replay.reserved[attempt.rid], (attempt.rid, attempt.token)
    made, charged = _made(generations), replay.charged[attempt.rid]
    if charged:
        settled.add(attempt.token)
    if record.kind != attempt.kind or record.key != attempt.key:
        yield Violation("I6", f"ordered {attempt.kind}, reserved {record.kind}", ids)
    for generation in generations:
        if generation.kind != attempt.kind:
            yield Violation("I6", f"ordered {attempt.kind}, the upstream read {generation.kind}", ids)
    presumed = rid in replay.presumed
    if attempt.status == 200:
        if attempt.images != made:
            yield Violation("I3", f"{attempt.images} images came of {made} made", ids)
        if charged < made or (charged > made and not presumed):
            yield Violation("I3", f"{made} images were made, {charged} charged", ids)
    elif attempt.status == 424:
        if charged < made or (charged > made and not presumed):
            yield Violation("I3", f"{made} images were made behind a 424, {charged} charged", ids)
    elif charged and not presumed:
        yield Violation("I3", f"{charged} images were charged for a {attempt.status}", ids)
    elif not attempt.keyed and made:
        yield Violation("I3", f"{made} images were made behind a {attempt.status}", ids)


def _forgotten_key(token: str, ids: set[str], generations: list[Generation], replay: Replay) -> Iterator[Violation]:
    """An order whose key was forgotten while it was under way may have been bought under each of these reservations:
    which of them made what, nobody knows.
    """
    made, charged = _made(generations), sum(replay.charged[rid] for rid in ids)
    certain = sum(replay.charged[rid] for rid in ids if rid not in replay.presumed)
    if charged < made or certain > made:
        yield Violation(
            "I3", f"{made} images were made under a forgotten key, {charged} charged", (*sorted(ids), token)
        )


def _silent(
    orphans: list[str],
    silent: list[Attempt],
    sent: dict[str, list[Generation]],
    replay: Replay,
    settled: set[str],
) -> Iterator[Violation]:
    """The reservations and the unanswered attempts of one client and one kind of order, as two heaps."""
    if len(orphans) > len(silent):
        yield Violation("I2", f"{len(orphans)} reservations of {len(silent)} unanswered requests", tuple(orphans))
    made = {a.token: _made(sent[a.token]) for a in silent if a.token not in settled}
    paid = [token for token, images in made.items() if images]
    charged = [rid for rid in orphans if replay.charged[rid]]
    certain = sum(replay.charged[rid] for rid in charged if rid not in replay.presumed)
    if len(paid) > len(charged) or sum(made.values()) > sum(replay.charged[rid] for rid in charged):
        yield Violation("I3", f"{len(paid)} orders were made for clients without an answer, {len(charged)} charged",
                        tuple(paid))  # fmt: skip
    if certain > sum(made.values()):
        yield Violation("I3", f"{certain} images were charged for good, {sum(made.values())} made", tuple(charged))


def _astride(history: History) -> set[str]:
    """Tokens of orders that had begun when the store was emptied, and were not over."""
    spans: dict[str, tuple[float, float]] = {}
    for attempt in history.attempts:
        began, ended = spans.get(attempt.token, (attempt.began, attempt.ended))
        spans[attempt.token] = min(began, attempt.began), max(ended, attempt.ended)
    return {
        token
        for token, (began, ended) in spans.items()
        if any(f.began < ended and began < f.ended for f in history.emptied)
    }


def _forgotten(history: History) -> set[str]:
    """Tokens of orders that may have been bought again: what their Idempotency-Key stood for is forgotten."""
    return {attempt.token for attempt in history.attempts if attempt.keyed} & _astride(history)


def _losses(history: History) -> Iterator[Violation]:
    if history.noticed < len(history.emptied):
        yield Violation("I3", f"history was lost {len(history.emptied)} times, and noticed {history.noticed} times", ())


def _descriptors(history: History) -> Iterator[Violation]:
    for worker in history.descriptors:
        if worker.ended > worker.begun + SPARE_DESCRIPTORS:
            yield Violation("I8", f"{worker.begun} open files became {worker.ended}", (f"pid {worker.pid}",))


def _answers(history: History) -> Iterator[Violation]:
    endings = [fault for fault in history.faults if fault.name in ENDING]
    for attempt in history.attempts:
        if attempt.how in (How.HUNG, How.MALFORMED):
            yield Violation("I9", f"{attempt.how.value} after {attempt.ended - attempt.began:.1f} s", (attempt.token,))
        explained = any(f.began <= attempt.ended and attempt.began <= f.ended + CUT_LATE for f in endings)
        if attempt.how is How.CUT and not attempt.streamed and not explained:
            yield Violation("I9", "cut, though no worker was killed", (attempt.token,))


def _made(generations: list[Generation]) -> int:
    return sum(generation.made for generation in generations)


def bought_again(history: History, orders: dict[str, str]) -> int:
    """Orders (token -> order) that were made more than once: their clients sent again what a kill had cut off."""
    made: Counter[str] = Counter()
    for generation in history.generations:
        made[orders[generation.token]] += bool(generation.made)
    return sum(times > 1 for times in made.values())
