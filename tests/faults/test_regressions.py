"""What quotas of others got wrong, by the number under which it was reported: each through real gateways.

Two hosts with two workers each stand before one store, by a connection that can be cut. What the upstream made is
asked of the upstream alone.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.watching import noon_zone
from tests.faults.cutting import Link
from tests.faults.stores import Store
from tests.faults.variants import CLOCK_KEY, SET_CLOCK
from tests.simulator.pictures import png
from tests.support.running import NO_TLS, SECRETS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import team, wait_until

pytestmark = pytest.mark.slow

TEAMS: dict[str, dict[str, Any]] = {
    "litellm-34732": {"quotas": [{"usd": 0.4, "per": "day"}]},
    "litellm-27639": {"quotas": [{"images": 3, "per": "day"}, {"concurrent": 2}]},
    "litellm-30460": {"quotas": [{"images": 1000, "per": "day"}, {"concurrent": 50}]},
    "litellm-36926": {"quotas": [{"images": 2, "per": "day"}, {"concurrent": 1}]},
    "litellm-28247": {"quotas": [{"images": 30, "per": "day"}]},
    "litellm-20886": {"quotas": [{"images": 1000, "per": "day"}]},
    "litellm-33325": {"quotas": [{"images": 2, "per": "day"}]},
    "litellm-34733": {"quotas": [{"images": 5, "per": "day"}]},
    "litellm-40050": {"quotas": [{"usd": 100, "per": "day"}]},
    "envoy-680": {"quotas": [{"usd": 1, "per": "day"}]},
    "new-api-4429": {"quotas": [{"images": 8, "per": "day"}]},
    "comfyui-16204": {"quotas": [{"images": 100, "per": "day"}]},
    "ours": {"quotas": [{"concurrent": 1, "wait": "20s"}]},
}

Answers = list[httpx.Response]
Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hosts:
    hosts: Sequence[Running]
    simulator: SimulatorThread
    store: Store
    link: Link

    @property
    def made(self) -> int:
        return self.simulator.record.totals.images_made

    @property
    def complete(self) -> int:
        return self.simulator.record.totals.complete

    @property
    def store_up(self) -> list[float]:
        return [host.metric("gateway_store_up") for host in self.hosts]

    def order(self, name: str, host: int = 0, **fields: Any) -> httpx.Response:
        return self.at_once(name, [fields], first=host)[0]

    def edit(self, name: str, host: int = 0) -> httpx.Response:
        return httpx.post(
            f"{self.hosts[host].url}/v1/images/edits",
            headers=self.hosts[host].auth(name),
            files={"image": ("a.png", png((64, 64)), "image/png")},
            data={"prompt": "A pier"},
            timeout=30,
            verify=NO_TLS,
        )

    def at_once(self, name: str, orders: Sequence[Fields], *, first: int = 0) -> Answers:
        """Generations sent together, to the hosts in turn."""

        async def ask() -> Answers:
            limits = httpx.Limits(max_connections=None)
            headers = self.hosts[0].auth(name)
            async with httpx.AsyncClient(headers=headers, timeout=30, limits=limits, verify=NO_TLS) as http:
                sent = [
                    http.post(self._url(first + place), json={"prompt": "A pier", **fields})
                    for place, fields in enumerate(orders)
                ]
                return await asyncio.gather(*sent)

        return asyncio.run(ask())

    def used(self, name: str, host: int = 0, *, rule: int = 0) -> float:
        told: Any = httpx.get(
            f"{self.hosts[host].url}/v1/usage", headers=self.hosts[host].auth(name), timeout=10, verify=NO_TLS
        ).json()
        return float(told["rules"][rule]["used"])

    def _url(self, place: int) -> str:
        return f"{self.hosts[place % len(self.hosts)].url}/v1/images/generations"


@contextlib.contextmanager
def running_link(target: int) -> Iterator[Link]:
    """On a loop and a thread of its own, for synchronous tests."""
    link, started, ended = Link(target), threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with link:
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="link", daemon=True)
    thread.start()
    assert started.wait(5)
    try:
        yield link
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join(5)


def config(upstream: str, **teams: dict[str, Any]) -> dict[str, Any]:
    whole = base_config(upstream=upstream, workers=2)
    whole["timezone"] = noon_zone()
    whole["store"] = {"kind": "redis", "url": "env:TEST_STORE_URL"}
    whole["teams"] = {name: team(name, settings) for name, settings in teams.items()}
    return whole


@pytest.fixture(scope="module")
def all_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    store = Store(tmp_path_factory.mktemp("store") / "data", fsync="always")
    store.start()
    try:
        with running_simulator() as simulator, running_link(store.port) as link, contextlib.ExitStack() as stack:
            whole = config(simulator.base_url, **TEAMS)
            environ = {"TEST_STORE_URL": f"redis://127.0.0.1:{link.port}/0"}
            hosts = [stack.enter_context(running_gateway(config=whole, environ=environ)) for _ in range(2)]
            yield Hosts(hosts, simulator, store, link)
    finally:
        store.kill()


@pytest.fixture
def hosts(all_hosts: Hosts) -> Hosts:
    all_hosts.simulator.simulator.clear_script()
    all_hosts.simulator.record.clear()
    return all_hosts


def statuses(answers: Sequence[httpx.Response]) -> list[int]:
    return sorted(answer.status_code for answer in answers)


def test_litellm_34732_parallel_requests_do_not_pass_the_budget(hosts: Hosts) -> None:
    """Of 40 orders at once over two hosts, for 4 cents each, a budget of 40 cents admits ten, and ten are made."""
    answers = hosts.at_once("litellm-34732", [{}] * 40)
    assert statuses(answers) == [200] * 10 + [429] * 30
    assert hosts.made == 10
    assert hosts.used("litellm-34732") == pytest.approx(0.4)


def test_litellm_27639_reservations_of_failed_requests_do_not_stay(hosts: Hosts) -> None:
    """Eighteen orders that fail, each in one of three ways, leave all of a limit of three and both slots."""
    for status in (500, 400, 429):
        hosts.simulator.script({"status": status, "times": 6})
        assert 200 not in {hosts.order("litellm-27639", host).status_code for host in (0, 1) * 3}
    assert hosts.used("litellm-27639") == hosts.used("litellm-27639", rule=1) == 0
    assert [hosts.order("litellm-27639", host).status_code for host in (0, 1, 0, 1)] == [200, 200, 200, 429]


def test_litellm_30460_a_store_that_times_out_does_not_inflate_what_is_used(hosts: Hosts) -> None:
    """While replies of the store are lost again and again, what is used stays what the upstream made."""
    for after in range(0, 200, 10):
        hosts.link.arm("down", after)
        hosts.at_once("litellm-30460", [{}] * 4)
    hosts.link.disarm()
    cuts = hosts.link.cuts
    assert cuts > 5
    wait_until(lambda: hosts.store_up == [1, 1], seconds=5)
    assert hosts.order("litellm-30460").status_code == 200
    wait_until(lambda: hosts.used("litellm-30460") == hosts.made, seconds=5)
    wait_until(lambda: hosts.used("litellm-30460", rule=1) == 0, seconds=5)


def test_litellm_36926_a_client_that_leaves_holds_nothing(hosts: Hosts) -> None:
    """Uploads that their clients break off, on both hosts, leave the only slot and both images free."""
    for host in (0, 1) * 4:
        with pytest.raises(httpx.TransportError):
            httpx.post(
                f"{hosts.hosts[host].url}/v1/images/edits",
                headers={**hosts.hosts[host].auth("litellm-36926"), "content-type": "multipart/form-data; boundary=b"},
                content=_breaking_off(),
                timeout=10,
                verify=NO_TLS,
            )
        wait_until(lambda: hosts.used("litellm-36926", rule=1) == 0)
    assert hosts.used("litellm-36926") == hosts.made == 0
    assert [hosts.order("litellm-36926", host).status_code for host in (0, 1, 0)] == [200, 200, 429]


def test_litellm_28247_workers_that_meet_a_cold_store_do_not_each_add_what_was_used(hosts: Hosts) -> None:
    """After the store was killed and started again, four workers that all ask at once find the 20 that were used."""
    assert statuses(hosts.at_once("litellm-28247", [{"n": 4}] * 5)) == [200] * 5
    hosts.store.kill()
    wait_until(lambda: hosts.store_up == [0, 0])
    hosts.store.start()
    wait_until(lambda: hosts.store_up == [1, 1], seconds=5)
    assert hosts.used("litellm-28247") == hosts.used("litellm-28247", 1) == 20
    answers = hosts.at_once("litellm-28247", [{}] * 16)
    assert statuses(answers) == [200] * 10 + [429] * 6
    assert hosts.made == 30


def test_litellm_20886_a_charge_stands_before_its_answer_goes_out(hosts: Hosts) -> None:
    """Whoever has an answer finds its charge at the other host, at once and every time."""
    for number in range(20):
        assert hosts.order("litellm-20886", number % 2).status_code == 200
        assert hosts.used("litellm-20886", (number + 1) % 2) == number + 1


def test_litellm_33325_no_host_decides_by_what_it_saw_before(hosts: Hosts) -> None:
    """A host that has just seen a free limit refuses as soon as the other host has used it up, and the other way."""
    assert hosts.used("litellm-33325", 1) == 0
    assert hosts.order("litellm-33325", 0, n=2).status_code == 200
    assert hosts.order("litellm-33325", 1).status_code == 429
    assert hosts.made == 2


def test_litellm_34733_what_is_spent_while_a_window_ends_is_counted_once_in_its_own(
    hosts: Hosts, tmp_path: Path
) -> None:
    """An order that is under way at midnight takes nothing of the new day, and gives nothing of the old one to it."""
    store = Store(tmp_path / "data", fsync="everysec")
    store.start()
    try:
        whole = config(hosts.simulator.base_url, **{"litellm-34733": TEAMS["litellm-34733"]})
        entry = ("tests.faults.variants", SET_CLOCK)
        with running_gateway(config=whole, environ={"TEST_STORE_URL": store.url}, module=entry) as gateway:
            one = Hosts([gateway], hosts.simulator, store, hosts.link)
            hosts.simulator.script({"latency": 4.0, "status": 500}, {"latency": 4.0, "images": 1})
            under_way: Answers = []
            orders = [{"n": 3}, {"n": 2}]
            client = threading.Thread(target=lambda: under_way.extend(one.at_once("litellm-34733", orders)))
            client.start()
            hosts.simulator.record.wait_for(lambda totals: totals.in_flight == 2)
            assert one.order("litellm-34733").status_code == 429, "the old day is full"
            store.ask("SET", CLOCK_KEY, str(24 * 3600))
            assert statuses(one.at_once("litellm-34733", [{}] * 4)) == [200] * 4
            client.join(10)
            assert statuses(under_way) == [200, 502]
            assert one.used("litellm-34733") == 4, "the refunds were the old day's"
            assert statuses(one.at_once("litellm-34733", [{}] * 3)) == [200, 429, 429]
    finally:
        store.kill()


def test_litellm_40050_what_is_enforced_is_what_was_spent(hosts: Hosts) -> None:
    """After orders of every price, of which some fail and some come short, what is used is what was made, in cents."""
    kinds = [("1024x1024", "standard", 4), ("1792x1024", "standard", 8), ("1024x1024", "hd", 8)]
    hosts.simulator.script({"status": 500, "times": 3}, {"images": 1, "times": 4}, {"status": 429, "times": 3})
    orders = [{"size": size, "quality": quality, "n": n} for size, quality, _ in kinds for n in (1, 2, 3, 4, 5)]
    hosts.at_once("litellm-40050", orders)
    cents = {(size, quality): price for size, quality, price in kinds}
    spent = sum(
        request.images_made * cents[str(request.field("size")), str(request.field("quality"))]
        for request in hosts.simulator.record.requests
    )
    assert spent > 0
    assert hosts.used("litellm-40050") == pytest.approx(spent / 100)


def test_envoy_ai_gateway_680_cost_is_charged_before_the_upstream_is_asked(hosts: Hosts) -> None:
    """A dollar of budget holds four orders of 24 cents, however many ask while none of them is answered yet."""
    hosts.simulator.script({"latency": 0.5, "times": None})
    answers = hosts.at_once("envoy-680", [{"n": 3, "quality": "hd"}] * 24)
    assert statuses(answers) == [200] * 4 + [429] * 20
    assert hosts.made == 12
    assert hosts.used("envoy-680") == pytest.approx(0.96)


def test_new_api_4429_orders_whose_handling_breaks_down_are_all_given_back(hosts: Hosts) -> None:
    """Eight uploads at which an upstream gives up before their end are refused, and all eight images are free again."""
    hosts.simulator.script({"endpoint": "edits", "fault": "refuse_body", "status": 500, "times": 8})
    codes = [hosts.edit("new-api-4429", number % 2).json()["error"]["code"] for number in range(8)]
    assert codes == ["upstream_error"] * 8
    assert hosts.used("new-api-4429") == hosts.made == 0
    assert statuses(hosts.at_once("new-api-4429", [{}] * 9)) == [200] * 8 + [429]


@pytest.mark.parametrize("fault", ["drop", "reset", "cut"])
def test_comfyui_16204_a_paid_order_whose_answer_was_lost_is_not_bought_again(hosts: Hosts, fault: str) -> None:
    """OpenAI's client, which would send again twice, gets one answer that it does not repeat; one call was paid."""
    before = hosts.used("comfyui-16204")
    hosts.simulator.script({"fault": fault})
    http = openai.DefaultHttpxClient(verify=False)
    with openai.OpenAI(
        base_url=f"{hosts.hosts[0].url}/v1", api_key=SECRETS["comfyui-16204"], max_retries=2, http_client=http
    ) as client, pytest.raises(openai.APIStatusError) as told:  # fmt: skip
        client.images.generate(prompt="A pier", n=1, model="dall-e-3")
    assert told.value.status_code == 424
    assert (hosts.complete, hosts.made) == (1, 1)
    assert hosts.used("comfyui-16204") - before == 1


