"""The quota store goes away and comes back: what is refused, what passes, and that nothing is charged twice or lost."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.core import errors
from gateway.ledger.embedded import EmbeddedStore
from tests.e2e import wire
from tests.e2e.conftest import storeless
from tests.e2e.rows import PROMPT, Row, edit, order, same_class
from tests.e2e.watching import Watched, changes, series
from tests.support.running import running_gateway
from tests.support.simulated import SimulatorThread
from tests.support.site import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def deny(one_simulator: SimulatorThread, store: EmbeddedStore) -> Iterator[Watched]:
    yield from _gateway(one_simulator, store, "deny")


@pytest.fixture(scope="module")
def allow(one_simulator: SimulatorThread, store: EmbeddedStore) -> Iterator[Watched]:
    yield from _gateway(one_simulator, store, "allow")


def _gateway(simulator: SimulatorThread, store: EmbeddedStore, when_down: str) -> Iterator[Watched]:
    config = storeless(simulator, when_down)
    with running_gateway(config=config, environ={"TEST_STORE_URL": store.url}) as gateway:
        yield Watched(gateway, simulator)


def _freeze(store: EmbeddedStore, held: ExitStack) -> None:
    """The store takes connections and commands and answers none, till `held` is over."""
    assert store.pid is not None
    os.kill(store.pid, signal.SIGSTOP)
    held.callback(os.kill, store.pid, signal.SIGCONT)


def _is_back(watched: Watched) -> None:
    """Wait for it, five seconds at most."""
    wait_until(lambda: watched.get("/v1/usage", "plain").status == 200, seconds=5)


def _row(endpoint: str) -> Row:
    return Row(
        when=endpoint,
        error=errors.StoreUnavailable,
        send=order() if endpoint == "generations" else edit(wire.image(wire.png())),
        status=503,
        type="server_error",
        code="quota_store_unavailable",
        outcome="store_unavailable",
        says="quota store cannot be reached, so nothing was sent",
        headers={"retry-after": "3", "x-should-retry": "true"},
        endpoint=endpoint,
        ordered=endpoint == "generations",
    )


@pytest.mark.parametrize("row", [_row("generations"), _row("edits")], ids=lambda row: row.when)
def test_deny_refuses_while_the_store_is_away(
    row: Row, deny: Watched, store: EmbeddedStore, simulator: SimulatorThread
) -> None:
    """The row of the table: 503 that says to try again, nothing sent, nothing charged."""
    assert same_class(row)
    before = deny.used("plain")
    with ExitStack() as held:
        _freeze(store, held)
        row.check(deny)
    _is_back(deny)
    assert deny.used("plain") == before
    assert simulator.record.requests == ()


def test_an_outage_costs_a_second_once(deny: Watched, store: EmbeddedStore, simulator: SimulatorThread) -> None:
    """The request that meets a silent store is refused within a second, the next ones at once; after it all is well.

    The refused orders arrive at the store when it wakes, and still charge nothing.
    """
    before = deny.used("plain")
    with ExitStack() as held:
        _freeze(store, held)
        took = []
        for _ in range(20):
            began = time.monotonic()
            assert order()(deny).status == 503
            took.append(time.monotonic() - began)
        assert took[0] < 1.5
        assert sorted(took)[10] < 0.05
        assert deny.metric("gateway_store_up") == 0
        assert wire.ask(deny.url, wire.head("/readyz", key=None, method="GET")).status == 200
        usage = deny.get("/v1/usage", "plain")
        assert (usage.status, usage.error["code"]) == (503, "quota_store_unavailable")
    _is_back(deny)
    assert order()(deny).status == 200
    wait_until(lambda: deny.used("plain")["images-day"] - before["images-day"] == 1)
    now = deny.used("plain")
    assert now["requests-day"] - before["requests-day"] == 1
    assert now["concurrent"] == 0
    assert simulator.record.totals.images_made == 1
    assert deny.metric("gateway_store_up") == 1


def test_allow_lets_pass_and_counts_it(allow: Watched, store: EmbeddedStore, simulator: SimulatorThread) -> None:
    """With `allow` orders go up unmetered and are counted as such; what the store learns of them later is nothing."""
    usage = allow.used("plain")
    with ExitStack() as held:
        _freeze(store, held)
        before = allow.counters()
        answers = [order()(allow), order(n=2)(allow), edit(wire.image(wire.png()))(allow)]
        after = allow.counters()
    assert [answer.status for answer in answers] == [200, 200, 200]
    changed = changes(before, after)
    assert changed[series("gateway_unmetered_requests_total", team="plain")] == 3
    for endpoint, requests, images in (("generations", 2, 3), ("edits", 1, 1)):
        named = {"team": "plain", "endpoint": endpoint, "model": "dall-e-3"}
        assert changed[series("gateway_requests_total", outcome="ok", **named)] == requests
        assert changed[series("gateway_images_total", size="1024x1024", quality="standard", **named)] == images
    assert simulator.record.totals.images_made == 4
    line = allow.request_line(answers[0].header("x-request-id") or "")
    assert (line["outcome"], line["unmetered"]) == ("ok", True)
    _is_back(allow)
    wait_until(lambda: allow.used("plain") == usage)


def test_allow_still_refuses_what_is_wrong(allow: Watched, store: EmbeddedStore, simulator: SimulatorThread) -> None:
    """An upload that is no PNG is refused as ever while the store is away, and is not counted as let through."""
    with ExitStack() as held:
        _freeze(store, held)
        before = allow.counters()
        answer = edit(wire.image(b"GIF89a" + bytes(100)))(allow)
        after = allow.counters()
    assert (answer.status, answer.error["code"]) == (400, "invalid_image")
    assert changes(before, after) == {
        series("gateway_requests_total", team="plain", endpoint="edits", model="none", outcome="refused_invalid"): 1,
        series("gateway_errors_total", team="plain", code="invalid_image"): 1,
    }
    _is_back(allow)
    assert simulator.record.totals.complete == 0


def test_an_outage_within_an_upload_frees_its_slot(
    allow: Watched, store: EmbeddedStore, simulator: SimulatorThread
) -> None:
    """An edit that was admitted before the store went away passes unmetered, and its slot is free afterwards."""
    body = wire.form(wire.image(wire.png()), wire.text("prompt", PROMPT))
    with wire.connected(allow.url) as connection, ExitStack() as held:
        connection.send(wire.edit_head(allow.key("plain"), length=len(body)))
        wait_until(lambda: allow.used("plain")["concurrent"] == 1)
        _freeze(store, held)
        connection.send(body)
        assert connection.read().status == 200
    _is_back(allow)
    wait_until(lambda: allow.used("plain")["concurrent"] == 0)
    assert simulator.record.totals.images_made == 1


@pytest.mark.parametrize(("n", "status"), [(2, 200), (3, 429)])
def test_what_is_let_in_unmetered_is_metered_if_the_store_is_back(
    n: int, status: int, allow: Watched, store: EmbeddedStore, simulator: SimulatorThread
) -> None:
    """An upload begun while the store was away and finished after its return is charged or refused like any other."""
    body = wire.form(wire.image(wire.png()), wire.text("prompt", PROMPT), wire.text("n", str(n)))
    before = allow.counters()
    with wire.connected(allow.url) as connection:
        with ExitStack() as held:
            _freeze(store, held)
            assert order()(allow).status == 200  # whose silence is noticed by this one
            simulator.record.clear()
            begun = simulator.simulator._requests_begun
            connection.send(wire.edit_head(allow.key("few"), length=len(body)) + body[:200])
            wait_until(lambda: simulator.simulator._requests_begun == begun + 1)
        _is_back(allow)
        connection.send(body[200:])
        assert connection.read().status == status
    changed = changes(before, allow.counters())
    made = n if status == 200 else 0
    assert simulator.record.totals.images_made == made
    image = {"team": "few", "endpoint": "edits", "model": "dall-e-3", "size": "1024x1024", "quality": "standard"}
    assert changed.get(series("gateway_images_total", **image), 0) == made
    assert series("gateway_images_refunded_total", **image) not in changed
    assert series("gateway_unmetered_requests_total", team="few") not in changed
