"""A gateway on stores beyond its machine: sentinels through a failover, a cluster that loses a node, TLS."""

import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.ledger import scripts
from tests.support.engines import REDIS, VALKEY, certificates, cluster, sentinels, server
from tests.support.running import NO_TLS, Running, base_config, free_port, running_gateway
from tests.support.simulated import API_KEY, SimulatorThread, running_simulator

pytestmark = pytest.mark.slow

RETURN_LIMIT = 15.0  # seconds: until the silence is noticed, an election, and what a busy machine adds


def order(gateway: Running) -> int:
    answer = httpx.post(
        f"{gateway.url}/v1/images/generations",
        headers=gateway.auth("research"),
        json={"prompt": "x"},
        timeout=10,
        verify=NO_TLS,
    )
    if answer.status_code == 503:
        assert answer.json()["error"]["code"] == "quota_store_unavailable"
        assert answer.headers["x-should-retry"] == "true"
    return answer.status_code


def used(gateway: Running) -> int:
    """Asked until the worker that is asked has noticed that its store fell silent, and found the new one."""
    end = time.monotonic() + RETURN_LIMIT
    while True:
        answer = httpx.get(f"{gateway.url}/v1/usage", headers=gateway.auth("research"), timeout=10, verify=NO_TLS)
        if answer.status_code == 200:
            (rule,) = answer.json()["rules"]
            return int(rule["used"])
        assert answer.json()["error"]["code"] == "quota_store_unavailable"
        assert time.monotonic() < end, answer.text
        time.sleep(0.05)


def spend(gateway: Running, *, lose: Any, simulator: SimulatorThread) -> float:
    """Order before and after the loss until all is used up. Seconds until the first order after it is answered."""
    statuses = Counter(order(gateway) for _ in range(10))
    assert statuses == {200: 10}
    lose()
    began, seconds = time.monotonic(), 0.0
    while statuses[429] < 3:
        status = order(gateway)
        statuses[status] += 1
        if status == 200 and not seconds:
            seconds = time.monotonic() - began
        assert time.monotonic() - began < RETURN_LIMIT + 30, statuses
        assert seconds or time.monotonic() - began < RETURN_LIMIT, statuses
    assert statuses[200] == 37
    assert set(statuses) <= {200, 429, 503}
    assert simulator.record.totals.images_made == statuses[200] == used(gateway)
    return seconds


def config(upstream: str, store: dict[str, Any]) -> dict[str, Any]:
    return {**base_config(upstream=upstream, workers=2), "store": store}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_gateway_goes_on_at_the_sentinels_new_master(how: signal.Signals) -> None:
    """Through a failover nothing is admitted twice over, and what was used before still counts."""
    with sentinels(VALKEY) as group, running_simulator(api_keys=(API_KEY,)) as simulator:
        nodes = [f"{host}:{port}" for host, port in group.addresses]
        store = {"kind": "sentinel", "sentinel": {"name": group.name, "nodes": nodes}}

        def lose() -> None:
            with group.master.client() as client:
                assert client.wait(1, 2000) == 1
            group.master.signal(how)

        with running_gateway(config=config(simulator.base_url, store)) as gateway:
            seconds = spend(gateway, lose=lose, simulator=simulator)
            print(f"back after {seconds:.1f} s")
            assert gateway.metric("gateway_store_info", kind="sentinel") == 1


def test_a_gateway_goes_on_when_its_clusters_node_is_lost() -> None:
    """The node that holds all counters dies; its replica goes on with them."""
    with cluster(VALKEY) as whole, running_simulator(api_keys=(API_KEY,)) as simulator:
        holder = whole.holder(scripts.keys("gateway")[0])
        asked = next(node for node in whole.nodes if node is not holder)

        def lose() -> None:
            with holder.client() as client:
                assert client.wait(1, 2000) == 1
            holder.signal(signal.SIGKILL)

        store = {"kind": "cluster", "url": "env:STORE_URL"}
        with running_gateway(config=config(simulator.base_url, store), environ={"STORE_URL": asked.url}) as gateway:
            seconds = spend(gateway, lose=lose, simulator=simulator)
            print(f"back after {seconds:.1f} s")


def test_a_gateway_speaks_tls_to_its_store(tmp_path: Path) -> None:
    """With rediss:// and a password that is a secret, all works, and the password is in no log."""
    made, port = certificates(tmp_path), free_port()
    words: tuple[str, ...] = ("--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key))
    words += ("--tls-ca-cert-file", str(made.authority), "--tls-auth-clients", "no", "--tls-port", str(port))
    with (
        server(REDIS, *words, "--requirepass", "s3cret-of-the-store") as node,
        running_simulator(api_keys=(API_KEY,)) as simulator,
    ):
        url = f"rediss://:s3cret-of-the-store@localhost:{port}/0?ssl_ca_certs={made.authority}"
        with running_gateway(
            config=config(simulator.base_url, {"kind": "redis", "url": "env:STORE_URL"}), environ={"STORE_URL": url}
        ) as gateway:
            spend(gateway, lose=lambda: node.client(password="s3cret-of-the-store").script_flush(), simulator=simulator)
            assert "s3cret" not in gateway.log_text()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("http://127.0.0.1:6379", "begins with redis://, rediss:// or unix://"),
        ("rediss://localhost:1/0?ssl_ca_certs=/nowhere/ca.pem", "No such file"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_at_the_start(url: str, word: str) -> None:
    """`serve` ends with a sentence about store.url, before any worker meets it."""
    store = {"kind": "redis", "url": "env:STORE_URL"}
    with running_gateway(
        config=config("http://127.0.0.1:9/v1", store), environ={"STORE_URL": url}, start=False
    ) as gateway:
        with pytest.raises(AssertionError, match="did not start"):
            gateway.start()
        assert "store.url" in gateway.log_text()
        assert word in gateway.log_text()
        assert "Traceback" not in gateway.log_text()
