"""What a worker knows of its store: where its clock is, and that it is still the store that answered.

Counters are only as good as both. A store whose clock has jumped would end windows that have not ended; one that was
flushed, or took over without the last writes, has forgotten what was used (records.lua: is_off, witness).
"""

import time
from collections.abc import Callable
from functools import partial
from secrets import token_hex

SKEW = 5_000  #: ms; the same as in records.lua


#: Seconds of a clock that nobody sets, and that goes on while the machine sleeps where the system has one.
uptime: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


#: What our two clocks said at a moment, unix ms or ms since some moment.
Mark = tuple[int, int]


class StoreClock:
    """The store's clock, reckoned from two of ours: one of them may be set or stand still, hardly both at once.

    steady, wall: seconds. All else is unix milliseconds. What the store tells lies somewhere between its being asked
    and its being heard, which may be long where this process stood still: so it moves what we reckon no further than
    that proves.
    """

    def __init__(self, steady: Callable[[], float], wall: Callable[[], float]) -> None:
        self._steady, self._wall = steady, wall
        marks = self.mark()
        self._beside_steady, self._beside_wall = marks[1] - marks[0], 0  # the store's clock less ours
        self.known = False  #: whether the store ever told it

    def mark(self) -> Mark:
        return int(self._steady() * 1000), int(self._wall() * 1000)

    def now(self) -> int:
        return int(self._steady() * 1000) + self._beside_steady

    def told(self, at: int, asked: Mark) -> None:
        (steady, wall), (steady_now, wall_now) = asked, self.mark()
        self._beside_steady = _moved(self._beside_steady, at - steady, at - steady_now)
        self._beside_wall = _moved(self._beside_wall, at - wall, at - wall_now)
        self.known = True

    def accounts_for(self, at: int, asked: Mark) -> bool:
        """Whether one of our clocks says so too. What the store says first is believed."""
        besides = (self._beside_steady, self._beside_wall)
        return not self.known or any(
            then + beside - SKEW <= at <= now + beside + SKEW
            for then, now, beside in zip(asked, self.mark(), besides, strict=True)
        )


def _moved(beside: int, asked: int, heard: int) -> int:
    """What was reckoned, moved no further than between two bounds: by when it was asked, and by when it was heard."""
    low, high = (heard, asked) if heard <= asked else (asked, heard)  # a clock may have been set back meanwhile
    return high if beside > high else max(beside, low)


class Witness:
    """One worker's numbered calls. lost: how often history was lost, as the store says; None before it said so."""

    def __init__(self, clock: StoreClock) -> None:
        self._clock = clock
        self._worker = token_hex(6).encode()
        self._number = self._acknowledged = self._epoch = 0
        self.lost: int | None = None

    def sign(self, argument: bytes) -> tuple[bytes, int]:
        """A script's argument, a JSON object, with who calls; and the call's number, never below its time in ms."""
        now = self._clock.now()
        self._number = number = now if now > self._number else self._number + 1
        by = (number, self._acknowledged, self._epoch, self.lost or 0, now if self._clock.known else -1)
        return b'{"by":["%b",%d,%d,%d,%d,%d],%b' % (self._worker, *by, argument[1:]), number

    def acknowledged(self, number: int) -> None:
        self._acknowledged = max(self._acknowledged, number)

    def told(self, epoch: int, lost: int) -> int:
        """What a beat brought; how many losses are new. What was acknowledged before one says nothing of the store."""
        if epoch != self._epoch:
            self._epoch, self._acknowledged = epoch, 0
        new = max(0, lost - self.lost) if self.lost is not None else 0
        self.lost = max(lost, self.lost or 0)
        return new
