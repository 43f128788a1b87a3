"""Good traffic while another project's tool, slowhttptest, holds five hundred connections by being slow.

What its clients noticed of that is printed (`pytest -rP`), in ms; to judge it is nobody's but the reader's.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from statistics import quantiles

import pytest

from tests.e2e import wire
from tests.support import stream
from tests.support.running import SECRETS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator

pytestmark = [pytest.mark.slow, pytest.mark.debian("slowhttptest")]

HELD = 500
SECONDS = 3.0  #: that good traffic is measured alone
EVERY = 0.05  #: seconds between two orders

SERVED = 3  #: good orders at least while all are held, which is for seconds: a fraction of what comes

KEY = SECRETS["free"]

LATE = 5.0  #: seconds, for a loaded machine

#: How each is slow; its path; seconds in which the gateway must be rid of them all.
KINDS = {
    "headers": (("-H", "-i", "1"), "/v1/models", 6.0),
    "body": (("-B", "-i", "1", "-s", "100000", "-f", "application/json"), wire.GENERATIONS, 9.0),
    # It asks ten times and reads five bytes a second. The gateway waits half a minute for who does not read on.
    "read": (("-X", "-k", "10", "-w", "256", "-y", "512", "-n", "1", "-z", "5"), "/openapi.json", 40.0),
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorThread) -> Iterator[Running]:
    config = base_config(upstream=simulator.base_url)
    config["request_limits"] = {"header_timeout": "6s", "body_idle_timeout": "6s", "body_total_timeout": "8s"}
    with running_gateway(config=config) as running:
        yield running
        assert "Traceback" not in running.log_text()


async def ordering(url: str, taken: list[float]) -> None:
    """Twenty orders a second, each on a connection of its own, as far as answers keep up; all must be good."""
    while True:
        began = time.monotonic()
        async with stream.connected(url) as line:
            assert (await line.ask(wire.generation(KEY))).status == 200
        taken.append(time.monotonic() - began)
        await asyncio.sleep(max(0.0, began + EVERY - time.monotonic()))


@contextlib.asynccontextmanager
async def good_traffic(url: str) -> AsyncIterator[list[float]]:
    """It goes on for the block's time; the seconds that each order took."""
    taken: list[float] = []
    task = asyncio.create_task(ordering(url, taken))
    try:
        yield taken
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait({task})


@contextlib.asynccontextmanager
async def slow_traffic(url: str, *how: str, seconds: float) -> AsyncIterator[None]:
    command = ("slowhttptest", *how, "-c", str(HELD), "-r", str(HELD), "-l", str(int(seconds)), "-p", "10", "-u", url)
    # The one header that it lets its caller name has the key behind it.
    command = (*command, "-j", f"x=y\r\nAuthorization: Bearer {KEY}")
    tool = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        yield
    finally:
        if tool.returncode is None:
            tool.kill()
        await tool.wait()


@pytest.mark.parametrize("kind", KINDS)
def test_five_hundred_slow_clients_harm_nobody(kind: str, gateway: Running) -> None:
    """No order of a good client fails or waits for the slow ones to go, and these have all ended by their deadline."""
    how, path, deadline = KINDS[kind]
    (worker,) = stream.workers(gateway)

    async def play() -> tuple[list[float], list[float], float]:
        async with good_traffic(gateway.url) as alone:
            await asyncio.sleep(SECONDS)
        before = stream.descriptors(worker)
        began = time.monotonic()
        async with (
            good_traffic(gateway.url) as beside,
            slow_traffic(f"{gateway.url}{path}", *how, seconds=deadline + 10),
        ):
            while stream.descriptors(worker) < before + HELD * 0.9:
                assert time.monotonic() - began < 10, "they were never held"
                await asyncio.sleep(0.05)
            held, served = time.monotonic(), len(beside)
            while stream.descriptors(worker) > before + HELD * 0.9:
                assert time.monotonic() - held < deadline + LATE, "they are all still held"
                await asyncio.sleep(0.05)
            assert len(beside) > served + SERVED, "good orders stood still while they were held"
            while stream.descriptors(worker) > before + 12:
                assert time.monotonic() - held < deadline + LATE, "some are still held"
                await asyncio.sleep(0.05)
            return alone, beside, time.monotonic() - began

    alone, beside, seconds = asyncio.run(play())
    for name, taken in (("alone", alone), (f"beside {HELD} with slow {kind}", beside)):
        cuts = quantiles(taken, n=100)
        print(f"{name}: {len(taken)} orders, median {cuts[49] * 1e3:.1f}, p99 {cuts[98] * 1e3:.1f} ms")
    print(f"all opened and let go in {seconds:.1f} s")
