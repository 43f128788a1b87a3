"""Builds and runs upstream.c, and asks it what it has seen."""

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from tests.bench.processes import LOAD_CORE, started_on
from tests.support.running import free_port

#: Characters of base64 in a big answer.
BIG = 4 * 1024 * 1024

_START_LIMIT = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """requests: answered so far; body_bytes: read so far, of unfinished requests too."""

    requests: int
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Upstream:
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def seen(self) -> Seen:
        with urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=5) as answer:
            return Seen(**json.load(answer))

    def pause(self) -> None:
        """Take nothing more from any connection, as an upstream that has stalled."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running_upstream(folder: Path) -> Iterator[Upstream]:
    """folder: where the program is built."""
    program = folder / "upstream"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(Path(__file__).with_suffix(".c"))], check=True)
    port = free_port()
    with started_on(LOAD_CORE):
        process = subprocess.Popen([str(program), str(port), str(BIG)])
    try:
        wait_for_port(port, _START_LIMIT)
        yield Upstream(port, process)
    finally:
        process.kill()
        process.wait()


def wait_for_port(port: int, limit: float) -> None:
    ends = time.monotonic() + limit
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > ends:
            raise TimeoutError(f"nothing listens on port {port} after {limit:.0f} s")
        time.sleep(0.02)
