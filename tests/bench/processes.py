"""What the kernel tells of processes: CPU time, memory, the core they run on."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_CPUS = sorted(os.sched_getaffinity(0))

#: The core of load, upstream and store, and the core of what is measured. On a machine of one core they are the same.
LOAD_CORE, MEASURED_CORE = _CPUS[0], _CPUS[-1]

_STORES = ("valkey", "redis")
_QUIET = 0.03  #: share of a core below which nothing is being worked on
_LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Tree:
    """A process and its descendants, as they are at each call. store: those of the quota store, or those without."""

    root: int
    store: bool = False

    def pids(self) -> list[int]:
        parents = {pid: parent for pid, parent in _parents() if pid != self.root}
        found = [self.root]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return [pid for pid in found if _name(pid).startswith(_STORES) == self.store]

    def cpu_seconds(self) -> float:
        """Time on a core so far, of all living threads, to the nanosecond (schedstat)."""
        return sum(_ran(task) for pid in self.pids() for task in _tasks(pid)) / 1e9

    def rss(self) -> float:
        """Megabytes."""
        return sum(_status(pid, "VmRSS") for pid in self.pids())

    def peak_rss(self) -> float:
        """Megabytes, the most since `forget_peak`."""
        return sum(_status(pid, "VmHWM") for pid in self.pids())

    def forget_peak(self) -> None:
        for pid in self.pids():
            (_PROC / str(pid) / "clear_refs").write_text("5")

    def move(self, core: int) -> None:
        for pid in self.pids():
            for task in _tasks(pid):
                os.sched_setaffinity(int(task.name), {core})

    def settle(self, limit: float = 60.0) -> None:
        """Wait until it is idle. Some go on with requests whose client has left, and would burden the next measure."""
        ends = time.monotonic() + limit
        before = self.cpu_seconds()
        while time.monotonic() < ends:
            time.sleep(_LOOK)
            now = self.cpu_seconds()
            if now - before < _QUIET * _LOOK:
                return
            before = now


@contextlib.contextmanager
def started_on(core: int) -> Iterator[None]:
    """Processes started in the block stay on that core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def busy_seconds(core: int) -> float:
    """How long that core has worked since the machine's start, for anybody, stolen time included."""
    for line in (_PROC / "stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, soft, steal = map(int, fields[:8])
            return (user + nice + system + irq + soft + steal) / _TICKS
    return 0.0


def _parents() -> Iterator[tuple[int, int]]:
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold anything.
                yield int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1])


def _tasks(pid: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list((_PROC / str(pid) / "task").iterdir())
    return []


def _ran(task: Path) -> int:
    with contextlib.suppress(OSError):
        return int((task / "schedstat").read_text().split()[0])
    return 0


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / "comm").read_text().strip()
    return ""


def _status(pid: int, field: str) -> float:
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return 0.0
