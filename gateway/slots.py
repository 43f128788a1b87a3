"""Where workers keep their metrics: files of their own under a stable slot number, in one folder of the gateway's.

A scrape adds the files of all slots up (prometheus-client's `multiprocess`). The files of a worker that died are
taken up by the next one in its slot, so a counter goes on, and files do not pile up.
"""

import collections
import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

_ROOM = 64 * 1024  #: bytes of a file of values to begin with, as the library has it
_AROUND = 32  #: bytes at most that a file holds of a value beside its key


class _File(MmapedDict):
    """A file of values whose places are known to those who write them: a float, and behind it a time that is 0.

    cells: the whole map, as floats.

    A value is written by one store of eight bytes. `struct.pack_into` clears its place first, and a scrape that comes
    in between finds a counter at 0, which is a restart to Prometheus. Raises OSError where the disk has no room: it is
    taken first, for writing to a map without any ends the process.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            _make(path)
        super().__init__(str(path))  # type: ignore[no-untyped-call]
        self.cells = memoryview(self._m).cast("d")

    def place(self, key: str) -> int:
        self.read_value(key)  # type: ignore[no-untyped-call]
        return int(self._positions[key]) // 8

    def close(self) -> None:
        self.cells.release()
        super().close()  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        room = self._capacity
        while self._used + len(key.encode()) + _AROUND > room:
            room *= 2
        if room > self._capacity:
            os.posix_fallocate(self._f.fileno(), 0, room)
        super()._init_value(key)  # type: ignore[no-untyped-call]
        if self.cells.nbytes < self._capacity:  # it is another map now
            self.cells = memoryview(self._m).cast("d")


def _make(path: Path) -> None:
    """An empty file of values. It has its name only when it has its room: a scrape cannot read one of no length."""
    unnamed = path.with_name(f"{path.name}.new")
    try:
        with unnamed.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _ROOM)
        unnamed.rename(path)
    except OSError:
        unnamed.unlink(missing_ok=True)
        raise


class _Unseen:
    """Where values go that a full disk has no room for."""

    cells = memoryview(bytearray(8)).cast("d")


def _value_class(folder: Path, slot: int) -> type:
    """A float that stands in the slot's file at any time, for one thread.

    The library's own takes a lock and asks for the process's id each time; a request changes twenty.
    """
    opened: dict[str, _File] = {}

    class SlotValue:
        _multiprocess = True

        def __init__(  # noqa: PLR0917  the library's signature
            self,
            typ: str,
            metric_name: str,
            name: str,
            labelnames: Sequence[str],
            labelvalues: Sequence[str],
            help_text: str,
            multiprocess_mode: str = "",
            **_: Any,
        ) -> None:
            kind = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
            key = mmap_key(metric_name, name, list(labelnames), list(labelvalues), help_text)
            self._file: _File | _Unseen = _Unseen()
            self._place, self._value = 0, 0.0
            with contextlib.suppress(OSError):  # requests are worth more than what is counted of them
                if kind not in opened:
                    opened[kind] = _File(folder / f"{kind}_{slot}.db")
                file = opened[kind]
                self._place = file.place(key)
                self._value = file.read_value(key)[0]  # type: ignore[no-untyped-call]
                self._file = file

        def inc(self, amount: float) -> None:
            self._value = value = self._value + amount
            self._file.cells[self._place] = value

        def set(self, value: float) -> None:
            self._value = value
            self._file.cells[self._place] = value

        def get(self) -> float:
            return self._value

        def get_exemplar(self) -> None:
            """None are kept."""

    return SlotValue


def take_slot(folder: Path) -> int:
    """A number that no living worker has, the lowest, held until the process ends; its files are this worker's.

    The files of a worker that died are taken up again, so counters go on and files do not pile up. Gauges of living
    state begin anew. Must be called before the process makes its `Metrics`.
    """
    slot = 0
    while not _locked(folder / f"slot-{slot}.lock"):
        slot += 1
    for stale in folder.glob(f"gauge_live*_{slot}.db"):
        stale.unlink(missing_ok=True)
    values.ValueClass = _value_class(folder, slot)
    return slot


def tell_config(folder: Path, slot: int, config: str) -> None:
    """Which config this worker is on. A file beside the collectors', for a label that changes could not be unset."""
    new = folder / f"new-config-{slot}"
    new.write_text(config)
    new.rename(folder / f"config-{slot}")  # at once: a scrape would find half of it


def told_configs(folder: Path) -> Mapping[str, int]:
    """How many workers are on which config."""
    told: collections.Counter[str] = collections.Counter()
    for path in folder.glob("config-*"):
        with contextlib.suppress(FileNotFoundError):  # its worker has just been found dead
            told[path.read_text()] += 1
    return told


def count(folder: Path, family: str, labels: Mapping[str, str], text: str) -> None:
    """One more of what the master counts, which has no collectors: a file of its own beside the workers'.

    Raises OSError on a full disk.
    """
    file = _File(folder / "counter_master.db")
    key = mmap_key(family, f"{family}_total", list(labels), list(labels.values()), text)
    place = file.place(key)
    file.cells[place] = file.read_value(key)[0] + 1  # type: ignore[no-untyped-call]
    file.close()


def counted(folder: Path, samples: Collection[str]) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Name, labels and value of these samples in each worker's files, but for those at 0. A histogram's buckets stand
    as the files have them: each by itself.

    Far less work than a scrape, which sums up all there is.
    """
    for path in folder.glob("*.db"):
        try:
            found = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        except FileNotFoundError:  # its worker has just been found dead
            continue
        for key, value, *_ in found:
            # ["family", "sample", {labels}, "help"]: most are not asked for, so they are not read in vain.
            if value and key.split('"', 4)[3] in samples:
                _, name, labels, _ = json.loads(key)
                yield name, labels, value


def hold(folder: Path) -> int:
    """Say that a living gateway has this folder, for as long as the returned descriptor is open in any process.

    The lock has its name only once it is locked: a gateway that starts in between would take the folder away.
    """
    unnamed = folder / "new.lock"
    descriptor = os.open(unnamed, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    unnamed.rename(folder / "held.lock")
    return descriptor


def clear_abandoned(parent: Path, prefix: str) -> None:
    """Take away the folders of gateways that were killed: those of ours that nobody holds."""
    for folder in parent.glob(f"{prefix}*"):
        lock = folder / "held.lock"
        try:
            if folder.stat().st_uid != os.getuid() or not lock.exists():
                continue
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def forget_dead(folder: Path) -> None:
    """Take away the living-state gauges of workers that are no more; their counters stay in every sum."""
    for lock in folder.glob("slot-*.lock"):
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            slot = lock.stem.removeprefix("slot-")
            for stale in (*folder.glob(f"gauge_live*_{slot}.db"), *folder.glob(f"config-{slot}")):
                stale.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _locked(path: Path) -> bool:
    """Take the lock if it is free. It is the open file that holds it, so it ends with the process."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    return True
