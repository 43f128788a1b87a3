"""A host: one gateway with its workers, which may be killed, frozen and started again while clients order."""

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import Any

from tests.faults.history import Descriptors
from tests.support.running import Running


class Host:
    def __init__(self, gateway: Running) -> None:
        self.gateway = gateway
        self.alive = True
        self._begun: dict[int, int] = {}

    def workers(self) -> list[int]:
        if not self.alive:
            return []
        pid = self.gateway.pid
        with contextlib.suppress(OSError):
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
        return []

    async def start(self) -> None:
        await asyncio.to_thread(self.gateway.start)
        self.alive = True

    def kill_master(self) -> None:
        """Its workers notice, end what they have in hand, and leave."""
        assert self.gateway.process is not None
        self.gateway.process.kill()
        self.gateway.process.wait()

    def kill(self) -> None:
        """All at once, as by a loss of power."""
        self.alive = False
        self.gateway.kill()

    def stop(self) -> None:
        if self.alive:
            self.alive = False
            self.gateway.stop(signal.SIGTERM)

    def logged(self, beginning: str) -> list[dict[str, Any]]:
        """The log lines that begin with these words."""
        said = f'"event":"{beginning}'
        return [json.loads(line) for line in self.gateway.log_text().splitlines() if said in line]

    # What a worker holds open, for whoever looks before and after.

    def note_descriptors(self) -> None:
        for pid in self.workers():
            self._begun.setdefault(pid, _open_files(pid))

    def descriptors(self) -> list[Descriptors]:
        """Of the workers that are still those of the beginning."""
        return [Descriptors(pid, self._begun[pid], _open_files(pid)) for pid in self.workers() if pid in self._begun]


def _open_files(pid: int) -> int:
    with contextlib.suppress(OSError):
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return 0
