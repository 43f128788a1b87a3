"""A gunicorn worker: uvicorn's loop with our protocol, both listeners, and everything that lives on its event loop."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn._compat import asyncio_run
from uvicorn.config import Config
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from gateway import __version__, logs
from gateway.accounts import Accounts
from gateway.app import build_admin, build_app
from gateway.audit import Audit
from gateway.core.catalog import Settings
from gateway.core.errors import GatewayError, StoreUnavailable
from gateway.core.quota import MICRO
from gateway.core.settlement import Settlement
from gateway.lastuse import LastUse
from gateway.ledger.administration import Administration
from gateway.ledger.administration import told as told_of
from gateway.ledger.redis import RedisLedger
from gateway.ledger.servers import Finder
from gateway.live import Live
from gateway.metrics import Metrics
from gateway.parts import Parts, Readiness
from gateway.pipeline.meter import Tally
from gateway.protocol import Doors, Protocol
from gateway.refused import Refused
from gateway.reloads import Reloads
from gateway.slots import take_slot, tell_config
from gateway.traces import begun
from gateway.transport import Transport

#: Seconds beyond the body's and the upstream's own limits after which nobody can still be working on a request.
_MARGIN = 60.0

#: Seconds that a worker waits for the store before it takes requests without one.
_FIRST_CONTACT = 5.0

#: Seconds between two looks for changes that commands made.
_CHANGES = 2.0

#: Descriptors of a worker that come and go beside those of requests: the store's connections, files of uploads.
_SPARE = 24

#: Bytes of answers that the kernel takes for a client beyond what is on its way to it.
_UNSENT = 128 * 1024

#: Seconds between two times that freed memory is given back to the system.
_TRIM = 5.0

#: Looked up once: each look-up makes a library and its types anew, a circle of 3 KB that only the collector ends.
_malloc_trim, _mallopt = (getattr(ctypes.CDLL(None), name, None) for name in ("malloc_trim", "mallopt"))

#: Glibc's numbers (malloc.h) for from how many bytes on a piece is mapped by itself, how many may lie free at the
#: heap's end, and what is set here for both.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_KEPT = 32 * 1024 * 1024

#: Bytes of a client's that are read at once. Each read costs a turn of the loop, and is held until it has gone up.
_INTAKE = 256_000

#: Seconds in which a leaving worker that has work says "not ready" and still takes what comes.
_NOTICE = 2.0


@contextlib.asynccontextmanager
async def assembled(path: Path, settings: Settings, store: Finder, folder: Path) -> AsyncIterator[Parts]:
    """One worker's parts on the running loop, its ledger's beat and its eye on the config file going; let go in
    order at the end.

    path: the config file. settings: what the master read of it. store: the way to the ledger's server. folder: where
    the workers' metrics files are.
    """
    slot = take_slot(folder)
    metrics = _metrics()
    tally = Tally(metrics)
    reloads = Reloads(folder)
    was_up = True

    def observed(operation: str, seconds: float, failed: bool) -> None:  # noqa: FBT001  a callback's one fact
        nonlocal was_up
        tally.stored(operation, seconds, failed)
        if was_up is failed:
            was_up = not failed
            logs.line("store away" if failed else "store back", logging.WARNING, error=ledger.trouble or None)

    ledger = RedisLedger(
        store,
        namespace=settings.store.namespace,
        deadline=_deadline(settings),
        patience=_patience(settings),
        observe=observed,
        presumed=tally.presumed,
        forgot=partial(_tell_loss, slot),
        unbooked=_tell_unbooked,
    )

    audit = Audit(reloads, metrics, ledger.states)

    def in_force(now: Settings) -> None:
        ledger.deadline, ledger.patience = _deadline(now), _patience(now)
        metrics.reloaded(now)
        _tell_config(folder, slot, now)

    def applied(old: Settings, new: Settings) -> None:
        in_force(new)
        audit.applied(old, new)

    def refused(problems: list[str]) -> None:
        audit.refused(live.version, problems, in_force=live().hash)

    live = Live(path, settings, kept=folder / "in-force.yaml", applied=applied, refused=refused)
    await live.catch_up()
    reloads.begun()
    in_force(live())
    metrics.config_success.set(not live.problems)
    transport = Transport()
    administration = ledger.administration()
    latest = Refused(administration.keep_refusals, ledger.now)
    last_use = LastUse(ledger.keep_uses, ledger.now)
    traces = begun(os.environ)
    parts = Parts(
        live,
        ledger,
        transport,
        metrics,
        tally,
        Readiness(ledger),
        Accounts(tally.busy),
        latest,
        last_use,
        reloads,
        traces.note,
    )
    # A new worker beside busy ones must not refuse what they would take.
    await ledger.connect(_FIRST_CONTACT)
    going = (ledger.run(), live.follow(), parts.refused.run(), last_use.run(), _tell_changes(administration))
    tasks = [asyncio.create_task(task) for task in going]
    for task in tasks:
        task.add_done_callback(_must_go_on)
    try:
        yield parts
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await audit.written()
        await parts.refused.write()
        await last_use.write()
        await ledger.close()
        await transport.aclose()
        await traces.close()


def _metrics() -> Metrics:
    metrics = Metrics()
    metrics.build_info.labels(__version__).set(1)
    metrics.start_time.set(time.time())
    return metrics


def _tell_config(folder: Path, slot: int, now: Settings) -> None:
    """A full disk keeps no change out: it has this worker shown as one that lags behind."""
    with contextlib.suppress(OSError):
        tell_config(folder, slot, now.hash)


def _tell_loss(slot: int, times: int) -> None:
    """All workers hear of it: one of them tells it for the host."""
    if slot == 0:
        logs.line("store history lost: what was used since its last state is forgotten", logging.ERROR, times=times)


def _tell_unbooked(rid: str, end: Settlement, why: str) -> None:
    """A line for each: an invoice can be set right by them."""
    facts = {"images": end.images, "cost_usd": end.cost / MICRO, "end": end.end.value, "reason": why}
    logs.line("charge not in the usage ledger", logging.ERROR, reservation_id=rid, **facts)


async def _tell_changes(administration: Administration) -> None:
    """Log what commands have changed in the store; of all workers and hosts one tells it."""
    while True:
        await asyncio.sleep(_CHANGES)
        with contextlib.suppress(StoreUnavailable):
            for change in await administration.untold():
                logs.line(f"quota {change.act}", logging.INFO, **told_of(change))


def _unread(parts: Parts, request_id: str, client_ip: str, error: GatewayError) -> None:
    """A head that was never whole has no exchange; who asks for it by its id finds it all the same."""
    parts.tally.unread(error)
    facts = {"request_id": request_id, "client_ip": client_ip, "endpoint": "other", "outcome": error.outcome}
    logs.request({**facts, "code": error.code, "status": error.status})


def _must_go_on(task: asyncio.Task[None]) -> None:
    """A worker that no longer renews, delivers or reloads looks well and is not: another takes its place."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logs.fault(error, task="background")
        os.kill(os.getpid(), signal.SIGTERM)


