"""Leaving and changing over under load: readiness goes first, requests end, nothing that was settled is lost."""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.ending import Ending
from gateway.server import Gateway
from tests.core import sample
from tests.e2e import wire
from tests.support import stream
from tests.support.running import SECRETS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import team, wait_until
from tests.support.stream import Heard, connected

pytestmark = pytest.mark.slow

CLIENTS = 20
RELOADS = 3


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def lasting(simulator: SimulatorThread) -> Iterator[Running]:
    """A gateway that these tests ask to leave and start again; a team of its own for each of them."""
    config = base_config(upstream=simulator.base_url)
    rules = [{"images": 100_000, "per": "day"}, {"concurrent": 100}]
    config["teams"] |= {name: team(name, {"quotas": rules}) for name in ("reload", "int", "term", "kill")}
    with running_gateway(config=config) as running:
        yield running


@pytest.fixture
def gateway(lasting: Running, simulator: SimulatorThread) -> Iterator[Running]:
    """It runs, and the simulator has nothing recorded."""
    if lasting.process is None or lasting.process.poll() is not None:
        lasting.start()
    simulator.record.clear()
    yield lasting
    simulator.simulator.clear_script()


def used(gateway: Running, name: str) -> dict[str, int]:
    """What the store says that a team has used, by rule."""
    usage = wire.ask(gateway.url, wire.head("/v1/usage", key=SECRETS[name], method="GET", content_type=None)).json()
    return {rule["rule"]: rule["used"] for rule in usage["rules"]}


def ready(url: str) -> int | None:
    """The status of a look at readiness on a new connection; None if nobody answers."""
    with contextlib.suppress(OSError, EOFError):
        return wire.ask(
            url, wire.head("/readyz", "Connection: close", key=None, method="GET", content_type=None)
        ).status
    return None


async def spread(clients: "Clients", url: str) -> list[tuple[float, int | None]]:
    """Looks until nobody answers any more, with their times, as whoever spreads requests over hosts would."""
    looks: list[tuple[float, int | None]] = []
    while not looks or looks[-1][1] is not None:
        looks.append((time.monotonic(), await asyncio.to_thread(ready, url)))
        clients.ready = looks[-1][1] == 200
        await asyncio.sleep(0.02)
    return looks


class Clients:
    """Clients with kept connections, each asking on and on, until they are told that it is over.

    A client that is told `connection: close` makes a new connection if the host says that it is ready.
    """

    def __init__(self, gateway: Running, name: str) -> None:
        self.answers: list[tuple[float, Heard]] = []
        self.failures: list[str] = []
        self.over = False
        self.ready = True
        self._url, self._key = gateway.url, SECRETS[name]

    async def run(self, number: int) -> None:
        await asyncio.gather(*(self._client() for _ in range(number)))

    async def _client(self) -> None:
        while self.ready and not self.over:
            try:
                async with connected(self._url) as line:
                    while not self.over:
                        answer = await line.ask(wire.generation(self._key))
                        self.answers.append((time.monotonic(), answer))
                        if answer.closes:
                            break
            except (OSError, EOFError) as error:
                self.failures.append(repr(error))
                return


def test_reloads_under_load_fail_nobody(gateway: Running, simulator: SimulatorThread) -> None:
    """Three SIGHUPs under 20 kept connections: every request gets its image, and as many are charged as were made."""

    async def play() -> Clients:
        clients = Clients(gateway, "reload")
        running = asyncio.create_task(clients.run(CLIENTS))
        for _ in range(RELOADS):
            (old,) = stream.workers(gateway)
            os.kill(gateway.pid, signal.SIGHUP)
            answered = len(clients.answers)
            ends = time.monotonic() + 20
            while old in stream.workers(gateway) or len(clients.answers) < answered + CLIENTS:
                assert time.monotonic() < ends
                await asyncio.sleep(0.02)
        clients.over = True
        await running
        return clients

    before = gateway.metric("gateway_images_total", team="reload")
    simulator.script({"latency": 0.05, "times": None})
    clients = asyncio.run(play())
    assert clients.failures == []
    assert {answer.status for _, answer in clients.answers} == {200}
    made = simulator.record.totals.images_made
    assert len(clients.answers) == made > RELOADS * CLIENTS
    assert gateway.metric("gateway_images_total", team="reload") - before == made
    assert used(gateway, "reload") == {"images-day": made, "concurrent": 0}
    log = gateway.log_text()
    assert "Traceback" not in log
    assert "Error while closing socket" not in log
    assert "change detected" not in log, "the log is in the config's folder: it must not speak of itself"


