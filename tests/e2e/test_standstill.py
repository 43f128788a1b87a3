"""A worker that stands still for longer than its limits on clients and upstream: what came meanwhile is served.

SIGSTOP stands for a machine that sleeps, is moved to another host, or has no time for its processes.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from gateway.simulator.drawing import draw_generation
from tests.e2e import wire
from tests.e2e.wire import Wire, connected
from tests.support import stream
from tests.support.running import SECRETS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import wait_until

pytestmark = pytest.mark.slow

LIMIT = 3.0  # seconds: on heads, on pieces of bodies and on answers of the upstream
KEPT = 5.0  # seconds that an idle connection is kept
STILL = KEPT + 2.0
LATENCY = 1.5  # seconds that the upstream takes

KEY = SECRETS["free"]
ORDER = wire.generation(KEY)
EDIT = wire.edit(KEY, wire.image(draw_generation("A pier", (1024, 1024), 0)), wire.text("prompt", "a pier"))


@pytest.fixture
def simulator() -> Iterator[SimulatorThread]:
    with running_simulator(latency=LATENCY) as running:
        yield running


@pytest.fixture
def gateway(simulator: SimulatorThread) -> Iterator[Running]:
    config = base_config(upstream=simulator.base_url)
    config["request_limits"] = {"header_timeout": f"{LIMIT:g}s", "body_idle_timeout": f"{LIMIT:g}s"}
    config["upstream"] |= {"connect_timeout": "1s", "total_timeout": f"{LIMIT:g}s"}
    with running_gateway(config=config) as running:
        yield running


def test_what_came_while_a_worker_stood_still_is_served(gateway: Running, simulator: SimulatorThread) -> None:
    """On a kept connection and on one without a byte yet, behind half a head and half an edit: each order is answered,
    and so is the one whose answer came meanwhile. Each is made and charged once.
    """
    with contextlib.ExitStack() as stack:

        def begun(data: bytes) -> Wire:
            line = stack.enter_context(connected(gateway.url))
            line.send(data)
            return line

        late = {
            "kept": (begun(ORDER), ORDER),
            "new": (begun(b""), ORDER),
            "head": (begun(ORDER[:40]), ORDER[40:]),
            "upload": (begun(EDIT[: len(EDIT) // 2]), EDIT[len(EDIT) // 2 :]),
        }
        assert late["kept"][0].read().status == 200
        answered = begun(ORDER)
        wait_until(lambda: len(simulator.record.requests) == 2 and gateway.metric("gateway_inflight_requests") == 2)
        (pid,) = stream.workers(gateway)
        os.kill(pid, signal.SIGSTOP)
        for line, rest in late.values():
            line.send(rest)
        time.sleep(STILL)
        os.kill(pid, signal.SIGCONT)
        assert {name: line.read().status for name, (line, _) in late.items()} == dict.fromkeys(late, 200)
        assert answered.read().status == 200
    assert sum(request.images_made for request in simulator.record.requests) == 6
    assert gateway.metric("gateway_images_total", team="free") == 6


def test_who_sends_nothing_is_let_go_after_a_standstill(gateway: Running) -> None:
    """A client that kept silent while its worker stood still, with half a head or none, has no more time than any."""
    with connected(gateway.url) as kept, connected(gateway.url) as half:
        kept.send(ORDER)
        assert kept.read().status == 200
        half.send(ORDER[:40])
        (pid,) = stream.workers(gateway)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STILL)
        os.kill(pid, signal.SIGCONT)
        began = time.monotonic()
        assert half.read().status == 408
        assert kept.at_end()
        # A worker that was stopped between an answer and its timer begins to wait only now.
        assert time.monotonic() - began < KEPT + LIMIT
