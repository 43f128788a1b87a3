"""The embedded store: a Valkey server that the gateway starts, watches and ends itself, for one host.

What it promises:
- One gateway to a data directory, and one server. Each is a flock(2), so it ends with the process that holds it,
  however that ends, and no process id has to be trusted: `lock` is held by the gateway, `server.lock` by the server,
  which inherits it. A server that a killed gateway left over is ended in order before another one starts.
- Only this user reaches it: no TCP port, a socket of mode 0600 in a directory of mode 0700 that we own.
- What was acknowledged survives the end of any process, and a loss of power: it is on disk before it is said
  (``appendfsync always``; with ``everysec`` a write may still wait behind an fsync when the server is killed).

What it does not: share its data with other hosts, or survive their loss. Everything here is synchronous and belongs
to the process that called `start`; in a forked child `poll` and `stop` do nothing, and the lock is given up.
"""

import fcntl
import logging
import os
import signal
import subprocess
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from gateway.ledger import valkey
from gateway.ledger.valkey import EmbeddedStoreError, StartFailed, StoreInUse

START_TIMEOUT = 30.0  #: seconds without any answer after which a start has failed; loading data counts as an answer
STOP_TIMEOUT = 10.0  #: seconds for the server's own end (it writes its file out) before it is killed
PAUSE = 0.01  #: seconds between two looks at something that is about to happen

SHORT_LIFE = 10.0  #: a server that ends within these seconds of its start would only do so again
LONGEST_BACKOFF = 30.0  #: seconds between two starts at most, so that a repaired disk is noticed soon

log = logging.getLogger(__name__)


def backoff(short_lives: int) -> float:
    """Seconds before the next start, after so many servers in a row that ended at once: 0, 0, 1, 2, 4 .. 30."""
    return 0.0 if short_lives <= 1 else min(LONGEST_BACKOFF, 2.0 ** min(short_lives - 2, 10))


