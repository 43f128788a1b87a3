"""Retries that cannot buy twice: each row of the error table as real clients meet it, with the retries they come with.

One gateway and one simulator serve all clients at once; a row's place in the simulator's script is found by its prompt.
`pytest -m slow -s tests/e2e/test_retries.py` shows the table.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import openai
import pytest

from gateway.ledger.embedded import EmbeddedStore
from gateway.simulator.script import Behaviour
from tests.e2e import wire
from tests.e2e.clients import Curl, all_of_them, openai_python
from tests.e2e.conftest import NARROW, storeless
from tests.e2e.retries import Grounds, Row, Seen, Sent, ask, table
from tests.e2e.stalling import stalling
from tests.e2e.watching import Watched
from tests.support.running import running_gateway
from tests.support.simulated import running_simulator
from tests.support.site import Site, running_site, team, wait_until

pytestmark = pytest.mark.debian("curl")

#: Requests that one worker holds at most: more than all the rows of one moment.
ROOM = 400

CLIENTS = ("openai-python 2", "openai-python 3", "openai-node 6", "AI SDK 6", "curl", "curl, all errors")

#: What clients send that repeat for as long as they do.
TILL_TIRED = Sent(openai=3, ai=3, curl=4)

#: The same for what OpenAI's SDKs are told not to repeat. The others do not hear that, and it costs nothing.
IN_VAIN = Sent(ai=3, curl=4)

#: The same where a Retry-After is longer than curl may take: it gives up, as it should.
TOO_LONG = Sent(ai=3)

#: One refusal, and then what was asked for.
ONCE_MORE = Sent(openai=2, ai=2, curl=2)

#: At least one refusal, and then what was asked for.
TILL_OVER = Sent(openai=range(2, 4), ai=range(2, 4), curl=range(2, 5))


#: What is asked for again by who does that when an answer breaks off; what that gets is a 424.
TILL_CUT = Sent(openai=range(1, 3), ai=range(1, 3), curl=range(1, 5))


def refusals() -> Iterator[Row]:
    """What the gateway refuses by itself."""
    yield Row(when="401", key="not-a-key", status=401, code="invalid_api_key")
    yield Row(when="400", fields={"size": "640x480"}, status=400, code="invalid_value")
    yield Row(when="403", team="square", fields={"size": "1792x1024"}, status=403, code="size_not_allowed")
    yield Row(when="404", fields={"model": "dall-e-9"}, status=404, code="model_not_found")
    yield Row(when="413", fields={"user": "x" * 600 * 1024}, status=413, code="request_too_large")
    yield Row(when="415", headers={"Content-Encoding": "gzip"}, status=415, code="unsupported_media_type")
    yield Row(when="422", own="Idempotency-Key", status=422, code="idempotency_key_reused")
    yield Row(when="429 hour", team="hour", sent=TOO_LONG, status=429, code="rate_limit_exceeded")
    yield Row(when="429 day", team="day", sent=TOO_LONG, status=429, code="insufficient_quota")
    yield Row(when="429 total", team="total", sent=IN_VAIN, status=429, code="insufficient_quota")
    yield Row(when="429 never fits", team="poor", sent=IN_VAIN, status=429, code="insufficient_quota")


def upstream_answers() -> Iterator[Row]:
    """What the upstream refuses: made is nothing, or what it takes the second time."""
    for status in (400, 404, 413, 415, 422):
        yield Row(when=f"upstream {status}", script=Behaviour(status=status), status=status)
    for status in (401, 403):
        script = Behaviour(status=status)
        yield Row(when=f"upstream {status}", script=script, sent=TILL_TIRED, status=502, code="upstream_auth_failed")
    for when, script in (
        ("upstream 402", Behaviour(status=402)),
        (
            "upstream 429 billing",
            Behaviour(status=429, body={"error": {"message": "Pay.", "code": "insufficient_quota"}}),
        ),
    ):
        yield Row(when=when, script=script, sent=IN_VAIN, status=503, code="upstream_account_exhausted")
    script = Behaviour(status=429, headers={"retry-after": "1"})
    yield Row(when="upstream 429", script=script, sent=TILL_TIRED, status=429, code="upstream_rate_limited")
    yield Row(when="upstream 429 once", script=script, once=True, sent=ONCE_MORE, paid=1)
    script = Behaviour(status=429, headers={"retry-after": "3600"})
    yield Row(when="upstream 429 hour", script=script, sent=TOO_LONG, status=429, code="upstream_rate_limited")
    for status in (500, 501, 503):
        script = Behaviour(status=status)
        yield Row(when=f"upstream {status}", script=script, sent=TILL_TIRED, status=502, code="upstream_error")
    yield Row(when="upstream 500 once", script=Behaviour(status=500), once=True, sent=ONCE_MORE, paid=1)


def unknowns() -> Iterator[Row]:
    """What may have been made, and here was: it is asked for once and paid for once."""

    def row(when: str, script: Behaviour, *, image: str | None = None, own: str | None = None) -> Row:
        code = "upstream_outcome_unknown"
        return Row(when=when, script=script, image=image, own=own, paid=1, status=424, code=code)

    yield row("time-out", Behaviour(fault="hang"))
    yield row("silent after its head", Behaviour(fault="hang", after=10))
    yield row("gone without an answer", Behaviour(fault="drop"))
    yield row("reset", Behaviour(fault="reset"))
    yield row("cut in its answer", Behaviour(fault="cut"))
    for status in (502, 504, 520):
        yield row(f"upstream {status}", Behaviour(status=status, made=1))
    yield row("200 that is no JSON", Behaviour(status=200, body="<html>"))
    yield row("edit gone without an answer", Behaviour(fault="drop"), image="small")
    yield row("edit, upstream 502", Behaviour(status=502, made=1), image="small")
    yield row("unknown by its key", Behaviour(fault="drop"), own="Idempotency-Key")


def ridden_out() -> Iterator[Row]:
    """What a client comes through by itself, or by its key."""
    yield Row(when="nothing wrong", paid=1)
    yield Row(when="edit, nothing wrong", image="small", paid=1)
    yield Row(when="408", stalled=True, sent=ONCE_MORE, paid=1)
    yield Row(
        when="client gives up, with its key",
        script=Behaviour(latency=3.0),
        timeout=2.0,
        own="Idempotency-Key",
        sent=Sent(openai=range(2, 4), curl=range(2, 5)),  # the AI SDK has no time of its own
        paid=1,
    )


#: What is cut off behind a status of 200. It ends in no answer, or in the 424 to whoever asks for it again.
CUT = tuple(
    Row(when=when, script=Behaviour(pad=200_000, **fault), image=image, sent=TILL_CUT, paid=1)
    for when, fault, image in (
        ("long answer, cut", {"fault": "cut"}, None),
        ("long answer, reset", {"fault": "reset", "after": 100_000}, None),
        ("long answer to an edit, cut", {"fault": "cut"}, "small"),
    )
)

RESET = CUT[1]

#: What is met by all at once.
TOGETHER = (*refusals(), *upstream_answers(), *unknowns(), *ridden_out(), *CUT)


def passing(when: str, *, image: str | None = None, team: str = "plain", stalled: bool = False) -> Row:
    """What ends when each call has met it."""
    return Row(when=when, image=image, team=team, stalled=stalled, sent=TILL_OVER, paid=1)


#: By what fails the clients, in the order in which it does.
PASSING = {
    "store_away": (passing("store away"), passing("store away, edit", image="small")),
    "upstream_away": (passing("upstream away"), passing("upstream away, edit", image="small")),
    "upstream_leaving": (passing("edit cut before its closing bytes", image="small", stalled=True),),
    "full": (passing("overloaded"), passing("overloaded, edit", image="small")),
    "without_disk": (passing("500, edit", image="large"),),
    "minute_over": (passing("429 minute", team="minute"),),
}

ROWS = (*TOGETHER, *(row for rows in PASSING.values() for row in rows))


@dataclass(frozen=True, slots=True)
class World:
    """What stands around the clients, and the ways in which it fails them."""

    site: Site
    store: EmbeddedStore

    @property
    def watched(self) -> Watched:
        return Watched(self.site.gateway, self.site.simulator)

    def failing(self, how: str) -> AbstractContextManager[Callable[[], bool] | None]:
        """how: a name in PASSING."""
        state: AbstractContextManager[Callable[[], bool] | None] = getattr(self, how)()
        return state

    @contextlib.contextmanager
    def store_away(self) -> Iterator[None]:
        assert self.store.pid is not None
        os.kill(self.store.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.store.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def upstream_away(self) -> Iterator[None]:
        """Nobody listens there."""
        self.site.simulator.stop()
        try:
            yield
        finally:
            self.site.simulator.start()

    @contextlib.contextmanager
    def upstream_leaving(self) -> Iterator[Callable[[], bool]]:
        """It closes before it has a whole edit. The gateway's requests end later: they wait for the client's rest."""
        simulator = self.site.simulator
        before = simulator.record.totals.incomplete
        simulator.script({"fault": "close_before_body_end", "endpoint": "edits", "after": 1000, "times": None})
        try:
            yield lambda: simulator.record.totals.incomplete - before >= len(CLIENTS)
        finally:
            simulator.simulator.clear_script()

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """As many requests are in flight as the worker holds."""
        with ExitStack() as held:
            for _ in range(ROOM):
                connection = held.enter_context(wire.connected(self.site.gateway.url))
                connection.send(wire.head(wire.GENERATIONS, "Content-Length: 99", key=self.site.key("plain")))
            wait_until(lambda: self.watched.metric("gateway_inflight_requests") == ROOM)
            yield

    @contextlib.contextmanager
    def without_disk(self) -> Iterator[None]:
        """No file of the worker's may grow beyond 2 MB, as on a full disk. Edits are spooled, once a 411 has come."""
        self.site.simulator.script({"fault": "refuse_body", "status": 411, "endpoint": "edits"})
        edit = wire.edit(self.site.key("plain"), wire.image(wire.png()), wire.text("prompt", "A lighthouse"))
        assert wire.ask(self.site.gateway.url, edit).status == 502
        pid = self.watched.worker()
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (2 * 1024 * 1024, hard))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))

    def order(self, team: str, *lines: str) -> None:
        """An image, by no client of the matrix."""
        assert wire.ask(self.site.gateway.url, wire.generation(self.site.key(team), *lines)).status == 200

    @contextlib.contextmanager
    def minute_over(self) -> Iterator[None]:
        """The team's minute ends soon: most of it has gone by meanwhile, or is waited for here."""

        def used() -> float:
            return self.watched.used("minute")["requests-minute"]

        if used() < len(CLIENTS):  # on a slow machine what was ordered first is older than a minute by now
            wait_until(lambda: not used(), seconds=60, interval=0.2)
            for _ in CLIENTS:
                self.order("minute")

        def soon() -> bool:
            (rule,) = self.watched.usage("minute")["rules"]
            return (datetime.fromisoformat(rule["resets_at"]) - datetime.now(UTC)).total_seconds() < 8

        wait_until(soon, seconds=60, interval=0.2)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_simulator() as simulator, EmbeddedStore(tmp_path_factory.mktemp("store")) as store:
        config = storeless(simulator, "deny")
        config["request_limits"] = {"body_idle_timeout": "8s", "max_inflight_per_worker": ROOM}
        config["upstream"] |= {"connect_timeout": "2s", "total_timeout": "8s"}
        narrow = {name: NARROW[name] for name in ("square", "hour", "day", "total")}
        narrow["poor"] = {"quotas": [{"usd": 0.01, "per": "month"}]}
        narrow["minute"] = {"quotas": [{"requests": len(CLIENTS), "per": "minute"}]}
        config["teams"] |= {name: team(name, settings) for name, settings in narrow.items()}
        with running_gateway(config=config, environ={"TEST_STORE_URL": store.url}) as gateway:
            yield World(Site(gateway, simulator), store)


