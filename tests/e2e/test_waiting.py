"""A `concurrent` rule with `wait` holds a request until a slot is free, in the order of arrival; accounts likewise."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e import wire
from tests.e2e.watching import Watched
from tests.support.running import SECRETS, Running, base_config, running_gateway
from tests.support.simulated import API_KEY, SimulatorThread, running_simulator
from tests.support.site import team, wait_until

pytestmark = pytest.mark.slow

OTHER_KEY = "sk-simulator-second-4321"

TEAMS: dict[str, dict[str, Any]] = {
    "one": {"quotas": [{"concurrent": 1, "wait": "30s"}]},
    "three": {"quotas": [{"concurrent": 3, "wait": "30s"}]},
    "brief": {"quotas": [{"concurrent": 1, "wait": "1s"}]},
    "rude": {"quotas": [{"concurrent": 1}]},
    "mixed": {"quotas": [{"concurrent": 1, "wait": "30s"}, {"images": 1, "per": "day"}]},
    "uneven": {"quotas": [{"concurrent": 2, "wait": "30s"}, {"concurrent": 1, "endpoint": "edits"}]},
    "shadowy": {"quotas": [{"concurrent": 1, "wait": "30s", "mode": "shadow"}]},
}


@dataclass(slots=True)
class Site:
    gateway: Running
    simulator: SimulatorThread
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(32))

    def ask(self, team: str, prompt: str = "x") -> wire.Answer:
        return wire.ask(self.gateway.url, wire.generation(SECRETS[team], prompt=prompt))

    def send(self, team: str, prompt: str = "x") -> "Future[wire.Answer]":
        return self.pool.submit(self.ask, team, prompt)

    def edit(self, team: str, prompt: str = "x") -> "Future[wire.Answer]":
        body = wire.edit(SECRETS[team], wire.image(wire.png()), wire.text("prompt", prompt))
        return self.pool.submit(wire.ask, self.gateway.url, body)

    def slow(self, seconds: float, times: int = 1) -> None:
        self.simulator.script({"latency": seconds, "times": times})

    def drawing(self, number: int) -> None:
        """Wait till the upstream is at work on that many."""
        self.simulator.record.wait_for(lambda totals: totals.in_flight == number)

    def inflight(self) -> float:
        return self.gateway.metric("gateway_inflight_requests")

    @property
    def prompts(self) -> list[object]:
        """In the order in which they came to the upstream."""
        return [request.field("prompt") for request in self.simulator.record.requests]

    @property
    def accounts(self) -> list[str]:
        """Whose keys they came with, in their order."""
        names = {f"Bearer {API_KEY}": "main", f"Bearer {OTHER_KEY}": "second"}
        return [names[value] for one in self.simulator.record.requests for value in one.header("authorization")]


@contextmanager
def serving(*, workers: int = 1, **sections: Any) -> Iterator[Site]:
    with running_simulator(api_keys=(API_KEY, OTHER_KEY)) as simulator:
        config = base_config(upstream=simulator.base_url, workers=workers)
        config["teams"] |= {name: team(name, settings) for name, settings in TEAMS.items()}
        for name, section in sections.items():
            config[name] = {**config.get(name, {}), **section}
        with running_gateway(config=config, environ={"TEST_OTHER_KEY": OTHER_KEY}) as gateway:
            site = Site(gateway, simulator)
            with site.pool:
                yield site


@pytest.fixture(scope="module")
def one_site() -> Iterator[Site]:
    with serving(request_limits={"body_idle_timeout": "1s"}) as site:
        yield site


def fresh(site: Site) -> Site:
    wait_until(lambda: site.inflight() == 0)
    site.simulator.simulator.clear_script()
    site.simulator.record.clear()
    return site


@pytest.fixture
def site(one_site: Site) -> Site:
    """One worker, and teams that may wait."""
    return fresh(one_site)


def test_who_waits_is_served_in_the_order_of_arrival(site: Site) -> None:
    """Six requests for one slot go up one after the other, as they came, and all are answered."""
    site.slow(3.0)  # the first is still at work when the last has come, also on a machine that is busy
    sent = []
    for number in range(6):
        sent.append(site.send("one", f"number {number}"))
        wait_until(lambda number=number: site.inflight() == number + 1)  # type: ignore[misc]  # bound on purpose
    assert [each.result().status for each in sent] == [200] * 6
    assert site.prompts == [f"number {number}" for number in range(6)]
    assert site.simulator.record.totals.peak_in_flight == 1


def test_a_slot_goes_on_at_once(site: Site) -> None:
    """When a request ends the next is not kept waiting till somebody looks: thirty take no longer than they must."""
    site.slow(0.02, times=30)
    began = time.monotonic()
    assert {each.result().status for each in [site.send("one") for _ in range(30)]} == {200}
    # With a look every fifth of a second, as it is for slots that other workers free, it were six seconds.
    assert time.monotonic() - began < 5
    assert site.simulator.record.totals.peak_in_flight == 1


def test_the_wait_has_an_end(site: Site) -> None:
    """After `wait` the request is refused as it would have been at once, and nothing was charged or sent for it."""
    site.slow(4.0)
    first = site.send("brief", "first")
    site.drawing(1)
    began = time.monotonic()
    late = site.ask("brief", "late")
    waited = time.monotonic() - began
    assert (late.status, late.error["code"], late.header("retry-after")) == (429, "rate_limit_exceeded", "2")
    assert "concurrent" in late.error["message"]
    assert waited > 0.95
    assert not first.done(), "it was refused while the slot was taken"
    assert first.result().status == 200
    assert site.prompts == ["first"]
    line = Watched(site.gateway, site.simulator).request_line(late.header("x-request-id") or "")
    assert line["total_ms"] > 950
    assert line["total_ms"] - line["overhead_ms"] > 950, "waiting is no time of our own"


def test_without_wait_nobody_waits(site: Site) -> None:
    """A rule that says nothing of waiting refuses at once."""
    site.slow(2.0)
    first = site.send("rude")
    site.drawing(1)
    assert site.ask("rude").status == 429
    assert not first.done()
    assert first.result().status == 200


@pytest.mark.parametrize("how", ["FIN", "RST", "its half"])
def test_who_leaves_loses_the_place_and_not_the_slot(how: str, site: Site) -> None:
    """A client that hangs up while it waits is gone at once, nothing goes up for it, and the one behind is next.

    One that ends its half alone might read on, but most who do have gone: it is let go without an answer.
    """
    before = len(site.gateway.requests_logged())
    site.slow(2.5)
    first = site.send("one", "first")
    site.drawing(1)
    with wire.connected(site.gateway.url) as leaving:
        leaving.send(wire.generation(SECRETS["one"], prompt="leaving"))
        wait_until(lambda: site.inflight() == 2)
        behind = site.send("one", "behind")
        wait_until(lambda: site.inflight() == 3)
        if how == "its half":
            leaving.socket.shutdown(socket.SHUT_WR)
            assert leaving.at_end()
        else:
            leaving.leave(how)
    wait_until(lambda: site.inflight() == 2)
    assert not first.done()
    assert [first.result().status, behind.result().status] == [200, 200]
    assert site.prompts == ["first", "behind"]
    assert [line["outcome"] for line in site.gateway.requests_logged()[before:]].count("client_gone") == 1
    assert "Traceback" not in site.gateway.log_text()


def test_edits_and_generations_wait_for_the_same_slot(site: Site) -> None:
    """An edit waits before its body is read, however long that takes, and holds its slot until it ends."""
    site.slow(2.0)
    first = site.send("one", "first")
    site.drawing(1)
    edit = site.edit("one", "edit")
    wait_until(lambda: site.inflight() == 2)
    last = site.send("one", "last")
    assert [each.result().status for each in (first, edit, last)] == [200, 200, 200]
    assert sorted(map(str, site.prompts)) == ["edit", "first", "last"]
    assert site.simulator.record.totals.peak_in_flight == 1


def test_what_no_slot_would_help_is_refused_at_once(site: Site) -> None:
    """A request that lacks images as well as a slot does not wait, and is told of the images."""
    site.slow(2.0)
    first = site.send("mixed")
    site.drawing(1)
    refused = site.ask("mixed")
    assert not first.done()
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
    assert {fact["rule"] for fact in refused.error["quota"]} == {"concurrent", "images-day"}
    assert first.result().status == 200


def test_the_refusing_rule_says_how_long(site: Site) -> None:
    """Of two rules the one that lacks a slot decides whether an edit waits: the one for edits alone does not."""
    site.slow(2.0)
    held = site.edit("uneven", "held")
    site.drawing(1)
    assert site.edit("uneven").result().status == 429
    assert not held.done()
    assert held.result().status == 200
    site.slow(1.0, times=2)
    both = [site.send("uneven"), site.send("uneven")]
    site.drawing(2)
    assert site.edit("uneven", "waits").result().status == 200
    assert [each.result().status for each in both] == [200, 200]
    assert site.simulator.record.totals.peak_in_flight == 2


def test_a_shadow_rule_keeps_nobody_waiting(site: Site) -> None:
    """A rule that only reports neither refuses nor holds a request."""
    site.slow(1.0, times=2)
    both = [site.send("shadowy"), site.send("shadowy")]
    site.drawing(2)
    assert [each.result().status for each in both] == [200, 200]


@pytest.fixture(scope="module")
def one_house() -> Iterator[Site]:
    with serving(workers=2, organization={"quotas": [{"concurrent": 5, "wait": "20s"}]}) as site:
        yield site


@pytest.fixture
def house(one_house: Site) -> Site:
    """Two workers, and a rule over all teams that may wait."""
    return fresh(one_house)


def test_no_more_are_at_work_than_there_are_slots(house: Site) -> None:
    """Over two workers, 24 requests at once have three slots: three are at work at a time, never more, and all end."""
    house.slow(0.1, times=24)
    sent = [house.send("three") for _ in range(24)]
    assert [each.result().status for each in sent] == [200] * 24
    totals = house.simulator.record.totals
    assert (totals.peak_in_flight, totals.images_made) == (3, 24)
    wait_until(lambda: house.gateway.metric("gateway_images_total", team="three") == 24)


def test_the_organizations_rule_holds_requests_too(house: Site) -> None:
    """`wait` on a rule over all teams works as on a team's own, also for a team without any rule."""
    house.slow(0.2, times=20)
    sent = [house.send(name) for name in ("free", "three") * 10]
    assert [each.result().status for each in sent] == [200] * 20
    assert house.simulator.record.totals.peak_in_flight == 5


