"""The gunicorn application: listeners, workers, and what the master holds for them (store, metrics folder)."""

import contextlib
import logging
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from gateway import logs
from gateway.config import watch
from gateway.config.file import version
from gateway.config.problems import ConfigErrors
from gateway.core.catalog import Settings
from gateway.core.changes import restart_needed
from gateway.ending import Ending
from gateway.ledger.embedded import EmbeddedStore
from gateway.ledger.servers import Finder, finder
from gateway.metrics import RELOADS
from gateway.reloads import Reloads
from gateway.slots import clear_abandoned, count, forget_dead, hold
from gateway.systemd import Systemd

#: Seconds beyond the longest request that workers get to end in.
_LAST_ANSWERS = 20

#: Seconds that workers get to end in at least: the upstream's time may be raised to nearly that while they run.
_LONGEST_REQUEST = 300

#: What the names of metrics folders begin with.
_METRICS = "gateway-metrics-"

#: Descriptors that are not a request's: listeners, the store, logs, metrics files.
_OTHER_FILES = 200


class Gateway(BaseApplication):  # type: ignore[misc]  # the package carries no types
    """One gateway: a master and its workers.

    embedded: the store that this master runs, or None where it stands elsewhere.
    """

    def __init__(self, path: Path, read: Callable[[], Settings], ending: Ending, *, workers: int | None = None) -> None:
        settings = read()
        self.path, self._read, self.ending = path, read, ending
        self.settings = settings
        self.workers = workers or settings.listen.workers
        self._pid = os.getpid()
        self.systemd = Systemd()
        self.embedded = EmbeddedStore(Path(settings.store.data_dir)) if settings.store.kind == "embedded" else None
        self.store()  # an address that cannot be used is told now, and not by each worker
        clear_abandoned(Path(tempfile.gettempdir()), _METRICS)
        self.metrics_folder = Path(tempfile.mkdtemp(prefix=_METRICS))
        self._kept = hold(self.metrics_folder)
        self._reloads = Reloads(self.metrics_folder)
        super().__init__()

    def store(self) -> Finder:
        """The way to the ledger's server; each worker asks for its own."""
        store = self.settings.store
        if self.embedded is not None:
            return finder(store, self.embedded.url)
        return finder(store, store.url.reveal() if store.url is not None else None)

    def reload(self) -> None:
        """On SIGHUP: new workers, on the file as it stands now, secrets read again; on the old one if it is wrong."""
        try:
            new = self._read()
        except ConfigErrors as errors:
            self._refuse([str(problem) for problem in errors.problems])
            return
        if fixed := restart_needed(self.settings, new):
            self._refuse([f"{self.path}: {', '.join(fixed)} cannot change while the gateway runs; restart it"])
            return
        self.settings = new
        super().reload()

    def _refuse(self, problems: list[str]) -> None:
        """Log it, and show it where the workers show what they refuse: where secrets are gone they know nothing of it,
        and of a file that is wrong one of them has told already.
        """
        data = watch.read(self.path)
        told = self._reloads.tell(time.time(), "failure", version(data) if data is not None else "", problems)
        if told is None:
            return
        with contextlib.suppress(OSError):  # a full disk is no reason to leave
            count(self.metrics_folder, "gateway_config_reloads", {"result": told.result}, RELOADS)
        logs.refused_config(told.version, told.words, told.more, in_force=self.settings.hash)

    def load_config(self) -> None:
        listen, upstream = self.settings.listen, self.settings.upstream
        chosen: Mapping[str, Any] = {
            "bind": [_address(listen.public), _address(listen.admin)],
            "workers": self.workers,
            "worker_class": "gateway.worker.Worker",
            "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108  memory, for heartbeats
            "proc_name": "gateway",
            "graceful_timeout": max(_LONGEST_REQUEST, int(upstream.total_timeout) + _LAST_ANSWERS),
            "timeout": 60,
            "keepalive": 5,
            "backlog": 2048,
            "control_socket_disable": True,
            "logger_class": "gateway.server.Words",
            "child_exit": self._worker_left,
        }
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def load(self) -> None:
        """The worker builds its own application on its own event loop."""

    def run(self) -> None:
        # A dump of a worker, or of the embedded store, would put keys and prompts on a disk.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _raise_file_limit(self.settings.limits.max_inflight_per_worker)
        try:
            if self.embedded is not None:
                self.embedded.start(waiting=self.ending.check)
            Master(self).run()
        finally:
            self._leave()

    def _worker_left(self, _: object, __: object) -> None:
        forget_dead(self.metrics_folder)

    def _leave(self) -> None:
        if os.getpid() != self._pid:
            return  # a worker, whose end comes by here too
        if self.embedded is not None:
            self.embedded.stop()
        shutil.rmtree(self.metrics_folder, ignore_errors=True)


class Master(Arbiter):  # type: ignore[misc]  # the package carries no types
    """gunicorn's master, which once a turn also looks after the embedded store, and tells systemd how it stands."""

    def init_signals(self) -> None:
        super().init_signals()
        if self.app.ending.asked is not None:  # before, so that nobody else has heard of it
            self.signal(self.app.ending.asked, None)

    def manage_workers(self) -> None:
        self._look_after_store()
        super().manage_workers()
        self._look_after_workers()

    def spawn_worker(self) -> int:
        # Until it has handlers of its own, a worker has the master's, which only note a signal: told to end in these
        # moments it would never hear of it, and the master would wait for it as long as for its longest request.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            return int(super().spawn_worker())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def reload(self) -> None:
        self.app.systemd.reloading()
        super().reload()

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002  gunicorn's signature
        self.app.systemd.stopping()
        super().stop(graceful)

    def reap_workers(self) -> None:
        # While a reload or the end waits for requests in flight this is all that is called, minutes long.
        self._look_after_store()
        super().reap_workers()
        self._look_after_workers()

    def _look_after_store(self) -> None:
        embedded: EmbeddedStore | None = self.app.embedded
        if embedded is not None and embedded.poll():
            logs.line("embedded store respawned")

    def _look_after_workers(self) -> None:
        # A worker's first sign of life, when it serves, puts its file back from the wall clock to the monotonic one.
        now = time.monotonic()
        serving = sum(worker.tmp.last_update() <= now for worker in self.WORKERS.values())
        if self.num_workers <= serving == len(self.WORKERS):
            self.app.systemd.ready()


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def files_needed(inflight: int) -> int:
    """A request in flight takes two descriptors, one to each side."""
    return 2 * inflight + _OTHER_FILES


def _raise_file_limit(inflight: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = files_needed(inflight)
    if hard != resource.RLIM_INFINITY and hard < needed:
        logs.line("open-file limit below max_inflight_per_worker", limit=hard, needed=needed)


class Words(Logger):  # type: ignore[misc]  # the package carries no types
    """gunicorn's words go the way of all others: to the root logger, which writes JSON lines."""

    def setup(self, cfg: object) -> None:
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.handlers = []
        self.error_log.setLevel(logging.INFO)
        self.access_log.disabled = True