@pytest.fixture(scope="module")
def matrix(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Seen]]:
    """Every row with every client, within about a minute."""
    site, images = world.site, tmp_path_factory.mktemp("images")
    with (
        all_of_them(tmp_path_factory.mktemp("clients")) as clients,
        stalling(site.gateway.url) as stalled,
    ):
        assert tuple(client.name for client in clients) == CLIENTS
        for name in ("hour", "day", "total", *["minute"] * len(clients)):
            world.order(name)
        (reused,) = [row for row in TOGETHER if row.when == "422"]
        for client in clients:
            world.order("plain", f"Idempotency-Key: {reused.value(client)}")
        grounds = Grounds(site, {"small": images / "small.png", "large": images / "large.png"}, stalled)
        grounds.images["small"].write_bytes(wire.png(length=100_000))
        grounds.images["large"].write_bytes(wire.png(length=3 * 1024 * 1024))
        seen = ask(TOGETHER, clients, grounds)
        for how, rows in PASSING.items():
            seen += ask(rows, clients, grounds, meanwhile=world.failing(how))
        yield seen
    print(f"\n{table(seen)}")


@pytest.mark.slow
@pytest.mark.npm
@pytest.mark.timeout(400)
@pytest.mark.parametrize("row", [row for row in ROWS if row not in CUT], ids=lambda row: row.when)
def test_sent_and_paid(matrix: list[Seen], row: Row) -> None:
    """Each client sends the row as often as is good, ends with its answer, and what was made of it is charged once."""
    found = [each for each in matrix if each.row.when == row.when]
    assert tuple(each.client.name for each in found) == CLIENTS
    for each in found:
        assert each.sent in row.sent.by(each.client.family), each
        assert (each.paid, each.charged) == (row.paid, row.paid), each
        assert (each.told.status, each.told.code) == (row.status, row.code), each
        assert each.told.images == (1 if row.status == 200 else 0), each


