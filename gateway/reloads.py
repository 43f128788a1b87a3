"""What became of the latest changes of the config file: told once, though every worker judges each by itself.

The workers of a gateway share a file, and each knows how far in it it has come. A verdict that stands further on was
told by a worker that was quicker; one that does not is told by whoever asks, and so is counted and logged once.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

KEPT = 20  #: reloads that are shown
MOST_WORDS = 100  #: sentences kept of each: a new plan for all teams may change thousands of things


@dataclass(frozen=True, slots=True)
class Reload:
    """One verdict. at: unix seconds. version: the file's hash, empty if there was no file to read.

    words: what changed with it, or what is wrong; at most `MOST_WORDS`. more: how many are left out.
    """

    at: float
    result: Literal["success", "failure"]
    version: str
    words: tuple[str, ...]
    more: int = 0


class Reloads:
    """One worker's view. folder: the workers' own.

    A worker that begins looks for its first verdicts in all that is kept, for it judges anew what others have judged
    long ago; from `begun` on it looks only at what has come since.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "reloads.json"
        self._lock = folder / "reloads.lock"
        self._place = 0
        self._at_start, _ = self._read()

    def begun(self) -> None:
        self._place = max(self._place, self._at_start)

    def tell(
        self, at: float, result: Literal["success", "failure"], version: str, words: Sequence[str]
    ) -> Reload | None:
        """Say what came of a change: the verdict as it is kept, or None where another worker has told it."""
        told = Reload(at, result, version, tuple(words[:MOST_WORDS]), max(0, len(words) - MOST_WORDS))
        with self._locked():
            number, kept = self._read()
            first = number - len(kept)
            for place, reload in enumerate(kept, first + 1):
                if place > self._place and (reload.result, reload.version) == (result, version):
                    self._place = place
                    return None
            self._place = number + 1
            self._write(number + 1, [*kept, told][-KEPT:])
        return told

    def latest(self) -> list[Reload]:
        """The last ones, the latest first."""
        return self._read()[1][::-1]

    def _read(self) -> tuple[int, list[Reload]]:
        """How many there were in all, and the last of them."""
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):  # none yet, or the disk was full
            return 0, []
        return found["number"], [Reload(**{**each, "words": tuple(each["words"])}) for each in found["kept"]]

    def _write(self, number: int, kept: Sequence[Reload]) -> None:
        own = self._path.with_suffix(f".{os.getpid()}")
        try:
            own.write_text(json.dumps({"number": number, "kept": [asdict(each) for each in kept]}), "utf-8")
            own.replace(self._path)
        except OSError:
            own.unlink(missing_ok=True)  # a full disk costs the others' knowledge of it, and not the reload

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