@pytest.mark.parametrize("name", ["term", "int"])
def test_readiness_goes_first_and_requests_end(gateway: Running, simulator: SimulatorThread, name: str) -> None:
    """After SIGTERM, and SIGINT, /readyz says 503 while requests are still taken and answered; those in flight end
    with their images, no connection is cut, and the exit status is 0. Another SIGTERM, and one to the worker, changes
    nothing about it.
    """
    (worker,) = stream.workers(gateway)
    first_signal, more = {"term": (signal.SIGTERM, (gateway.pid, worker, gateway.pid)), "int": (signal.SIGINT, ())}[
        name
    ]

    async def play() -> tuple[Clients, list[tuple[float, int | None]], Heard, float]:
        clients = Clients(gateway, name)
        simulator.script({"latency": 3.0})
        async with connected(gateway.url) as slow:
            await slow.send(wire.generation(SECRETS[name]))
            await asyncio.to_thread(simulator.record.wait_for, lambda totals: totals.in_flight == 1)
            simulator.script({"latency": 0.05, "times": None})
            running = asyncio.create_task(clients.run(CLIENTS))
            ends = time.monotonic() + 10
            while len(clients.answers) < 2 * CLIENTS:
                assert time.monotonic() < ends
                await asyncio.sleep(0.01)
            watching = asyncio.create_task(spread(clients, gateway.url))
            asked = time.monotonic()
            os.kill(gateway.pid, first_signal)
            for pid in more:
                await asyncio.sleep(0.3)
                os.kill(pid, signal.SIGTERM)
            heard = await slow.answer()
            looks = await watching
            await running
            return clients, looks, heard, asked

    clients, looks, heard, asked = asyncio.run(play())
    assert gateway.process is not None
    assert gateway.process.wait(10) == 0
    assert heard.status == 200
    assert clients.failures == []
    assert {answer.status for _, answer in clients.answers} == {200}
    first = next(at for at, status in looks if status == 503)
    assert first - asked < 1
    assert [status for at, status in looks if at > first] == [503] * sum(at > first for at, _ in looks[:-1]) + [None]
    assert any(at > first for at, _ in clients.answers), "requests were answered after the first 503"
    made = simulator.record.totals.images_made
    assert made == len(clients.answers) + 1
    gateway.start()
    assert used(gateway, name) == {"images-day": made, "concurrent": 0}


@pytest.mark.parametrize("total", [30.0, 280.0, 299.0])
def test_the_end_waits_for_any_request(tmp_path: Path, total: float) -> None:
    """Workers get longer to end than an answer may take, though that time be raised while they run; and gunicorn opens
    no socket of its own by which it could be told things.
    """
    settings = sample.settings()
    settings = replace(
        settings,
        listen=replace(settings.listen, public=("127.0.0.1", 1), admin=("127.0.0.1", 2)),
        upstream=replace(settings.upstream, total_timeout=total),
        store=replace(settings.store, data_dir=str(tmp_path)),
    )
    server = Gateway(tmp_path / "config.yaml", lambda: settings, Ending())
    server._leave()
    assert server.cfg.graceful_timeout >= max(300, total + 10)
    assert server.cfg.control_socket_disable


def heartbeat(pid: int) -> float:
    """When the worker last told its master that it lives."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "wgunicorn-" in str(entry.readlink()):
                return entry.stat().st_mtime
    raise AssertionError("a worker has a file for its signs of life")


def test_a_reload_that_waits_loses_nothing(gateway: Running, simulator: SimulatorThread) -> None:
    """While a reload waits for a long request its worker goes on giving signs of life, without which it would be killed
    with it after a minute; and a store that dies is started again: orders are taken, and the long one is charged.
    """
    simulator.script({"latency": 10.0})  # longer than the bounds on what happens meanwhile
    (old,) = stream.workers(gateway)

    async def play() -> tuple[Heard, list[float]]:
        async with connected(gateway.url) as line:
            await line.send(wire.generation(SECRETS["kill"]))
            await asyncio.to_thread(simulator.record.wait_for, lambda totals: totals.in_flight == 1)
            os.kill(gateway.pid, signal.SIGHUP)
            beats = [heartbeat(old)]
            ends = time.monotonic() + 4
            while stream.workers(gateway) == [old]:
                assert time.monotonic() < ends
                await asyncio.sleep(0.02)
            os.kill(store_of(gateway), signal.SIGKILL)
            killed = time.monotonic()
            while True:
                async with connected(gateway.url) as other:
                    answer = await other.ask(wire.generation(SECRETS["kill"], "Connection: close"))
                beats.append(heartbeat(old))
                back = time.monotonic() - killed
                if answer.status == 200 and back > 0.5:
                    break
                assert back < 5
                await asyncio.sleep(0.1)
            long = asyncio.create_task(line.answer())
            assert old in stream.workers(gateway), "the reload still waits"
            while not long.done():
                await asyncio.sleep(0.1)
                with contextlib.suppress(AssertionError, OSError):  # it may have gone
                    beats.append(heartbeat(old))
            return await long, beats

    heard, beats = asyncio.run(play())
    assert heard.status == 200
    assert max(beats) - min(beats) > 3
    assert max(later - earlier for earlier, later in itertools.pairwise(sorted(set(beats)))) < 4
    wait_until(lambda: used(gateway, "kill") == {"images-day": simulator.record.totals.images_made, "concurrent": 0})


def store_of(gateway: Running) -> int:
    children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text("utf-8").split()
    (pid,) = {int(pid) for pid in children} - set(stream.workers(gateway))
    return pid
