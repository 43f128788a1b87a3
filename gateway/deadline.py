"""Deadline: a limit on waiting that begins anew with each piece of a stream.

`asyncio.timeout` costs as much as all else that is done with a piece. Here one timer stands for all waits: a new wait
moves only the moment that counts, and the timer looks at it when it fires.
"""

import asyncio
import time
from collections.abc import Callable


class Deadline:
    """Calls `overdue` once, if a wait lasts too long. Each wait must end no earlier than the one before it would have.

    Between waits nothing is overdue. `close` it when no more will be waited for.
    """

    def __init__(self, overdue: Callable[[], None]) -> None:
        self._overdue = overdue
        self._loop = asyncio.get_running_loop()
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float) -> None:
        """A wait begins that may take so long."""
        self._due = time.monotonic() + seconds
        if self._timer is None:
            self._timer = self._loop.call_later(max(0.0, seconds), self._look)

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
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._overdue()


def _nobody() -> None:
    """Is told of what nobody waits for any more."""