# Accounts.


@pytest.fixture(scope="module")
def one_pair() -> Iterator[Site]:
    accounts = [
        {"name": "main", "api_key": "env:TEST_UPSTREAM_KEY", "max_concurrent": 1},
        {"name": "second", "api_key": "env:TEST_OTHER_KEY", "max_concurrent": 1},
    ]
    with serving(upstream={"accounts": accounts}) as site:
        yield site


@pytest.fixture
def pair(one_pair: Site) -> Site:
    """A gateway with two accounts that take one request each, both in good standing."""
    fresh(one_pair)
    # A good answer by each takes it back from where an earlier test may have put it.
    one_pair.slow(0.6, times=2)
    both = [one_pair.send("free"), one_pair.send("free")]
    one_pair.drawing(2)
    assert {each.result().status for each in both} == {200}
    assert set(one_pair.accounts) == {"main", "second"}
    return fresh(one_pair)


def responses(site: Site, status: str) -> list[float]:
    name = "gateway_upstream_responses_total"
    return [site.gateway.metric(name, account=account, status=status) for account in ("main", "second")]


def test_each_account_takes_as_much_as_it_may(pair: Site) -> None:
    """Of three requests two go up, one by each account, and the third is refused: overload, no quota of its team's."""
    before = responses(pair, "200")
    pair.slow(2.5, times=2)
    both = [pair.send("free"), pair.send("free")]
    pair.drawing(2)
    third = pair.ask("free")
    assert (third.status, third.error["code"], third.header("retry-after")) == (503, "overloaded", "2")
    inflight = [pair.gateway.metric("gateway_upstream_inflight", account=name) for name in ("main", "second")]
    assert inflight == [1, 1]
    assert [each.result().status for each in both] == [200, 200]
    assert sorted(pair.accounts) == ["main", "second"]
    assert [after - before for after, before in zip(responses(pair, "200"), before, strict=True)] == [1, 1]
    wait_until(lambda: pair.gateway.metric("gateway_upstream_inflight") == 0)
    limits = [pair.gateway.metric("gateway_upstream_concurrency_limit", account=name) for name in ("main", "second")]
    assert limits == [1, 1]