class EmbeddedStore:
    """The server process over `data_dir`, which is created with mode 0700 if it is missing.

    runtime_root: see `valkey.socket_path`. server: the executable; default `valkey.find_server`. stop_timeout:
    seconds that a server has to end in order. clock: monotonic seconds, for the pauses between starts. As a context
    manager it starts and stops.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        runtime_root: Path | None = None,
        server: Path | None = None,
        stop_timeout: float = STOP_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.data_dir = Path(os.path.realpath(data_dir))
        self._socket = valkey.socket_path(self.data_dir, runtime_root=runtime_root)
        self._server = server
        self._stop_timeout = stop_timeout
        self._clock = clock
        self._owner: int | None = None
        self._lock: int | None = None
        self._claimed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned_at = 0.0
        self._short_lives = 0
        self._respawn_at: float | None = None
        _give_up_lock_in_children(self)

    def __repr__(self) -> str:
        return f"<EmbeddedStore {self.data_dir} pid={self.pid}>"

    @property
    def url(self) -> str:
        """For the client: ``unix:///…/valkey.sock``."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it is not running or not this process's to watch."""
        return self._process.pid if self._process and self._is_mine() and self._process.poll() is None else None

    def start(self, *, waiting: Callable[[], None] = lambda: None) -> None:
        """Take the data directory, end a server left over there, start ours and wait until it has loaded its data.

        waiting: called again and again meanwhile. What it raises ends the start; so no process stays then either.
        Raises an EmbeddedStoreError: StoreInUse, ServerMissing, UnsafeDirectory, StartFailed; no process stays then.
        """
        server = self._server or valkey.find_server()
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _take(self.data_dir / "lock")
        except OSError as exc:
            raise EmbeddedStoreError(f"store.data_dir {self.data_dir} cannot be used: {exc.strerror}") from exc
        if lock is None:
            pid = (self.data_dir / "lock").read_text() or "unknown"
            raise StoreInUse(f"store.data_dir {self.data_dir} is in use by the gateway with pid {pid}")
        self._server, self._lock, self._owner = server, lock, os.getpid()
        try:
            _write(lock, str(self._owner))
            self._end_left_over(waiting)
            self._spawn()
            self._wait_until_ready(waiting)
        except OSError as exc:
            self.stop()
            raise EmbeddedStoreError(f"store.data_dir {self.data_dir} cannot be used: {exc.strerror}") from exc
        except BaseException:
            self.stop()
            raise

    def poll(self) -> bool:
        """Start the server again if it has ended; True if that was done. Never raises, and does not wait for it.

        To be called about once a second and after SIGCHLD. A server that keeps ending is given longer and longer
        pauses. That somebody else may have reaped the process (gunicorn waits for any child) is of no account:
        a child that cannot be waited for is dead.
        """
        if self._process is None or not self._is_mine() or self._process.poll() is None:
            return False
        now = self._clock()
        if self._respawn_at is None:
            self._short_lives = self._short_lives + 1 if now - self._spawned_at < SHORT_LIFE else 0
            self._respawn_at = now + backoff(self._short_lives)
            words = valkey.last_words(self.data_dir)
            log.error("the embedded store (pid %d) has ended; its last words: %s", self._process.pid, words)
        if now < self._respawn_at:
            return False
        try:
            self._spawn()
        except EmbeddedStoreError as exc:
            self._short_lives += 1
            self._respawn_at = now + backoff(self._short_lives)
            log.error("the embedded store cannot start again: %s", exc)  # noqa: TRY400 - the sentence says all
            return False
        log.warning("the embedded store was started again (pid %d)", self._process.pid)
        return True

    def stop(self) -> None:
        """End the server, remove its socket and give the data directory back. May be called at any time, and twice."""
        if not self._is_mine():
            return
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(self._stop_timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: its own lock still guards the data
                    self._process.wait(self._stop_timeout)
            self._process = None
        if self._claimed:  # else it may be somebody else's
            with suppress(OSError):
                self._socket.unlink(missing_ok=True)
                self._socket.parent.rmdir()
            self._claimed = False
        if self._lock is not None:
            _write(self._lock, "")
            # Not by closing alone: a process forked by another thread meanwhile may still hold a copy.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
        self._lock = self._owner = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_mine(self) -> bool:
        return self._owner == os.getpid()

    def _spawn(self) -> None:
        assert self._server is not None, "start() has found it"
        valkey.claim(self._socket.parent)
        self._claimed = True
        try:
            lock = _take(self.data_dir / "server.lock")
            if lock is None:
                raise StoreInUse(f"store.data_dir {self.data_dir} is in use by another server")
            try:
                self._process = valkey.run(self._server, data_dir=self.data_dir, listen=self._socket, lock=lock)
                _write(lock, str(self._process.pid))
            finally:
                os.close(lock)
        except OSError as exc:
            raise StartFailed(f"{self._server} cannot be started over {self.data_dir}: {exc.strerror}") from exc
        self._spawned_at = self._clock()
        self._respawn_at = None

    def _wait_until_ready(self, waiting: Callable[[], None]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            answer = valkey.ask(self._socket, "PING")
            if answer is not None and not answer.startswith(b"-LOADING"):
                return
            if answer is not None:
                deadline = time.monotonic() + START_TIMEOUT
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                how = "ended at once" if ended else f"did not answer within {START_TIMEOUT:.0f} s"
                words = valkey.last_words(self.data_dir)
                raise StartFailed(f"the embedded store over {self.data_dir} {how}; its last words: {words}")
            waiting()
            time.sleep(PAUSE)

    def _end_left_over(self, waiting: Callable[[], None]) -> None:
        """End the server of a gateway that was killed: it still writes to the file that ours will read.

        That there is one, and when it is gone, its lock tells. Which process it is, it says itself on the socket or,
        when it is silent, `server.lock` says; the kernel must confirm that the process works in the data directory.
        """
        if self._is_free():
            return
        written = (self.data_dir / "server.lock").read_text()
        pid = valkey.process_id(self._socket) or (int(written) if written.isdecimal() else None)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if pid is not None and valkey.works_in(pid, self.data_dir):
                log.warning("ending the server (pid %d) that a killed gateway left over: %s", pid, number.name)
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + self._stop_timeout
            while time.monotonic() < deadline:
                if self._is_free():
                    return
                waiting()
                time.sleep(PAUSE)
        raise StoreInUse(f"store.data_dir {self.data_dir} is in use by a server (pid {pid}) that does not end")

    def _is_free(self) -> bool:
        lock = _take(self.data_dir / "server.lock")
        if lock is None:
            return False
        os.close(lock)
        return True


def _give_up_lock_in_children(store: EmbeddedStore) -> None:
    """A worker outlives a killed master by moments and must not keep the data directory from the next gateway."""
    alive = weakref.ref(store)

    def close_lock() -> None:
        held = alive()
        if held is not None and held._lock is not None:  # noqa: SLF001 - of this module
            os.close(held._lock)  # noqa: SLF001
            held._lock = None  # noqa: SLF001

    os.register_at_fork(after_in_child=close_lock)


def _take(path: Path) -> int | None:
    """The lock on `path` as a file descriptor that is not inherited, or None if it is held."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        if isinstance(exc, BlockingIOError):
            return None
        raise
    return lock


def _write(lock: int, text: str) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, text.encode(), 0)
