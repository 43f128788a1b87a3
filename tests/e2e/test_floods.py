"""Too much of everything: bad keys, names that nobody knows, bodies without end. Neither store nor memory pays."""

import contextlib
import json
import random
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis

from gateway.core import keys
from tests.e2e import wire
from tests.e2e.conftest import ISSUERS, JWT_SECRET, storeless, token
from tests.e2e.watching import Watched
from tests.support import stream
from tests.support.running import running_gateway
from tests.support.simulated import SimulatorThread
from tests.support.valkey import valkey

pytestmark = pytest.mark.slow

BAD_KEYS = 2000

#: Text that a naive store, log, label or path would stumble over.
NAUGHTY = (
    "a b", "a:b", "{x}", "{gateway}:counters", "*", "u:*", "a|b", "a\\tb", "..", "../../etc/passwd", "%00", "%s%n", "'",
    '"', "';--", "$(id)", "`id`", "${jndi:ldap://127.0.0.1:1/x}", "\\\\", "\\r\\nSET x 1\\r\\n", "*1\r\n$4\r\nPING",
    "\u202etxet", "\ufeff", "Ω≈ç√😀", "nil", "none", "other", "organization", "NaN", "-1", "1e309", "0x0", "a" * 200,
    "EVAL", "return redis.call('FLUSHALL')", "<script>", "__proto__", "constructor", "\x00", "\x1b[31m", "\n", "",
)  # fmt: skip


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with valkey() as url:
        yield url


@pytest.fixture(scope="module")
def one(one_simulator: SimulatorThread, store: str) -> Iterator[Watched]:
    whole = {**storeless(one_simulator, "deny"), "jwt_issuers": ISSUERS}
    whole["request_limits"] = {"body_idle_timeout": "1s", "body_total_timeout": "3s"}
    with running_gateway(config=whole, environ={"TEST_STORE_URL": store, "TEST_JWT_SECRET": JWT_SECRET}) as gateway:
        yield Watched(gateway, one_simulator)


@pytest.fixture
def watched(one: Watched, simulator: SimulatorThread) -> Watched:
    """A gateway whose store can be looked into, with short limits on bodies."""
    return one


@pytest.fixture(scope="module")
def client(store: str) -> Iterator[redis.Redis]:
    with contextlib.closing(redis.Redis.from_url(store)) as asked:
        yield asked


def scripts_run(client: redis.Redis) -> int:
    """How many times the gateway has asked its store for anything."""
    stats: Any = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


def bad_keys() -> Iterable[str]:
    """Keys and tokens that open nothing: unknown, mistyped, not made by us, signed by somebody else."""
    chance = random.Random(1)
    for number in range(BAD_KEYS):
        unknown = keys.make(chance.randbytes(keys.RANDOM_BYTES))
        yield (
            unknown,
            unknown[:-1] + ("0" if unknown[-1] != "0" else "1"),
            f"sk-{chance.randbytes(24).hex()}",
            token("plain", secret=f"{number:>50}"),
            token("plain", valid=-800),
        )[number % 5]


def test_bad_keys_cost_the_store_nothing(watched: Watched, client: redis.Redis) -> None:
    """Two thousand of them are refused alike, and the store is asked for none; who has a key is served meanwhile."""
    good = wire.generation(watched.key("plain"))
    before = scripts_run(client)
    bodies = set()
    for number, key in enumerate(bad_keys()):
        answer = wire.ask(watched.url, wire.generation(key))
        assert answer.status == 401
        bodies.add(answer.body)
        if number % 100 == 0:
            assert wire.ask(watched.url, good).status == 200
    assert len(bodies) == 1
    orders = BAD_KEYS // 100
    # An order asks twice; the rest is the heartbeat, and now and then when a key was last used.
    assert scripts_run(client) - before < 2 * orders + 60


def naughty_requests(watched: Watched) -> Iterable[bytes]:
    """Requests with such text wherever a client may put text."""
    key = watched.key("plain")
    for text in NAUGHTY:
        marked = f"kanary {text}"
        for field in ("model", "size", "quality", "user", "prompt", "style", "response_format"):
            yield wire.generation(key, **{field: marked})
        yield wire.generation(key, **{marked: marked})
        yield wire.edit(key, wire.text("prompt", "x"), wire.text("model", marked), wire.image(wire.png()))
        yield wire.generation(token(marked))
        yield wire.generation(token(text))
        plain = "".join(c for c in marked if " " <= c <= "~")
        for name in ("Idempotency-Key", "X-Request-Id", "traceparent", "X-Stainless-Retry-Count", "User-Agent"):
            yield wire.generation(key, f"{name}: {plain}")
        yield wire.head(f"/v1/models/{quote(marked)}", key=key, method="GET", content_type=None)
        yield wire.head(f"/v1/{quote(marked)}", key=key, method="GET", content_type=None)