def test_who_may_wait_waits_for_an_account(pair: Site) -> None:
    """A team whose rule says `wait` waits where only the accounts are full."""
    pair.slow(0.5, times=2)
    sent = [pair.send("three") for _ in range(3)]
    assert [each.result().status for each in sent] == [200] * 3
    assert pair.simulator.record.totals.peak_in_flight == 2


NO_CREDIT = {"error": {"message": "You exceeded your current quota", "type": "x", "code": "insufficient_quota"}}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param({"status": 401}, 502, id="401"),
        pytest.param({"status": 429, "body": NO_CREDIT}, 503, id="429 for its billing"),
    ],
)
def test_an_account_that_will_not_have_us_is_left_alone(pair: Site, answer: dict[str, object], status: int) -> None:
    """After one such answer the other account takes all that comes, one after the other."""
    pair.simulator.script(answer)
    assert pair.ask("free").status == status
    (refusing,) = pair.accounts
    assert {pair.ask("free").status for _ in range(5)} == {200}
    (other,) = {"main", "second"} - {refusing}
    assert pair.accounts == [refusing, *[other] * 5]


@pytest.mark.parametrize("status", [429, 500])
def test_an_answer_about_the_request_says_nothing_of_the_account(pair: Site, status: int) -> None:
    """A rate limit and a failure leave the account where it was: the next request goes by it."""
    pair.simulator.script({"status": status})
    pair.ask("free")
    assert pair.ask("free").status == 200
    first, second = pair.accounts
    assert first == second


def test_when_all_are_set_aside_they_are_tried_all_the_same(pair: Site) -> None:
    """Refused by both, the gateway goes on asking, and the one that answers well is in use again."""
    pair.simulator.script({"status": 401, "times": 2})
    assert [pair.ask("free").status for _ in range(2)] == [502, 502]
    assert sorted(pair.accounts) == ["main", "second"]
    assert [pair.ask("free").status for _ in range(3)] == [200] * 3
    assert len(set(pair.accounts[2:])) == 1
