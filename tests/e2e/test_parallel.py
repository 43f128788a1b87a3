"""Many orders at once over two workers: never one image more than the limit, and all three books agree."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from tests.simulator.pictures import png
from tests.support.running import NO_TLS
from tests.support.site import Site, running_site, wait_until

LIMIT = 37

LIMITED = {"quotas": [{"images": LIMIT, "per": "day"}]}
TEAMS: dict[str, dict[str, Any]] = {"generating": LIMITED, "editing": LIMITED, "mixing": LIMITED, "racing": LIMITED}


@pytest.fixture(scope="module")
def one_site() -> Iterator[Site]:
    with running_site(teams=TEAMS, workers=2) as running:
        yield running


@pytest.fixture
def site(one_site: Site) -> Site:
    one_site.fresh()
    return one_site


Order = tuple[str, int]  # endpoint and n


def ask_at_once(site: Site, team: str, orders: Sequence[Order]) -> list[httpx.Response]:
    """The answers, in the order of the orders; each goes by a connection of its own, all at the same time."""
    image = png((16, 16))

    async def ask(http: httpx.AsyncClient, endpoint: str, n: int) -> httpx.Response:
        url = f"{site.base_url}/images/{endpoint}"
        if endpoint == "generations":
            return await http.post(url, json={"prompt": "A lighthouse", "n": n})
        files = {"image": ("photo.png", image, "image/png")}
        return await http.post(url, files=files, data={"prompt": "A rainbow", "n": str(n)})

    async def all_of_them() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        headers = site.gateway.auth(team)
        async with httpx.AsyncClient(headers=headers, timeout=60, limits=limits, verify=NO_TLS) as http:
            return await asyncio.gather(*(ask(http, endpoint, n) for endpoint, n in orders))

    return asyncio.run(all_of_them())


def check_books(site: Site, team: str, images: int, *, requests: int) -> None:
    """The upstream made exactly so many images; the store, the team's usage and the metrics say the same."""
    assert site.made == images
    gateway = site.gateway
    wait_until(lambda: gateway.metric("gateway_requests_total", team=team) == requests)
    assert gateway.metric("gateway_images_total", team=team) == images
    assert gateway.metric("gateway_quota_used", team=team, rule="images-day") == images
    assert gateway.metric("gateway_period_images", team=team, period="today") == images
    assert gateway.metric("gateway_image_cost_usd_total", team=team) == pytest.approx(images * 0.04)
    told: Any = httpx.get(f"{gateway.url}/v1/usage", headers=gateway.auth(team), verify=NO_TLS).json()
    assert (told["rules"][0]["used"], told["today"]["images"], told["today"]["unknown"]) == (images, images, 0)


@pytest.mark.parametrize(
    ("team", "orders"),
    [
        ("generating", [("generations", 1)] * 100),
        ("editing", [("edits", 1)] * 100),
        ("racing", [("generations", 1), ("edits", 1)] * 50),
    ],
)
def test_a_hundred_orders_of_one_image_end_exactly_at_the_limit(site: Site, team: str, orders: list[Order]) -> None:
    """Of 100 orders at once against a limit of 37 images 37 are served, 63 refused, and nothing else happens."""
    answers = ask_at_once(site, team, orders)
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (LIMIT, 100 - LIMIT)
    assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 429} == {"insufficient_quota"}
    check_books(site, team, LIMIT, requests=100)
    complete = [request for request in site.simulator.record.requests if request.complete]
    assert len(complete) == LIMIT, "a refused edit never completes at the upstream"


def test_orders_of_different_size_never_pass_the_limit(site: Site) -> None:
    """100 orders at once of 1 to 4 images: never over 37, and no order was refused that would still have fitted."""
    chance = random.Random(37)
    orders = [(chance.choice(("generations", "edits")), chance.randint(1, 4)) for _ in range(100)]
    answers = ask_at_once(site, "mixing", orders)
    assert {answer.status_code for answer in answers} == {200, 429}
    made = sum(len(answer.json()["data"]) for answer in answers if answer.status_code == 200)
    refused = [n for answer, (_, n) in zip(answers, orders, strict=True) if answer.status_code == 429]
    assert LIMIT - min(refused) < made <= LIMIT
    check_books(site, "mixing", made, requests=100)
