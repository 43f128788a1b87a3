"""Ends and beginnings: what is kept over them, what is left behind, how long they take. With the embedded store."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.processes import Family, family, seconds_until
from tests.support.running import NO_TLS, UPSTREAM_KEY, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import wait_until

pytestmark = pytest.mark.slow

BACK = 5.0  # seconds in which the store must be back
STARTED = 10.0  # seconds in which a killed gateway is gone, and another one there
ENDED = 20.0  # seconds in which one that has no work ends

#: The gateway, told to end when its first worker has just been forked; the master tells the worker so at once.
TOLD_AT_A_FORK = """
import os, signal, time
from gateway.cli.main import main

def told():
    os.kill(os.getppid(), signal.SIGTERM)
    ends = time.monotonic() + 5
    while signal.SIGTERM not in signal.sigpending() and time.monotonic() < ends:
        time.sleep(0.01)

os.register_at_fork(after_in_child=told)
main()
"""


@pytest.fixture(scope="module")
def one_simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def simulator(one_simulator: SimulatorThread) -> SimulatorThread:
    one_simulator.record.clear()
    return one_simulator


@pytest.fixture
def kin() -> Iterator[Family]:
    with family() as found:
        yield found


@pytest.fixture
def gateway(simulator: SimulatorThread, kin: Family) -> Iterator[Running]:
    config = base_config(upstream=simulator.base_url, workers=2)
    config["store"]["data_dir"] = str(kin.folder / "data")
    with running_gateway(config=config, environ=kin.environ) as running:
        yield running


@pytest.fixture(scope="module")
def steady(one_simulator: SimulatorThread) -> Iterator[tuple[Running, Family]]:
    """One that does not end while these tests run; each has a team of its own."""
    with family() as found:
        config = base_config(upstream=one_simulator.base_url, workers=2)
        config["store"]["data_dir"] = str(found.folder / "data")
        with running_gateway(config=config, environ=found.environ) as running:
            yield running, found


def order(gateway: Running, n: int = 1, *, team: str = "design") -> httpx.Response:
    return httpx.post(
        f"{gateway.url}/v1/images/generations",
        json={"prompt": "A lighthouse", "n": n},
        headers=gateway.auth(team),
        timeout=30,
        verify=NO_TLS,
    )


def used(gateway: Running, *, team: str = "design") -> int:
    """Images of the day as the team is told."""
    told: Any = httpx.get(f"{gateway.url}/v1/usage", headers=gateway.auth(team), verify=NO_TLS).json()
    assert [rule["used"] for rule in told["rules"]] == [told["today"]["images"]]
    return int(told["today"]["images"])


def left_behind(kin: Family) -> list[str]:
    return [str(path) for folder in (kin.temporary, kin.runtime) for path in folder.iterdir()]


def test_usage_survives_a_restart_and_nothing_is_left_meanwhile(gateway: Running, kin: Family) -> None:
    """SIGTERM ends the gateway with exit 0: no process, socket or folder is left; the next start knows the usage."""
    assert order(gateway, 3).status_code == 200
    assert len(kin.alive()) == 4, "a master, two workers and a store"
    assert len(left_behind(kin)) == 2, "a folder of metrics and one for the socket"
    assert gateway.stop() == 0
    assert kin.alive() == {}
    assert left_behind(kin) == []
    gateway.start()
    assert used(gateway) == 3
    assert order(gateway, 7).status_code == 200
    assert order(gateway).status_code == 429
    assert gateway.stop(signal.SIGINT) == 0
    assert kin.alive() == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_that_is_asked_for_while_the_store_begins_leaves_nothing(
    gateway: Running, kin: Family, number: signal.Signals
) -> None:
    """Before there is a worker, with a store that has just been started: exit 0, no process, socket or folder."""
    assert gateway.stop() == 0
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(gateway.folder / "config.yaml")]
    environ = {**os.environ, "TEST_UPSTREAM_KEY": UPSTREAM_KEY, **gateway.environ}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ
    ) as process:
        wait_until(lambda: kin.alive("unixsocket"))
        process.send_signal(number)
        try:
            assert process.wait(ENDED) == 0
            assert kin.alive() == {}
        finally:
            kin.kill()
    assert left_behind(kin) == []


def test_an_end_that_is_asked_for_while_a_worker_begins_is_heard(gateway: Running, kin: Family) -> None:
    """SIGTERM between a worker's fork and the first handler of its own: it ends, and the gateway with it."""
    assert gateway.stop() == 0
    words = ["serve", "--config", str(gateway.folder / "config.yaml"), "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", TOLD_AT_A_FORK, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TEST_UPSTREAM_KEY": UPSTREAM_KEY, **gateway.environ},
    ) as process:
        try:
            assert process.wait(ENDED) == 0
        finally:
            kin.kill()
    assert left_behind(kin) == []


