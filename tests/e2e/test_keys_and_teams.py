"""Keys and teams as people handle them in the file: rotated, revoked, ending soon, suspended, with a contact."""

import calendar
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.core import keys
from tests.e2e import wire
from tests.e2e.saving import PROMPT, WORKERS, Site, given_back, running_on, suspend
from tests.support.running import SECRETS, base_config
from tests.support.simulated import running_simulator
from tests.support.site import team

pytestmark = pytest.mark.slow

NEXT = keys.make(b"n" * keys.RANDOM_BYTES)

DAY = 86_400


@pytest.fixture(scope="module")
def one_site() -> Iterator[Site]:
    with running_simulator() as simulator:
        config = base_config(upstream=simulator.base_url, workers=WORKERS)
        config["teams"]["own"] = team("own", {"contact": "own@example.com", "quotas": [{"images": 1, "per": "day"}]})
        with running_on(simulator, config) as site:
            yield site


@pytest.fixture
def site(one_site: Site) -> Iterator[Site]:
    """The gateway on its first config, which it gets back afterwards."""
    with given_back(one_site) as site:
        yield site


def statuses(site: Site, secret: str) -> set[int]:
    """What requests with that key get of all workers: each takes some of so many connections."""
    return {wire.ask(site.gateway.url, wire.generation(secret)).status for _ in range(8)}


def test_a_key_is_rotated_with_both_in_force_meanwhile(site: Site) -> None:
    """The old key works until it is taken out, the new one from when it is put in: no request with it is lost."""

    def both(tree: Any) -> None:
        tree["teams"]["free"]["keys"].append({"id": "next", "sha256": keys.digest(NEXT).hex()})

    def only_the_next(tree: Any) -> None:
        del tree["teams"]["free"]["keys"][0]

    assert statuses(site, NEXT) == {401}
    site.apply(both)
    assert (statuses(site, SECRETS["free"]), statuses(site, NEXT)) == ({200}, {200})
    over, seen = threading.Event(), set()

    def ask() -> None:
        while not over.is_set():
            seen.add(wire.ask(site.gateway.url, wire.generation(NEXT)).status)

    with ThreadPoolExecutor() as pool:
        asking = pool.submit(ask)
        site.apply(only_the_next)
        over.set()
        asking.result()
    assert seen == {200}
    assert (statuses(site, SECRETS["free"]), statuses(site, NEXT)) == ({401}, {200})


def test_no_request_that_begins_later_is_served_by_a_revoked_key(site: Site) -> None:
    """Requests that begin all the while a key is taken out are served or refused, and after the bound refused alone."""
    answers: list[tuple[float, int]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            began = time.monotonic()
            answers.append((began, wire.ask(site.gateway.url, wire.generation(SECRETS["free"])).status))

    def revoke(tree: Any) -> None:
        tree["teams"]["free"]["keys"].clear()

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            site.apply(revoke)
            revoked = time.monotonic()  # within the bound, or `apply` would have failed
            made = site.simulator.record.totals.images_made
            enough = len(answers) + 60
            while len(answers) < enough and time.monotonic() < revoked + PROMPT:
                time.sleep(0.01)
        finally:
            over.set()
            for each in asking:
                each.result()
    later = [status for began, status in answers if began > revoked]
    assert len(later) > 20
    assert set(later) == {401}
    assert {status for _, status in answers} <= {200, 401}
    served = sum(status == 200 for _, status in answers)
    assert made <= site.simulator.record.totals.images_made == served


@pytest.mark.parametrize(("days", "announced"), [(13, True), (15, False)])
def test_a_keys_end_is_announced(site: Site, days: int, announced: bool) -> None:
    """In its last fourteen days every answer has the end, refusals among them; the metric has it all the time."""
    ends = int(time.time()) + days * DAY

    def change(tree: Any) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))
        tree["teams"]["free"]["keys"][0]["expires"] = stamp

    site.apply(change)
    assert site.gateway.metric("gateway_key_expiry_timestamp_seconds", team="free", key="test") == ends
    for answer in (site.ask(), site.ask(n=77)):
        stamp = answer.header("x-gateway-key-expires")
        assert (stamp is not None) == announced
        assert stamp is None or calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")) == ends


def test_a_key_that_has_ended_opens_nothing(site: Site) -> None:
    """It is refused as an unknown one is, with whom to ask."""

    def change(tree: Any) -> None:
        tree["teams"]["own"]["keys"][0]["expires"] = "2020-01-01"

    site.apply(change)
    answer = site.ask("own")
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert str(answer.error["message"]).endswith("Ask image-gateway@example.com")


def test_each_refusal_names_whom_to_ask(site: Site) -> None:
    """Its own contact for a team that has one, also where it is suspended; the file's where no team is known."""
    asked = {
        "no key": wire.ask(site.gateway.url, wire.generation(NEXT)),
        "permission": site.ask("own", model="dall-e-3", n=1),
        "quota": site.ask("own"),
    }
    assert asked.pop("permission").status == 200
    site.apply(suspend("own"))
    asked["suspended"] = site.ask("own")
    told = {name: (answer.status, str(answer.error["message"]).rpartition("Ask ")[2]) for name, answer in asked.items()}
    assert told == {
        "no key": (401, "image-gateway@example.com"),
        "quota": (429, "own@example.com"),
        "suspended": (403, "own@example.com"),
    }
