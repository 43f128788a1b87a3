"""Clients that read slowly, stop reading, or leave: at any point of a request, many at once, on one worker.

Whatever they do, an order that reached the upstream is read to its end and charged, one that did not is not, no slot
stays held, and neither memory nor descriptors are. What it cost is printed (`pytest -rP`), in MB.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.e2e import wire
from tests.e2e.watching import Watched
from tests.support import stream
from tests.support.running import SECRETS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import team, wait_until
from tests.support.stream import FULL, Worker, connected

pytestmark = pytest.mark.slow

MB = 1024 * 1024
EACH = 64 if FULL else 16  #: clients of a kind

#: For an answer. A client that reads nothing is let go ten seconds before that.
UPSTREAM_SECONDS = 60 if FULL else 18


#: MB that a worker may keep: the allocator returns little, but the next load takes of that again.
KEPT = 160.0 if FULL else 40.0
KEPT_FILES = 12


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorThread) -> Iterator[Running]:
    config = base_config(upstream=simulator.base_url)
    config["upstream"]["total_timeout"] = f"{UPSTREAM_SECONDS}s"
    config["request_limits"] = {"body_idle_timeout": "4s"}
    rules = [{"images": 100_000, "per": "day"}, {"concurrent": 1000}]
    config["teams"]["plain"] = team("plain", {"quotas": rules})
    config["teams"]["single"] = team("single", {"quotas": [{"images": 100, "per": "day"}, {"concurrent": 1}]})
    with running_gateway(config=config) as running:
        for _ in range(20):
            assert wire.ask(running.url, wire.generation(SECRETS["plain"])).status == 200
        yield running
        assert "Traceback" not in running.log_text()


@dataclass(slots=True)
class Account:
    """What one team has been charged since the simulator's record was cleared."""

    gateway: Running
    simulator: SimulatorThread
    name: str
    before: int = 0

    def __post_init__(self) -> None:
        self.simulator.record.clear()
        self.before = self.used()["images-day"]

    def used(self) -> dict[str, int]:
        head = wire.head("/v1/usage", key=SECRETS[self.name], method="GET", content_type=None)
        return {rule["rule"]: rule["used"] for rule in wire.ask(self.gateway.url, head).json()["rules"]}

    def check(self, *, made: int) -> None:
        """So many were made, and are charged; no slot is held."""
        wait_until(lambda: self.used() == {"images-day": self.before + made, "concurrent": 0}, seconds=20)
        assert self.simulator.record.totals.images_made == made
        wait_until(lambda: self.gateway.metric("gateway_inflight_requests") == 0)
        wait_until(lambda: self.gateway.metric("gateway_upstream_inflight") == 0)


def large(key: str) -> bytes:
    """An order whose answer, with the simulator's padding, is larger than what the kernel takes for a client."""
    return wire.generation(key, response_format="b64_json")


