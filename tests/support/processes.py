"""Which processes a command under test has started, and which of them are still there. Linux: it reads /proc."""

import contextlib
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_MARK = "TEST_FAMILY"


@dataclass(frozen=True, slots=True)
class Family:
    """All processes that descend from one that was started with `environ`, told by that environment.

    The embedded store gets none of it: it is told by its working directory below `folder`. temporary and runtime are
    what the family takes for /tmp and for $XDG_RUNTIME_DIR, so what is left in them was left by it.
    """

    folder: Path
    mark: str

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    @property
    def environ(self) -> Mapping[str, str]:
        return {_MARK: self.mark, "TMPDIR": str(self.temporary), "XDG_RUNTIME_DIR": str(self.runtime)}

    def alive(self, *words: str) -> dict[int, str]:
        """Process id and command line of those that have one of the words in it (all, without words), in no order."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    if line := self._command(entry):
                        found[int(entry.name)] = line
        return {pid: line for pid, line in found.items() if not words or any(word in line for word in words)}

    def store(self) -> int:
        """The one store that is running."""
        (pid,) = self.alive("unixsocket")
        return pid

    def children(self, parent: int) -> set[int]:
        """Those that this process has started itself."""
        return {pid for pid in self.alive() if f"PPid:\t{parent}\n" in _status(pid)}

    def kill(self) -> None:
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _command(self, entry: Path) -> str | None:
        """Its command line, if it is one of ours and no zombie (which has none)."""
        line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        marked = f"{_MARK}={self.mark}".encode() in (entry / "environ").read_bytes()
        return line if line and (marked or (entry / "cwd").readlink().is_relative_to(self.folder)) else None


@contextlib.contextmanager
def family() -> Iterator[Family]:
    """A new one, in a folder with a name short enough for sockets; whatever is left of it at the end is killed."""
    with tempfile.TemporaryDirectory(prefix="gw-", ignore_cleanup_errors=True) as name:
        found = Family(Path(name).resolve(), secrets.token_hex(8))
        found.temporary.mkdir()
        found.runtime.mkdir(mode=0o700)
        try:
            yield found
        finally:
            found.kill()


def _status(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/status").read_text("utf-8")
    return ""


def seconds_until(gone: "Family", *words: str, limit: float) -> float:
    """Seconds until none of them is alive any more; AssertionError after `limit`."""
    began = time.monotonic()
    while left := gone.alive(*words):
        assert time.monotonic() - began < limit, f"after {limit} s these are left: {left}"
        time.sleep(0.02)
    return time.monotonic() - began