def test_our_own_key_that_was_claimed_as_the_store_went_is_free_when_it_is_back(hosts: Hosts) -> None:
    """An order that held its Idempotency-Key and waited for a slot is refused in an outage; sent again it is served.

    It is the second in the line, so the outage is known when its turn comes, and the store is not even asked.
    """
    whole = config(hosts.simulator.base_url, ours=TEAMS["ours"])
    whole["listen"]["workers"] = 1
    with running_gateway(config=whole, environ={"TEST_STORE_URL": hosts.store.url}) as gateway:
        answers: Answers = []

        def order(**headers: str) -> httpx.Response:
            url = f"{gateway.url}/v1/images/generations"
            headers |= gateway.auth("ours")
            return httpx.post(url, json={"prompt": "A pier"}, headers=headers, timeout=10, verify=NO_TLS)

        def send(**headers: str) -> threading.Thread:
            client = threading.Thread(target=lambda: answers.append(order(**headers)))
            client.start()
            return client

        hosts.simulator.script({"latency": 5.0})
        clients = [send()]
        hosts.simulator.record.wait_for(lambda totals: totals.in_flight == 1)
        clients.append(send())
        wait_until(lambda: gateway.metric("gateway_inflight_requests") == 2)
        clients.append(send(**{"idempotency-key": "one"}))
        wait_until(lambda: hosts.store.ask("KEYS", "{gateway}:i:ours:*"))
        hosts.store.freeze()
        for client in clients[1:]:
            client.join(10)
        hosts.store.thaw()
        clients[0].join(10)
        assert statuses(answers) == [200, 503, 503]
        wait_until(lambda: gateway.metric("gateway_store_up") == 1, seconds=5)
        wait_until(lambda: hosts.store_up == [1, 1], seconds=5)
        wait_until(lambda: hosts.used("ours") == 0, seconds=5)
        assert order(**{"idempotency-key": "one"}).status_code == 200
        assert hosts.made == 2


def _breaking_off() -> Iterator[bytes]:
    """A form whose client leaves in the middle of its file."""
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    yield head + png((512, 512))[:2000]
    raise httpx.WriteError("the client leaves")
