"""What the master tells systemd of its state: sd_notify(3), for units of `Type=notify`.

gunicorn would say READY once it listens, before any worker can answer; it is silent where `NOTIFY_SOCKET` is gone.
"""

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

#: Seconds that a manager may be too busy to take a message.
_PATIENCE = 1.0


class Systemd:
    """Takes the manager's address out of the environment, so that no child speaks in the master's place. Without one
    nothing is said.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        name = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._is_ready = False

    def ready(self) -> None:
        """Every worker serves. Said once after a start and once after each reload."""
        if not self._is_ready:
            self._is_ready = True
            self._tell("READY=1")

    def reloading(self) -> None:
        self._is_ready = False
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._is_ready = True  # a worker that still serves meanwhile makes nothing ready
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_manager:
            to_manager.settimeout(_PATIENCE)
            to_manager.sendto(state.encode("ascii"), self._address)
