"""Many at once on one worker: uploads, answers, requests that wait. Memory and descriptors are bounded and come back.

Every test ends with the same account: no slot is held, nothing is in flight, and the store has charged exactly what
the upstream made. What a case cost is printed (`pytest -rP`), in MB.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e import wire
from tests.support import stream
from tests.support.running import SECRETS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import team, wait_until
from tests.support.stream import FULL, Heard, Worker, connected

pytestmark = pytest.mark.slow

MB = 1024 * 1024
STREAMS = 64
WAITING = 2000 if FULL else 400

KEPT = 40.0  #: MB that a worker may keep: the allocator returns little, but the next load takes of that again
KEPT_FILES = 12  #: store connections and idle connections to the upstream


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@dataclass(slots=True)
class Loaded:
    """A gateway with one worker, warm. before: images of earlier tests."""

    gateway: Running
    simulator: SimulatorThread
    key: str
    before: int

    def used(self) -> dict[str, int]:
        """What the store says that the team has used, by rule."""
        head = wire.head("/v1/usage", key=self.key, method="GET", content_type=None)
        return {rule["rule"]: rule["used"] for rule in wire.ask(self.gateway.url, head).json()["rules"]}

    def check_account(self) -> None:
        """All is settled: no slot, nothing in flight, and charged is what was made."""
        made = self.before + self.simulator.record.totals.images_made
        wait_until(lambda: self.used() == {"images-day": made, "concurrent": 0})
        wait_until(lambda: self.gateway.metric("gateway_inflight_requests") == 0)
        assert self.gateway.metric("gateway_images_total", team="plain") == made
        assert self.gateway.metric("gateway_upstream_inflight") == 0
        assert "Traceback" not in self.gateway.log_text()


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorThread) -> Iterator[Running]:
    config = base_config(upstream=simulator.base_url)
    config["upstream"]["accounts"][0]["max_concurrent"] = 5000
    config["upstream"]["total_timeout"] = "60s"
    config["teams"]["plain"] = team("plain", {"quotas": [{"images": 100_000, "per": "day"}, {"concurrent": 5000}]})
    with running_gateway(config=config) as running:
        for _ in range(20):
            assert wire.ask(running.url, wire.generation(SECRETS["plain"])).status == 200
            assert wire.ask(running.url, upload(SECRETS["plain"], MB)).status == 200
        yield running


@pytest.fixture
def loaded(gateway: Running, simulator: SimulatorThread) -> Loaded:
    simulator.record.clear()
    return Loaded(gateway, simulator, SECRETS["plain"], int(gateway.metric("gateway_images_total", team="plain")))


def upload(key: str, length: int) -> bytes:
    return wire.edit(key, wire.image(wire.png(length=length)), wire.text("prompt", "a lighthouse"))


def check_worker(worker: Worker, *, peak: float, kept: float = KEPT) -> None:
    """peak, kept: MB that it may have grown at most, and in the end."""
    wait_until(lambda: worker.more_files <= KEPT_FILES, seconds=10)
    files = worker.most_files - worker.files
    print(f"peak {worker.peak:.1f} MB, kept {worker.growth:.1f} MB, files {files}, kept {worker.more_files}")
    assert worker.peak < peak
    # What pieces lay in is given back when the worker next looks at it, every few seconds.
    wait_until(lambda: worker.growth < kept, seconds=10)


def test_slow_uploads(loaded: Loaded) -> None:
    """64 edits of 4 MB, all open at once for seconds: each passes through, none is held in memory."""
    (pid,) = stream.workers(loaded.gateway)
    worker = Worker(pid)
    request = upload(loaded.key, 4 * MB - 1024)
    begun = asyncio.Barrier(STREAMS)

    async def client() -> Heard:
        async with connected(loaded.gateway.url) as line:
            half = len(request) // 2
            for start in range(0, half, 65536):
                await line.send(request[start : min(start + 65536, half)])
                await asyncio.sleep(0.02)
            await begun.wait()
            for start in range(half, len(request), 65536):
                await line.send(request[start : start + 65536])
            return await line.answer()

    async def play() -> list[Heard]:
        async with worker.watched():
            return await asyncio.gather(*(client() for _ in range(STREAMS)))

    heard = asyncio.run(play())
    assert {answer.status for answer in heard} == {200}
    # Less what was idle before and has been closed since.
    assert worker.most_files - worker.files >= 2 * STREAMS - KEPT_FILES, "all were open at once, on both sides"
    check_worker(worker, peak=STREAMS * 1.0)
    loaded.check_account()


def test_large_answers(loaded: Loaded) -> None:
    """64 answers of 4 MB at once pass through whole; none is held in memory."""
    (pid,) = stream.workers(loaded.gateway)
    worker = Worker(pid)
    loaded.simulator.script({"pad": 3 * MB, "times": STREAMS})

    async def client() -> Heard:
        async with connected(loaded.gateway.url) as line:
            return await line.ask(wire.generation(loaded.key, response_format="b64_json"))

    async def play() -> list[Heard]:
        async with worker.watched():
            return await asyncio.gather(*(client() for _ in range(STREAMS)))

    heard = asyncio.run(play())
    assert {answer.status for answer in heard} == {200}
    assert all(answer.length > 4 * MB for answer in heard)
    check_worker(worker, peak=STREAMS * 1.0)
    loaded.check_account()


def test_many_that_wait(loaded: Loaded) -> None:
    """Requests by the hundred that wait for the upstream cost little each, do not hinder one another, and all end."""
    (pid,) = stream.workers(loaded.gateway)
    worker = Worker(pid)
    loaded.simulator.script({"latency": 12.0 if FULL else 8.0, "times": WAITING})

    async def client() -> Heard:
        async with connected(loaded.gateway.url) as line:
            return await line.ask(wire.generation(loaded.key))

    async def play() -> tuple[list[Heard], float]:
        async with worker.watched():
            clients = [asyncio.create_task(client()) for _ in range(WAITING)]
            await asyncio.to_thread(
                loaded.simulator.record.wait_for, lambda totals: totals.in_flight == WAITING, timeout=20
            )
            began = time.monotonic()
            answer = await asyncio.to_thread(
                wire.ask, loaded.gateway.url, wire.head("/healthz", key=None, method="GET")
            )
            assert answer.status == 200
            return await asyncio.gather(*clients), time.monotonic() - began

    heard, _ = asyncio.run(play())
    assert {answer.status for answer in heard} == {200}
    assert loaded.simulator.record.totals.peak_in_flight == WAITING
    print(f"{worker.peak * 1000 / WAITING:.1f} KB for each that waited")
    check_worker(worker, peak=WAITING * 0.1, kept=max(KEPT, WAITING * 0.05))
    loaded.check_account()


def test_connections_to_the_upstream_are_used_again(loaded: Loaded) -> None:
    """400 requests of 16 clients open no more than 16 connections to the upstream, and each edit one of its own."""
    clients, each, edits = 16, 25, 8

    async def client(number: int) -> None:
        async with connected(loaded.gateway.url) as line:
            for _ in range(each):
                assert (await line.ask(wire.generation(loaded.key))).status == 200
            if number < edits:
                assert (await line.ask(upload(loaded.key, 10_000))).status == 200

    async def play() -> None:
        await asyncio.gather(*(client(number) for number in range(clients)))

    asyncio.run(play())
    totals = loaded.simulator.record.totals
    assert totals.complete == clients * each + edits
    assert totals.connections_opened <= clients + edits
    assert len({request.connection for request in loaded.simulator.record.requests}) <= clients + edits