def test_readers_of_every_kind(gateway: Running, simulator: SimulatorThread) -> None:
    """Answers of 4 MB, at once: to clients that read on slowly, who get them whole; that leave, or reset, in the midst;
    and that stop reading, who are let go. Memory stays bounded, and everything is charged as it was made.
    """
    account = Account(gateway, simulator, "plain")
    (pid,) = stream.workers(gateway)
    worker = Worker(pid)
    key = SECRETS["plain"]
    simulator.script({"pad": 3 * MB, "times": 4 * EACH})

    async def slow() -> None:
        async with connected(gateway.url, small=True) as line:
            await line.send(large(key))
            _, headers = await line.head()
            left = int(headers["content-length"])
            assert left > 4 * MB
            while left:  # in about three seconds
                left -= len(await line.reader.readexactly(min(left, 128 * 1024)))
                await asyncio.sleep(0.1)

    async def leaving(*, reset: bool) -> None:
        async with connected(gateway.url, small=True) as line:
            await line.send(large(key))
            await line.head()
            await line.reader.readexactly(MB // 2)
            if reset:
                line.reset()

    let_go = asyncio.Event()

    async def stalled() -> bool:
        async with connected(gateway.url, small=True) as line:
            await line.send(large(key))
            _, headers = await line.head()
            line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport
            await let_go.wait()
            line.writer.transport.resume_reading()  # type: ignore[attr-defined]  # see above
            return len(await line.ended(10)) < int(headers["content-length"])

    async def play() -> float:
        async with worker.watched(), asyncio.TaskGroup() as group:
            for _ in range(EACH):
                group.create_task(leaving(reset=False))
                group.create_task(leaving(reset=True))
            stalling = [group.create_task(stalled()) for _ in range(EACH)]
            await asyncio.gather(*(slow() for _ in range(EACH)))
            served = time.monotonic()
            while worker.more_files > KEPT_FILES:
                assert time.monotonic() - served < UPSTREAM_SECONDS
                await asyncio.sleep(0.1)
            let_go.set()
        assert all(task.result() for task in stalling), "none of them got a whole answer"
        return time.monotonic() - served

    waited = asyncio.run(play())
    account.check(made=4 * EACH)
    print(f"peak {worker.peak:.1f} MB, kept {worker.growth:.1f} MB, files {worker.most_files - worker.files}")
    print(f"let go {waited:.1f} s after the others had been served")
    assert worker.peak < 4 * EACH * 1.0
    assert worker.growth < KEPT


def test_leaving_at_any_point_of_a_request(gateway: Running, simulator: SimulatorThread) -> None:
    """Clients that leave, or stall, within a head, within an upload, or while their image is made: what had not gone up
    whole is not charged, what had is; the slot of each is free at once.
    """
    account = Account(gateway, simulator, "plain")
    (pid,) = stream.workers(gateway)
    worker = Worker(pid)
    key = SECRETS["plain"]
    simulator.script({"endpoint": "generations", "latency": 4.0, "times": 2 * EACH})
    all_there = asyncio.Event()
    upload = wire.edit(key, wire.image(wire.png(length=MB)), wire.text("prompt", "a lighthouse"))

    async def within(part: bytes, *, reset: bool) -> None:
        async with connected(gateway.url) as line:
            await line.send(part)
            await all_there.wait()  # a reset takes with it what nobody has read yet
            if reset:
                line.reset()

    async def come() -> None:
        """What is whole is at the upstream, what is not is at the gateway."""
        await asyncio.to_thread(simulator.record.wait_for, lambda totals: totals.in_flight == 2 * EACH)
        inflight = partial(gateway.metric, "gateway_inflight_requests")
        await asyncio.to_thread(wait_until, lambda: inflight() == 5 * EACH)
        all_there.set()

    async def stalled() -> None:
        async with connected(gateway.url) as line:
            await line.send(upload[: MB // 2])
            heard = await line.answer()
            assert (heard.status, heard.code) == (408, "request_timeout")

    async def play() -> None:
        async with worker.watched(), asyncio.TaskGroup() as group:
            for number in range(EACH):
                reset = number % 2 == 0
                group.create_task(within(wire.generation(key)[:60], reset=reset))
                group.create_task(within(upload[: MB // 2], reset=reset))
                group.create_task(within(upload[:-1], reset=reset))
                group.create_task(within(wire.generation(key), reset=reset))
                group.create_task(within(wire.generation(key), reset=not reset))
                group.create_task(stalled())
            group.create_task(come())

    asyncio.run(play())
    account.check(made=2 * EACH)
    wait_until(lambda: worker.more_files <= KEPT_FILES)
    print(f"peak {worker.peak:.1f} MB, kept {worker.growth:.1f} MB, files {worker.most_files - worker.files}")
    outcomes = [line["outcome"] for line in gateway.requests_logged() if line["team"] == "plain"]
    assert outcomes.count("client_gone") == 2 * EACH
    assert worker.growth < KEPT


def test_a_leaving_uploader_frees_its_slot_at_once(gateway: Running, simulator: SimulatorThread) -> None:
    """The one slot of a team is free for its next request as soon as the client that held it has left its upload."""
    account = Account(gateway, simulator, "single")
    key = SECRETS["single"]
    upload = wire.edit(key, wire.image(wire.png(length=MB)), wire.text("prompt", "a lighthouse"))

    async def play() -> None:
        for number in range(10):
            async with connected(gateway.url) as line:
                await line.send(upload[: MB // 2])
                await asyncio.to_thread(wait_until, lambda: account.used()["concurrent"] == 1)
                if number % 2:
                    line.reset()
            began = time.monotonic()
            await asyncio.to_thread(wait_until, lambda: account.used()["concurrent"] == 0)
            assert time.monotonic() - began < 1
            async with connected(gateway.url) as line:
                assert (await line.ask(wire.generation(key))).status == 200

    asyncio.run(play())
    account.check(made=10)


def test_an_answer_that_comes_late_is_read_in_peace(impatient: Watched) -> None:
    """With little of the upstream's time left a client that reads at once still gets a large answer whole."""
    impatient.simulator.script({"pad": 3 * MB})
    answer = wire.ask(impatient.url, large(impatient.key("plain")))
    assert answer.status == 200
    assert len(answer.body) > 4 * MB