def test_no_text_of_a_client_names_anything(watched: Watched, client: redis.Redis) -> None:
    """Names of keys and fields in the store and labels of metrics come from the config, whatever clients write; a log
    line stays one line, and nothing is a fault of the gateway's.
    """
    for method in ("GET", "PATCH", "BREW"):
        wire.ask(watched.url, wire.head("/x", key=None, method=method, content_type=None))
    watched.counters()
    series = set(_SERIES.findall(watched._metrics()))
    statuses = {wire.ask(watched.url, request).status for request in naughty_requests(watched)}
    watched.counters()
    assert statuses <= {200, 400, 401, 403, 404}, statuses
    now = set(_SERIES.findall(watched._metrics()))
    assert not [each for each in now if "kanary" in each]
    assert {each.partition("{")[0] for each in now} == {each.partition("{")[0] for each in series}
    assert len(now) - len(series) < 40  # histograms of an outcome that had not been met, and the like
    names: Any = client.keys("*")
    assert names
    for name in names:
        assert name.startswith(b"{deny}:")
        assert b"kanary" not in name
        if client.type(name) == b"hash":
            fields: Any = client.hkeys(name)
            assert not [field for field in fields if b"kanary" in field]
    for line in watched.gateway.log_text().splitlines():
        assert isinstance(json.loads(line), dict)
    assert watched.lines(event="fault") == []


_SERIES = re.compile(r"^(\w+(?:\{.*\})?) ", re.MULTILINE)


# Bodies without end


def endless(watched: Watched, kind: str) -> Iterable[bytes]:
    """A head, and pieces of a body that never ends."""
    key = watched.key("plain")
    piece = b"a" * 60_000
    json_head = wire.head(wire.GENERATIONS, "Transfer-Encoding: chunked", key=key)
    form = wire.edit_head(key, length=None)
    heads = {
        "JSON": json_head + b"b\r\n" + b'{"prompt":"' + b"\r\n",
        "image": form + b"".join(wire.chunks(wire.part_head("image", "a.png") + wire.png()[:100], last=False)),
        "text": form + b"".join(wire.chunks(wire.part_head("prompt", None), last=False)),
        "part's header": form + b"".join(wire.chunks(f"--{wire.BOUNDARY}\r\nX-".encode(), last=False)),
        "preamble": form,
        "many parts": form,
        "many headers": form + b"".join(wire.chunks(f"--{wire.BOUNDARY}\r\n".encode(), last=False)),
        "chunk extension": json_head + b"1;",
        "chunk size": json_head + b"0" * 20,
        "small chunks": json_head,
        "unread": wire.head("/v1/models", "Transfer-Encoding: chunked", key=key),
    }
    pieces = {
        "chunk extension": piece,
        "chunk size": b"0" * 60_000,
        "many parts": b"".join(
            wire.chunks(wire.form(*[wire.text(f"p{i}", "x") for i in range(500)])[:-14], last=False)
        ),
        "many headers": b"".join(wire.chunks(b"X: y\r\n" * 10_000, last=False)),
        "small chunks": b"1\r\n \r\n" * 10_000,
    }
    yield heads[kind]
    while True:
        yield pieces.get(kind, b"%x\r\n%b\r\n" % (len(piece), piece))


ENDLESS = {
    "JSON": 413, "image": 413, "text": 400, "part's header": 400, "preamble": 400, "many parts": 400,
    "many headers": 400, "chunk extension": 408, "chunk size": 408, "small chunks": 400, "unread": 405,
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_body_without_end_has_one(kind: str, watched: Watched) -> None:
    """However it goes on it is refused at its limit or its deadline, its connection closes, and memory stays as it was;
    no whole request goes up.
    """
    worker = stream.Worker(watched.worker())
    ends = time.monotonic() + 20
    with wire.connected(watched.url) as line:
        for piece in endless(watched, kind):
            assert time.monotonic() < ends
            if not line.send_some(piece):
                break
        answer = line.read()
    assert (answer.status, answer.header("connection")) == (ENDLESS[kind], "close")
    assert worker.growth < 32
    watched.counters()
    assert watched.simulator.record.totals.complete == 0


def test_bodies_in_many_chunks_are_taken(watched: Watched) -> None:
    """Chunks as small as a line of a picture, or as a byte while they are few, are no flood."""
    key = watched.key("plain")
    edit = wire.form(wire.text("prompt", "x"), wire.image(wire.png(length=1024 * 1024)))
    assert (
        wire.ask(watched.url, wire.edit_head(key, length=None), *[b"".join(wire.chunks(edit, size=70))]).status == 200
    )
    body = json.dumps({"prompt": "x" * 4000}).encode()
    head = wire.head(wire.GENERATIONS, "Transfer-Encoding: chunked", key=key)
    assert wire.ask(watched.url, head + b"".join(wire.chunks(body, size=1))).status == 200
