"""Stores that can be killed, frozen and promoted: real servers on loopback ports, each over a directory of its own.

They never rewrite their append-only file, so it holds the whole history; see storelog.
"""

import contextlib
import os
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
CATCH_UP = 5.0  # seconds that a replica may be behind a primary which nobody writes to


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
            self._process = subprocess.Popen(
                [str(find_server()), *words], env={}, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
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

    def follow(self, primary: "Store") -> None:
        """Become its replica, with all that it has."""
        self.ask("REPLICAOF", "127.0.0.1", str(primary.port))
        self._wait(lambda: self._replication()["master_link_status"] == "up")

    def take_over(self, primary: "Store", others: list["Store"]) -> None:
        """Become the primary once all has come over from the old one, to which nobody writes any more."""
        wanted = primary._replication()["master_repl_offset"]
        self._wait(lambda: self._replication()["slave_repl_offset"] >= wanted)
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

    def _replication(self) -> Any:
        with self.client() as client:
            return client.info("replication")

    def _wait(self, holds: Any) -> None:
        ends = time.monotonic() + CATCH_UP
        while not holds():
            assert time.monotonic() < ends, "the replica does not catch up"
            time.sleep(0.01)