@pytest.mark.slow
@pytest.mark.npm
@pytest.mark.timeout(400)
@pytest.mark.parametrize("row", CUT, ids=lambda row: row.when)
def test_what_is_cut_off_is_bought_once(matrix: list[Seen], row: Row) -> None:
    """Who repeats an order whose long answer was cut off is told that it is paid for; the upstream makes it once.

    A reset takes with it what has come and was not read yet, be it the answer's head: then the first answer says so.
    """
    found = [each for each in matrix if each.row.when == row.when]
    assert tuple(each.client.name for each in found) == CLIENTS
    for each in found:
        assert (each.paid, each.charged) == (1, 1), each
        assert each.sent in row.sent.by(each.client.family), each
        assert each.told.images == 0, each
        told_at_once = row is RESET and each.told.status == 424
        assert each.told.code == ("upstream_outcome_unknown" if each.sent > 1 or told_at_once else None), each
    told = {each.client.name for each in found if each.told.code}
    repeating = {"openai-python 2", "openai-python 3", "AI SDK 6", "curl, all errors"}
    assert told >= repeating if row is RESET else told == repeating


@pytest.mark.slow
@pytest.mark.npm
@pytest.mark.timeout(400)
def test_repetitions_are_counted(matrix: list[Seen], world: World) -> None:
    """The metric counts each repetition of OpenAI's SDKs, which number them, and none of the others, which do not."""
    for each in matrix:
        assert each.repeated == (each.sent - 1 if each.client.family == "openai" else 0), each
    assert world.site.gateway.metric("gateway_client_retries_total") == sum(each.repeated for each in matrix)


