"""What three independent witnesses wrote down of one run: clients, upstream, store. Data only.

They are joined by a `token`, which stands in the prompt of an order and so is read by the upstream itself, and by the
request id that the gateway gives its answers, which is the id of the reservation. Times are seconds of this machine's
monotonic clock. Money is micro-dollars.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Kind = tuple[str, str, str, int]  #: endpoint, size, quality, n: all that decides a price


class How(StrEnum):
    """How an attempt ended, as its client saw it."""

    ANSWERED = "answered"
    UNHEARD = "unheard"  # no connection could be made, so nothing was sent
    LEFT = "left"  # by the client's own will
    CUT = "cut"  # the connection broke before the whole answer was there
    MALFORMED = "malformed"  # an answer that no client could read
    HUNG = "hung"  # nothing, for longer than any limit allows


#: Ends after which a client cannot know what became of its order.
SILENT = frozenset({How.LEFT, How.CUT, How.MALFORMED, How.HUNG})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request as its client knows it.

    token: own to the attempt, or with an Idempotency-Key (`keyed`) to the order, whose attempts are all alike. key: the
    id of the gateway key, one to a client, so that the ledger tells clients apart. rid, status, images: of the answer.
    again: an OpenAI client would send it once more. streamed: the answer may be too long to be read whole first.
    """

    token: str
    team: str
    key: str
    kind: Kind
    began: float
    ended: float
    how: How
    keyed: bool = False
    status: int = 0
    code: str = ""
    rid: str = ""
    images: int = 0
    replayed: bool = False
    again: bool = False
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Generation:
    """One complete request as the upstream knows it. until: its answer went out then at the earliest."""

    token: str
    kind: Kind
    made: int
    decided: float
    until: float


@dataclass(frozen=True, slots=True)
class Charge:
    """A reservation's part on one counter. at: the window's start or the slice it was taken in."""

    counter: str
    window: str
    at: int
    unit: str
    amount: int


@dataclass(frozen=True, slots=True)
class Record:
    """A reservation as it was written. labels: key, account, model, size, quality, endpoint."""

    state: str
    labels: tuple[str, ...] = ()
    images: int = 0
    cost: int = 0
    slots: tuple[str, ...] = ()
    charges: tuple[Charge, ...] = ()

    @property
    def key(self) -> str:
        return self.labels[0]

    @property
    def kind(self) -> Kind:
        _, _, _, size, quality, endpoint = self.labels
        return endpoint, size, quality, self.images


EMPTIED = "lose history"  #: the fault in which a store forgets all it has

#: Slots taken, or window start -> used, or slice -> used and, as a fraction, how far into it the last charge was.
Counter = int | Mapping[int, float]


@dataclass(slots=True)
class Step:
    """What one script wrote, which is all or nothing. records: None where one was forgotten. lost: the store was
    emptied.
    """

    records: list[tuple[str, Record | None]] = field(default_factory=list)
    counters: list[tuple[str, Counter]] = field(default_factory=list)
    bookings: list[tuple[str, str, int]] = field(default_factory=list)  #: period, field, difference
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Left:
    """What stands in the store when all is over."""

    counters: Mapping[str, Counter]
    open: frozenset[str]
    leases: frozenset[str]
    usage: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Limit:
    """A rule that binds, by the name of its counter. per: minute, day or now (slots); team: organization for all."""

    team: str
    unit: str
    per: str
    limit: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the system, from `began` till it was well again."""

    name: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Open files of a worker when it had just begun and when all was over."""

    pid: int
    begun: int
    ended: int


@dataclass(frozen=True, slots=True)
class Told:
    """An end of which a host's log says that the store could not book it."""

    images: int
    presumed: bool


@dataclass(slots=True)
class History:
    attempts: list[Attempt]
    generations: list[Generation]
    steps: list[Step]
    left: Left
    limits: Mapping[str, Limit]
    prices: Mapping[tuple[str, str], int]  #: size and quality -> micro-dollars an image
    faults: list[Fault] = field(default_factory=list)
    descriptors: list[Descriptors] = field(default_factory=list)
    told: Mapping[str, Told] = field(default_factory=dict)  #: by reservation
    noticed: int = 0  #: losses of history of which a host's log speaks

    @property
    def emptied(self) -> list[Fault]:
        return [fault for fault in self.faults if fault.name == EMPTIED]


@dataclass(frozen=True, slots=True)
class Violation:
    """invariant: I1 to I9; ids: the reservations, tokens or counters at fault."""

    invariant: str
    what: str
    ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.invariant} {self.what}: {', '.join(self.ids)}"
