"""Stores that can be killed, frozen and promoted: real servers on loopback ports, each over a directory of its own.

They never rewrite their append-only file, so it holds the whole history; see storelog.
"""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from gateway.ledger.valkey import find_server
from tests.support.running import free_port

START_LIMIT = 10.0  # seconds
CUT_SHORT = 100  # bytes that a full disk still takes
CATCH_UP = 5.0  # seconds that a replica may be behind a primary which nobody writes to, and a file behind its server


class Store:
    """One server. fsync: its appendfsync."""

    def __init__(self, folder: Path, *, fsync: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "aof-use-rdb-preamble": "no",
            "auto-aof-rewrite-percentage": "0",
            "save": "",
            "maxmemory-policy": "noeviction",
            "repl-diskless-sync-delay": "0",
            "enable-debug-command": "local",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (self.folder / "server.log").open("ab") as log:
            # Signals that Python ignores stay ignored: without that, a full disk (`fill_disk`) would kill the server.
            self._process = subprocess.Popen(
                [str(find_server()), *words],
                env={},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                restore_signals=False,
            )
        ends = time.monotonic() + START_LIMIT
        while True:
            with contextlib.suppress(redis.RedisError):
                self.ask("PING")
                return
            assert time.monotonic() < ends, (self.folder / "server.log").read_text()[-2000:]
            time.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def fill_disk(self) -> None:
        """No file of this server's grows any more: a write stops in the middle, as on a full disk."""
        grown = max(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (grown + CUT_SHORT, resource.RLIM_INFINITY))

    def clear_disk(self) -> None:
        """There is room again; a server that has given up for the lack of it is started."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if self._process.poll() is not None:
            self.start()
        self._wait(lambda: self._info("persistence")["aof_last_write_status"] == "ok")

    def follow(self, primary: "Store") -> None:
        """Become its replica, with all that it has."""
        self.ask("REPLICAOF", "127.0.0.1", str(primary.port))
        self._wait(lambda: self._info("replication")["master_link_status"] == "up")

    def take_over(self, primary: "Store", others: list["Store"]) -> None:
        """Become the primary once all has come over from the old one, to which nobody writes any more."""
        wanted = primary._info("replication")["master_repl_offset"]
        self._wait(lambda: self._info("replication")["slave_repl_offset"] >= wanted)
        self.ask("REPLICAOF", "NO", "ONE")
        for other in others:
            other.follow(self)

    def ask(self, *words: str) -> Any:
        with self.client() as client:
            return client.execute_command(*words)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def client(self) -> Iterator["redis.Redis"]:
        client = redis.Redis.from_url(self.url, socket_timeout=2)
        try:
            yield client
        finally:
            client.close()

    def _info(self, section: str) -> Any:
        with self.client() as client:
            return client.info(section)

    def _wait(self, holds: Any) -> None:
        ends = time.monotonic() + CATCH_UP
        while not holds():
            assert time.monotonic() < ends, "the server does not catch up"
            time.sleep(0.01)
