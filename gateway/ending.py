"""An end that is asked for while the gateway starts: SIGTERM and Ctrl-C, before the master has handlers of its own.

Without, SIGTERM would leave a store behind that is nobody's any more, and Python raises KeyboardInterrupt wherever it
is, also where exceptions are passed over.
"""

import signal
from types import FrameType


class Ending:
    """asked: the first signal's number, or None."""

    def __init__(self) -> None:
        self.asked: int | None = None

    def hear(self) -> None:
        """From now on, until others take its place as handlers."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def check(self) -> None:
        """To be called where much can be waited for. Raises SystemExit once an end was asked for."""
        if self.asked is not None:
            raise SystemExit(0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = self.asked or number