def test_requests_in_flight_end_well_before_the_gateway_does(
    gateway: Running, simulator: SimulatorThread, kin: Family
) -> None:
    """SIGTERM while an image is being made: its client still gets it, and it is charged, before the exit with 0."""
    simulator.script({"latency": 1.0})
    answers: list[httpx.Response] = []
    client = threading.Thread(target=lambda: answers.append(order(gateway)))
    client.start()
    simulator.record.wait_for(lambda totals: totals.in_flight == 1)
    assert gateway.stop() == 0
    client.join(30)
    assert [answer.status_code for answer in answers] == [200]
    assert kin.alive() == {}
    gateway.start()
    assert used(gateway) == 1


def test_a_hang_up_of_all_loses_no_request(gateway: Running, simulator: SimulatorThread) -> None:
    """SIGHUP to the master and its workers, as of a terminal that closes: an image on its way comes, and is charged."""
    simulator.script({"latency": 1.0})
    answers: list[httpx.Response] = []
    client = threading.Thread(target=lambda: answers.append(order(gateway)))
    client.start()
    simulator.record.wait_for(lambda totals: totals.in_flight == 1)
    os.killpg(gateway.pid, signal.SIGHUP)
    client.join(30)
    assert [answer.status_code for answer in answers] == [200]
    assert used(gateway) == 1


def test_a_killed_master_takes_everything_along(gateway: Running, kin: Family) -> None:
    """After SIGKILL of the master its workers leave by themselves, and a new start has ports, store and usage."""
    assert order(gateway, 2).status_code == 200
    assert gateway.process is not None
    gateway.process.kill()
    gateway.process.wait()
    seconds_until(kin, "gateway serve", limit=STARTED)
    began = time.monotonic()
    gateway.start()
    assert time.monotonic() - began < STARTED
    assert used(gateway) == 2
    assert order(gateway).status_code == 200
    assert kin.store()
    assert gateway.stop() == 0
    assert kin.alive() == {}


def test_a_start_right_after_the_kill_succeeds(gateway: Running, kin: Family) -> None:
    """A new start that does not wait for the killed master's workers to leave has workers of its own within seconds."""
    assert order(gateway, 2).status_code == 200
    assert gateway.process is not None
    old = kin.children(gateway.pid)
    gateway.process.kill()
    gateway.process.wait()
    began = time.monotonic()
    gateway.start()  # the old workers may say that they are ready
    wait_until(lambda: len(kin.children(gateway.pid)) == 3 and not old & set(kin.alive()))
    assert order(gateway).status_code == 200
    assert time.monotonic() - began < STARTED
    assert used(gateway) == 3


def test_a_second_gateway_on_the_same_data_says_so(steady: tuple[Running, Family]) -> None:
    """A second `serve` on the same data directory names the directory and the first one's pid, and exits 1 at once."""
    gateway, kin = steady
    assert order(gateway).status_code == 200
    with running_gateway(config=gateway.config, environ=kin.environ, start=False) as second:
        with pytest.raises(AssertionError) as failed:
            second.start()
        assert second.process is not None
        assert second.process.returncode == 1
        words = f"store.data_dir {kin.folder / 'data'} is in use by the gateway with pid {gateway.pid}"
        assert words in str(failed.value)
        assert "Traceback" not in second.log_text()
    assert order(gateway).status_code == 200
    assert used(gateway) == 2


def test_a_killed_store_is_started_again(steady: tuple[Running, Family]) -> None:
    """After SIGKILL of the embedded store orders are refused with a reason, then served within 5 s, counts kept."""
    gateway, kin = steady
    assert order(gateway, 4, team="research").status_code == 200
    killed = kin.store()
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    refusals = set()
    while (answer := order(gateway, team="research")).status_code != 200:
        refusals.add((answer.status_code, answer.json()["error"]["code"]))
        assert time.monotonic() - began < BACK, answer.text
    assert refusals <= {(503, "quota_store_unavailable")}
    assert kin.store() != killed
    # The other worker may not have asked again yet.
    wait_until(lambda: gateway.metric("gateway_store_up") == 1, seconds=BACK)
    assert used(gateway, team="research") == 5
    assert httpx.get(f"{gateway.url}/readyz", verify=NO_TLS).status_code == 200


def test_a_lost_worker_is_replaced_and_its_counts_stay(steady: tuple[Running, Family]) -> None:
    """Workers that end, one in order and one by SIGKILL, are replaced; /metrics goes on from where it was."""
    gateway, kin = steady
    workers = kin.children(gateway.pid) - {kin.store()}
    assert len(workers) == 2
    assert [order(gateway, team="free").status_code for _ in range(4)] == [200] * 4
    wait_until(lambda: gateway.metric("gateway_requests_total", team="free", outcome="ok") == 4)
    for worker, number in zip(workers, (signal.SIGTERM, signal.SIGKILL), strict=True):
        os.kill(worker, number)
    wait_until(lambda: not workers & set(kin.alive()) and len(kin.children(gateway.pid)) == 3)
    assert order(gateway, team="free").status_code == 200
    wait_until(lambda: gateway.metric("gateway_requests_total", team="free", outcome="ok") == 5)
    assert gateway.metric("gateway_images_total", team="free") == 5
