"""More than a worker, an account or a team may have in flight: what is shed is told so, and what is taken is served.

Two hosts with a worker each stand before one store. Orders are held at the upstream until one cap is full; who comes
then is shed, while those that were taken are answered, made and charged as if nobody else had come.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e import wire
from tests.support.running import SECRETS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import team, wait_until
from tests.support.valkey import valkey

pytestmark = pytest.mark.slow

WORKER, ACCOUNT, TEAM = 5, 8, 2  # orders in flight
LATENCY = 5.0  # seconds for which the upstream holds what fills a cap: the shed ones come and go meanwhile
TOO_MANY = 12  # who come when it is full

TEAMS: dict[str, dict[str, Any]] = {
    "crowd": {"quotas": [{"images": 1000, "per": "day"}]},
    "narrow": {"quotas": [{"concurrent": TEAM}, {"images": 1000, "per": "day"}]},
}


@dataclass(frozen=True, slots=True)
class Hosts:
    one: Running
    other: Running
    simulator: SimulatorThread
    pool: ThreadPoolExecutor

    def ask(self, host: Running, team: str = "crowd") -> wire.Answer:
        return wire.ask(host.url, wire.generation(SECRETS[team], prompt="x"))

    def fill(self, hosts: Sequence[Running], team: str = "crowd") -> "list[Future[wire.Answer]]":
        """One order to each of the hosts, all at the upstream when this returns."""
        self.simulator.script({"latency": LATENCY, "times": len(hosts)})
        held = [self.pool.submit(self.ask, host, team) for host in hosts]
        self.simulator.record.wait_for(lambda totals: totals.in_flight == len(hosts))
        return held

    def used(self, team: str = "crowd") -> int:
        """Images that the ledger has charged to the team today."""
        asked = wire.head("/v1/usage", key=SECRETS[team], method="GET", content_type=None)
        rules = wire.ask(self.one.url, asked).json()["rules"]
        (images,) = [rule["used"] for rule in rules if rule["unit"] == "images"]
        return int(images)

    @property
    def made(self) -> int:
        return self.simulator.record.totals.images_made


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[Hosts]:
    with valkey() as url, running_simulator() as simulator:
        config = base_config(upstream=simulator.base_url)
        config["store"] = {"kind": "redis", "url": "env:TEST_STORE_URL"}
        config["teams"] = {name: team(name, settings) for name, settings in TEAMS.items()}
        config["upstream"]["accounts"][0]["max_concurrent"] = ACCOUNT
        config["request_limits"] = {"max_inflight_per_worker": WORKER}
        environ = {"TEST_STORE_URL": url}
        with (
            running_gateway(config=config, environ=environ) as one,
            running_gateway(config=config, environ=environ) as other,
            ThreadPoolExecutor(ACCOUNT) as pool,
        ):
            yield Hosts(one, other, simulator, pool)


@pytest.fixture
def hosts(two_hosts: Hosts) -> Hosts:
    """Two gateways at which nothing is in flight."""
    for host in (two_hosts.one, two_hosts.other):
        wait_until(lambda host=host: host.metric("gateway_inflight_requests") == 0)  # type: ignore[misc]  # bound
    two_hosts.simulator.simulator.clear_script()
    two_hosts.simulator.record.clear()
    return two_hosts


def refusal(answer: wire.Answer) -> tuple[int, str, bool]:
    """Its status, its code, and whether it says when to come again."""
    return answer.status, answer.error["code"], int(answer.header("retry-after") or "0") > 0


def test_a_full_worker_sheds_and_serves_what_it_has(hosts: Hosts) -> None:
    """A worker with all it may hold answers 503 to who comes then; another host's takes orders as before."""
    before = hosts.used()
    held = hosts.fill([hosts.one] * WORKER)
    shed = {refusal(hosts.ask(hosts.one)) for _ in range(TOO_MANY)}
    elsewhere = hosts.ask(hosts.other)
    assert shed == {(503, "overloaded", True)}
    assert elsewhere.status == 200
    assert [each.result().status for each in held] == [200] * WORKER
    assert hosts.made == hosts.used() - before == WORKER + 1


def test_a_full_account_sheds_at_every_host(hosts: Hosts) -> None:
    """An account's cap is one over all hosts: filled by both it has both shed, and no more goes up or is charged."""
    before = hosts.used()
    held = hosts.fill([hosts.one, hosts.other] * (ACCOUNT // 2))
    shed = {refusal(hosts.ask(host)) for host in [hosts.one, hosts.other] * (TOO_MANY // 2)}
    assert shed == {(503, "overloaded", True)}
    assert [each.result().status for each in held] == [200] * ACCOUNT
    assert hosts.made == hosts.used() - before == ACCOUNT
    assert hosts.ask(hosts.one).status == 200


def test_a_full_team_is_refused_alone(hosts: Hosts) -> None:
    """A team's own cap is a quota, so its orders get 429 at every host, while those of other teams are served."""
    before = hosts.used("narrow")
    held = hosts.fill([hosts.one, hosts.other], "narrow")
    refused = {refusal(hosts.ask(host, "narrow")) for host in [hosts.one, hosts.other] * (TOO_MANY // 2)}
    others = [hosts.ask(host).status for host in (hosts.one, hosts.other)]
    assert refused == {(429, "rate_limit_exceeded", True)}
    assert others == [200, 200]
    assert [each.result().status for each in held] == [200] * TEAM
    assert hosts.used("narrow") - before == TEAM
    assert hosts.made == TEAM + len(others)