@pytest.mark.slow
@pytest.mark.npm
@pytest.mark.timeout(400)
def test_all_that_was_made_is_charged(matrix: list[Seen], world: World) -> None:
    """Over all rows the gateway has charged as many images as the upstream made."""
    assert world.site.gateway.metric("gateway_images_total") == world.site.made


@pytest.fixture(scope="module")
def plain_site() -> Iterator[Site]:
    with running_site(teams={"plain": {}, "poor": {"quotas": [{"usd": 0.01, "per": "month"}]}}) as running:
        yield running


SAMPLE = (
    "401",
    "429 never fits",
    "upstream 402",
    "upstream 429 once",
    "upstream 500 once",
    "gone without an answer",
    "upstream 502",
)


def test_the_sdk_of_this_environment_buys_once(plain_site: Site) -> None:
    """Of some of the rows, with OpenAI's SDK alone: the requests that it sends, and what is paid for."""
    rows = [row for row in TOGETHER if row.when in SAMPLE]
    with openai_python() as client:
        seen = ask(rows, [client], Grounds(plain_site, {}, ""))
    for row, each in zip(rows, seen, strict=True):
        assert each.sent in row.sent.by("openai"), each
        assert (each.paid, each.charged, each.told.code) == (row.paid, row.paid, row.code), each
    assert len(rows) == len(SAMPLE)


@pytest.mark.slow
def test_even_a_client_that_repeats_everything_pays_once_by_its_key(plain_site: Site) -> None:
    """`curl --fail --retry-all-errors` repeats a 424 too; with an Idempotency-Key it is made once all the same."""
    client = Curl(options=("--fail", "--retry-all-errors"))
    row = Row(when="repeated", script=Behaviour(fault="drop"), own="Idempotency-Key")
    (seen,) = ask([row], [client], Grounds(plain_site, {}, ""))
    assert (seen.told.status, seen.sent, seen.paid, seen.charged) == (424, 4, 1, 1)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_who_waits_for_a_minute_to_be_over_is_served() -> None:
    """A team that has just used its minute up: OpenAI's SDK waits as it is told, asks once more, and has its image."""
    with running_site(teams={"pair": {"quotas": [{"images": 2, "per": "minute"}]}}) as site:
        client = openai.OpenAI(base_url=f"{site.gateway.url}/v1", api_key=site.key("pair"), max_retries=1)
        client.images.generate(prompt="A lighthouse", n=2)
        assert len(client.images.generate(prompt="Another").data or ()) == 1
        refused, repeated = site.gateway.metrics("gateway_quota_refusals_total", "gateway_client_retries_total")
        assert (refused, repeated) == (1, 1)
        assert site.simulator.record.totals.images_made == 3
