"""Limits on waiting for others: Alarm for one wait, Deadline for one that begins anew with each piece of a stream.

A loop that was held up (its process was stopped, its machine slept) may run its timers before it takes what has come
meanwhile: uvloop's does. Such silence is not the other side's, so a timer that is late lets the loop look at its
sockets first.

`asyncio.timeout` costs as much as all else that is done with a piece. A Deadline has one timer for all waits: a new
wait moves only the moment that counts, and the timer looks at it when it fires.
"""

import asyncio
import time
from collections.abc import Callable

#: Seconds that a timer may be late before the loop was held up, and that a look at the sockets takes then.
HELD_UP = 0.05


def is_late(loop: asyncio.AbstractEventLoop, due: float) -> bool:
    """Whether a timer that fires now was due, on the loop's clock, so long ago that the loop was held up."""
    return loop.time() - due > HELD_UP


class Alarm:
    """Calls `ring`, once, when so many seconds are over and it has not been cancelled."""

    __slots__ = ("_due", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, ring: Callable[[], None]) -> None:
        self._loop, self._ring = loop, ring
        self._due = loop.time() + seconds
        self._timer = loop.call_later(seconds, self._look)

    def cancel(self) -> None:
        """Also lets go of whom it would tell, a cycle for the collector otherwise."""
        self._timer.cancel()
        self._ring = _nobody

    def _look(self) -> None:
        if is_late(self._loop, self._due):
            self._timer = self._loop.call_later(HELD_UP, self._over)  # once: a busy loop is always late
        else:
            self._over()

    def _over(self) -> None:
        ring, self._ring = self._ring, _nobody
        ring()


class Deadline:
    """Calls `overdue` once, if a wait lasts too long. Each wait must end no earlier than the one before it would have.

    Between waits nothing is overdue. `close` it when no more will be waited for.
    """

    def __init__(self, overdue: Callable[[], None]) -> None:
        self._overdue = overdue
        self._loop = asyncio.get_running_loop()
        self._due: float | None = None
        self._timer: Alarm | None = None

    def begin(self, seconds: float) -> None:
        """A wait begins that may take so long."""
        self._due = time.monotonic() + seconds
        if self._timer is None:
            self._timer = Alarm(self._loop, max(0.0, seconds), self._look)

    def end(self) -> None:
        """What was waited for has come."""
        self._due = None

    def close(self) -> None:
        """Lets go of the timer and of whom it would tell, a cycle for the collector otherwise."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._overdue = _nobody

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        left = self._due - time.monotonic()
        if left > 0:
            self._timer = Alarm(self._loop, left, self._look)
        else:
            self._overdue()


def _nobody() -> None:
    """Is told of what nobody waits for any more."""