def _keep_memory() -> None:
    """What a piece of an upload lay in is there for the next one: new pages are a twentieth of an upload's cost."""
    if _malloc_trim is not None and _mallopt is not None:
        _mallopt(_M_MMAP_THRESHOLD, _KEPT)
        _mallopt(_M_TRIM_THRESHOLD, _KEPT)


def _give_memory_back() -> None:
    """Glibc would keep what many slow clients once held. To map each large piece by itself gives it back at once, but
    the next piece then pays for new pages: a fifth of an upload's cost, a third of a large answer's.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def _most_connections() -> int:
    """Each connection may need a second descriptor, to the upstream, beside those that the worker has of its own."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    own = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 50
    return max(1, (limit - own - _SPARE) // 2) if limit != resource.RLIM_INFINITY else sys.maxsize


def _deadline(settings: Settings) -> float:
    return settings.limits.body_total_timeout + settings.upstream.total_timeout + _MARGIN


def _patience(settings: Settings) -> float:
    lists = (settings.organization, *(team.rules for team in settings.teams.values()))
    waits = (rule.wait for rules in lists for rule in rules)
    return settings.limits.body_total_timeout + max(waits, default=0.0) + _MARGIN


class Worker(UvicornWorker):  # type: ignore[misc]  # the package carries no types
    """`self.app` is gateway.server's application: it has the settings, the store's address and the metrics folder."""

    _orphaned = False
    _trimmed = 0.0

    def init_signals(self) -> None:
        super().init_signals()
        # A reload is the master's. A terminal that closes tells all of its processes, whose images are under way.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, Arbiter.SIGNALS)  # what came since the fork counts now

    def run(self) -> None:
        # uvicorn's words go the way of all others; what it says of each client's broken head is nobody's business.
        words = logging.getLogger("uvicorn.error")
        words.propagate = True
        words.setLevel(logging.ERROR)
        # gunicorn's signals are back at their defaults by now; ours are set on the loop.
        asyncio_run(self._serve(), loop_factory=self.config.get_loop_factory())

    async def _serve(self) -> None:
        folder: Path = self.app.metrics_folder
        settings: Settings = self.app.settings
        async with assembled(self.app.path, settings, self.app.store(), folder) as parts:
            server = _Server(self._config(parts, folder), parts.readiness)
            loop = asyncio.get_running_loop()
            logs.keep_words_in(loop)
            _keep_memory()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                loop.add_signal_handler(number, server.leave)
            gc.collect()
            gc.freeze()  # what is here now stays: the collector need not walk it again and again
            gc.set_threshold(50_000, 20, 50)
            # Python's own sockets, not gunicorn's wrappers: uvloop takes them over and leaves no stale number behind,
            # which would be closed a second time when it may be somebody else's.
            listeners = [listener.sock for listener in self.sockets]
            for listener in listeners if hasattr(socket, "TCP_NOTSENT_LOWAT") else ():
                # Accepted connections inherit it. Without it the kernel takes 4 MB for each client that does not read.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
            await server._serve(sockets=listeners)  # noqa: SLF001  `serve` would set and re-raise signals of its own
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _config(self, parts: Parts, folder: Path) -> Config:
        config: Any = Config(
            build_app(parts),
            interface="asgi3",
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=self.cfg.keepalive,
            timeout_notify=1,
            callback_notify=self.callback_notify,
            backlog=self.cfg.backlog,
        )
        config.admin_app = build_admin(parts, folder)
        config.admin_address = tuple(self.sockets[1].getsockname()[:2])
        config.doors = Doors(_most_connections())
        config.intake = memoryview(bytearray(_INTAKE))
        config.readiness = parts.readiness
        config.unread = partial(_unread, parts)
        config.settings = parts.settings
        return config  # type: ignore[no-any-return]  # uvicorn's own, with settings of ours

    async def callback_notify(self) -> None:
        self.notify()
        if time.monotonic() - self._trimmed > _TRIM:
            _give_memory_back()
            self._trimmed = time.monotonic()
        if os.getppid() != self.ppid and not self._orphaned:
            # The master was killed. Nobody would ever end this worker, or take its place beside the next master's.
            self._orphaned = True
            logs.line("master gone, leaving")
            os.kill(os.getpid(), signal.SIGTERM)


class _Server(Server):
    def __init__(self, config: Config, readiness: Readiness) -> None:
        super().__init__(config)
        self._readiness = readiness

    def leave(self) -> None:
        """Take no more connections, end the requests in flight, go. Said twice it means the same."""
        self._readiness.draining = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Whoever spreads the requests has to see that this host is not ready before it stops taking them. A worker
        # without work has nobody to tell.
        ticking = asyncio.create_task(self._tick())
        try:
            if self.server_state.connections:
                await asyncio.sleep(_NOTICE)
            await super().shutdown(sockets)
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        """The main loop has ended; a worker that no longer gives a sign of life would be killed with its requests."""
        while True:
            await self.on_tick(0)
            await asyncio.sleep(1)
