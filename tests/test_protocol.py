"""What comes at the socket: broken, late, endless or too much of it, before a gateway with short deadlines.

Beside all of it an honest client goes on, and is neither refused nor kept waiting.
"""

import asyncio
import contextlib
import gc
import json
import resource
import socket
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.protocol import Doors, Protocol
from tests.core import sample
from tests.e2e import wire
from tests.support import stream
from tests.support.running import SECRETS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import wait_until
from tests.support.stream import Heard, connected

pytestmark = pytest.mark.slow

HEAD_SECONDS = 1.0
IDLE_SECONDS = 1.0
TOTAL_SECONDS = 2.0
DRAIN_SECONDS = 2.0  #: so long what comes behind a refusal is read on
EARLY = 0.05  #: an event loop's timers and ours are not the same clock
MARGIN = 1.5  #: a loaded machine is late

KEY = SECRETS["free"]


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorThread) -> Iterator[Running]:
    """One worker with deadlines of a second or two."""
    config = base_config(upstream=simulator.base_url)
    config["request_limits"] = {"header_timeout": "1s", "body_idle_timeout": "1s", "body_total_timeout": "2s"}
    with running_gateway(config=config) as running:
        yield running
        running.stop()
        assert "Traceback" not in running.log_text()
        assert all(line.startswith("{") for line in running.log_text().splitlines()), "all words are JSON lines"


class Honest:
    """A client that asks for one image after the other meanwhile."""

    def __init__(self) -> None:
        self.answers: list[Heard] = []
        self.slowest = 0.0

    async def run(self, url: str) -> None:
        async with connected(url) as line:
            while True:
                began = time.monotonic()
                self.answers.append(await line.ask(wire.generation(KEY)))
                self.slowest = max(self.slowest, time.monotonic() - began)
                await asyncio.sleep(0.02)

    async def has(self, answers: int) -> None:
        """Wait till it has had so many."""
        ends = time.monotonic() + 10
        while len(self.answers) < answers:
            assert time.monotonic() < ends
            await asyncio.sleep(0.01)

    def check(self, *, slowest: float = 1.0) -> None:
        assert self.answers
        assert {answer.status for answer in self.answers} == {200}
        assert self.slowest < slowest


@contextlib.asynccontextmanager
async def honest(url: str) -> AsyncIterator[Honest]:
    """One that runs for the block's time and has had its answers, all of them soon."""
    client = Honest()
    task = asyncio.create_task(client.run(url))
    try:
        yield client
        await client.has(1)
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait({task})
    client.check()


async def told(url: str, *pieces: bytes, pause: float = 0.0, limit: float) -> tuple[bytes, float]:
    """What a client hears that sends these pieces, and the seconds until the connection's end, `limit` at most."""
    began = time.monotonic()
    async with connected(url) as line:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                if line.reader.at_eof():
                    break
                await line.send(piece)
                await asyncio.sleep(pause)
        return await line.ended(limit), time.monotonic() - began


def status_of(heard: bytes) -> int:
    """The status of the one answer in these bytes, which has the gateway's shape of an error."""
    head, _, body = heard.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert b"\r\nx-request-id: req_" in head.lower()
    error = json.loads(body)["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    return int(head.split(b" ", 2)[1])


BROKEN = {
    "garbage": b"\x00\xff" * 50,
    "tls hello": bytes.fromhex("16030100c8010000c40303") + bytes(range(190)),
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "no version": b"GET /\r\n\r\n",
    "connect": b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad chunk": wire.edit_head(KEY, length=None) + b"zz\r\n",
    "hundred thousand headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"x-%d: 1\r\n" % i for i in range(100_000)),
    "header of 10 MB": b"GET / HTTP/1.1\r\nHost: x\r\nx-long: " + b"a" * 10_000_000 + b"\r\n\r\n",
    "path of 10 MB": b"GET /" + b"a" * 10_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "name of 10 MB": b"GET / HTTP/1.1\r\n" + b"a" * 10_000_000 + b": 1\r\n\r\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_http_gets_a_400_and_the_end(gateway: Running, kind: str) -> None:
    """Each is refused in the gateway's shape at once, however much of it the client still sends, and then closed."""

    async def play() -> tuple[bytes, float]:
        async with honest(gateway.url):
            return await told(gateway.url, BROKEN[kind], limit=DRAIN_SECONDS + MARGIN)

    heard, _ = asyncio.run(play())
    assert status_of(heard) == 400


def test_a_head_must_come_in_time(gateway: Running) -> None:
    """However slowly it trickles in: after `header_timeout` a half head gets a 408, a silent connection just ends."""
    began = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nX-Slow: "
    cases = {
        "silent": ((), 0.0),
        "half line": ((b"POST /v1/ima",), 0.0),
        "half head": ((began,), 0.0),
        "a byte at a time": ([began[i : i + 1] for i in range(len(began))], 0.05),
        "a header at a time": ([began, *[b"x\r\nX-Slow: "] * 30], 0.05),
        "empty lines": ([b"\r\n"] * 30, 0.05),
    }

    async def play() -> list[tuple[bytes, float]]:
        async with honest(gateway.url):
            return await asyncio.gather(
                *(told(gateway.url, *pieces, pause=pause, limit=10) for pieces, pause in cases.values())
            )

    for kind, (heard, seconds) in zip(cases, asyncio.run(play()), strict=True):
        assert HEAD_SECONDS - EARLY <= seconds < HEAD_SECONDS + 2 * MARGIN, kind
        assert (status_of(heard) if heard else None) == (None if kind in ("silent", "empty lines") else 408), kind


def test_a_bad_head_that_is_late_too_is_refused_once(gateway: Running) -> None:
    """What turns out to be no HTTP just before its time is over gets one 400, and is counted once."""
    counted = {"endpoint": "other", "team": "none", "outcome": "refused_invalid"}
    before = gateway.metric("gateway_requests_total", **counted)

    async def play() -> bytes:
        async with connected(gateway.url) as line:
            await line.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
            await asyncio.sleep(HEAD_SECONDS / 2)
            await line.send(b"\x00bad\r\n")
            heard = await line.ended(10)
            await asyncio.sleep(HEAD_SECONDS)  # it keeps its half open for longer than a head may take
            return heard

    heard = asyncio.run(play())
    assert status_of(heard) == 400
    assert heard.count(b"HTTP/1.1 ") == 1
    assert gateway.metric("gateway_requests_total", **counted) == before + 1


def test_the_second_head_on_a_connection_must_come_in_time_too(gateway: Running) -> None:
    """A kept connection on which the next head stalls gets a 408 as well; its first answer was whole."""

    async def play() -> tuple[Heard, bytes, float]:
        async with connected(gateway.url) as line:
            first = await line.ask(wire.generation(KEY))
            began = time.monotonic()
            await line.send(wire.generation(KEY)[:80])
            return first, await line.ended(10), time.monotonic() - began

    first, heard, seconds = asyncio.run(play())
    assert first.status == 200
    assert status_of(heard) == 408
    assert HEAD_SECONDS - EARLY <= seconds < HEAD_SECONDS + 2 * MARGIN


def test_a_body_must_not_stall_or_trickle(gateway: Running, simulator: SimulatorThread) -> None:
    """A body that stops, and one that never stops coming, get a 408 at their deadlines; the upstream made nothing, and
    the seconds that their clients took are not counted as our own time.
    """
    simulator.record.clear()
    starts = [
        wire.head(wire.GENERATIONS, "Content-Length: 1000", key=KEY) + b'{"prompt": "',
        wire.edit_head(KEY, length=100_000) + wire.part_head("image", "a.png") + wire.png(),
    ]

    async def refused(*pieces: bytes) -> tuple[Heard, float]:
        async with connected(gateway.url) as line:
            began = time.monotonic()
            sending = asyncio.create_task(trickle(line, *pieces))
            heard, seconds = await line.answer(), time.monotonic() - began
            await line.ended(DRAIN_SECONDS + MARGIN)
            sending.cancel()
            await asyncio.wait({sending})
            return heard, seconds

    async def trickle(line: stream.Stream, *pieces: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                await line.send(piece)
                await asyncio.sleep(0.2)

    async def play() -> list[tuple[Heard, float]]:
        async with honest(gateway.url):
            return await asyncio.gather(
                *(refused(start) for start in starts), *(refused(start, *[b"a"] * 100) for start in starts)
            )

    lines = len(gateway.requests_logged())
    before = simulator.record.totals.incomplete
    *stalled, third, fourth = asyncio.run(play())
    for heard, _ in (*stalled, third, fourth):
        assert (heard.status, heard.code, heard.closes) == (408, "request_timeout", True)
    assert all(IDLE_SECONDS - EARLY <= seconds < IDLE_SECONDS + MARGIN for _, seconds in stalled)
    assert all(TOTAL_SECONDS - EARLY <= seconds < TOTAL_SECONDS + MARGIN for _, seconds in (third, fourth))
    wait_until(lambda: simulator.record.totals.incomplete == before + 2)
    assert all(request.endpoint == "generations" for request in simulator.record.requests if request.complete)
    late = [line for line in gateway.requests_logged()[lines:] if line.get("code") == "request_timeout"]
    assert len(late) == 4
    assert all(line["total_ms"] >= (IDLE_SECONDS - EARLY) * 1000 for line in late)
    assert all(line["overhead_ms"] < 500 for line in late)


def test_http_1_0_is_served_and_ends(gateway: Running) -> None:
    """An HTTP/1.0 request gets its answer and the connection's end."""
    body = b'{"prompt": "a lighthouse"}'
    head = wire.head(wire.GENERATIONS, f"Content-Length: {len(body)}", key=KEY).replace(b"HTTP/1.1", b"HTTP/1.0")
    heard, _ = asyncio.run(told(gateway.url, head + body, limit=5))
    assert heard.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in heard.lower()


def test_pipelined_requests_are_answered_in_order(gateway: Running, simulator: SimulatorThread) -> None:
    """Requests written at once on one connection are answered one after the other, each with its own images."""
    numbers = [1, 3, 2, 1, 2]
    simulator.record.clear()

    async def play() -> list[Heard]:
        async with connected(gateway.url) as line:
            await line.send(b"".join(wire.generation(KEY, n=n) for n in numbers))
            return [await line.answer() for _ in numbers]

    heard = asyncio.run(play())
    assert [answer.status for answer in heard] == [200] * 5
    assert [len(json.loads(answer.body)["data"]) for answer in heard] == numbers
    assert simulator.record.totals.images_made == sum(numbers)


def test_garbage_behind_a_request_does_not_spoil_its_answer(gateway: Running) -> None:
    """What is no HTTP behind a whole request never stands within the answer to it."""

    async def play() -> bytes:
        async with connected(gateway.url) as line:
            await line.send(wire.generation(KEY) + b"\x00\x01\x02\x03 garbage\r\n\r\n")
            return await line.ended(10)

    heard = asyncio.run(play())
    assert heard.count(b"HTTP/1.1 200 ") <= 1
    if heard.startswith(b"HTTP/1.1 200 "):
        head, _, rest = heard.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert json.loads(rest[:length])["data"]


def test_a_body_that_nobody_wants_holds_nothing(gateway: Running) -> None:
    """A health check with half a body is refused, and its connection ends by itself without another word."""

    async def play() -> tuple[Heard, bytes]:
        async with connected(gateway.url) as line:
            heard = await line.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
            await line.send(b"01234")
            return heard, await line.ended(HEAD_SECONDS + 5 + MARGIN)

    heard, rest = asyncio.run(play())
    assert (heard.status, rest) == (400, b"")


def test_the_ports_are_apart(gateway: Running) -> None:
    """What belongs to the admin port is 404 on the public one and the reverse; health is on both."""

    def get(url: str, path: str) -> int:
        return wire.ask(url, wire.head(path, key=KEY, method="GET", content_type=None)).status

    for path in ("/metrics", "/"):
        assert (get(gateway.url, path), get(gateway.admin_url, path)) == (404, 200), path
    assert (get(gateway.url, "/v1/models"), get(gateway.admin_url, "/v1/models")) == (200, 404)
    paid = wire.generation(KEY)
    assert (wire.ask(gateway.url, paid).status, wire.ask(gateway.admin_url, paid).status) == (200, 404)
    for path in ("/healthz", "/livez", "/readyz"):
        assert (get(gateway.url, path), get(gateway.admin_url, path)) == (200, 200), path


def test_idle_connections_by_the_hundred_are_let_go(gateway: Running) -> None:
    """300 connections that say nothing are closed at the head's deadline and leave no descriptor behind."""
    (worker,) = stream.workers(gateway)

    async def play() -> None:
        async with contextlib.AsyncExitStack() as stack, honest(gateway.url):
            lines = [await stack.enter_async_context(connected(gateway.url)) for _ in range(300)]
            ended = asyncio.gather(*(line.ended(HEAD_SECONDS + 2 * MARGIN) for line in lines))
            while stream.descriptors(worker) < before + 250:
                assert not ended.done()
                await asyncio.sleep(0.01)
            await ended

    before = stream.descriptors(worker)
    asyncio.run(play())
    wait_until(lambda: stream.descriptors(worker) <= before + 8, seconds=5)


def test_connections_beyond_the_file_limit_are_turned_away(simulator: SimulatorThread) -> None:
    """With 128 descriptors for all: a flood of connections is closed at the door, and whoever is inside is served."""
    config = base_config(upstream=simulator.base_url)
    config["request_limits"] = {"header_timeout": "2s", "max_inflight_per_worker": 50}

    async def play(gateway: Running) -> tuple[int, int]:
        (worker,) = stream.workers(gateway)
        async with contextlib.AsyncExitStack() as stack, honest(gateway.url) as client:
            await client.has(1)
            lines = [await stack.enter_async_context(connected(gateway.url)) for _ in range(400)]
            ends = [asyncio.create_task(line.ended(10)) for line in lines]
            await asyncio.wait(ends, timeout=1.0)
            turned_away = sum(end.done() for end in ends)
            await client.has(len(client.answers) + 5)
            health = wire.ask(gateway.admin_url, wire.head("/livez", key=None, method="GET", content_type=None))
            assert health.status == 200
            most = stream.descriptors(worker)
            assert await asyncio.gather(*ends) == [b""] * 400
            return turned_away, most

    with running_gateway(config=config, ulimit="-n 128") as gateway:
        turned_away, most = asyncio.run(play(gateway))
        assert asyncio.run(told(gateway.url, wire.generation(KEY, "Connection: close"), limit=5))[0].count(b" 200 OK")
        log = gateway.log_text()
    assert 400 - 64 <= turned_away < 400
    assert most < 128
    assert "connections refused: no file descriptors left for them" in log
    assert "open-file limit below max_inflight_per_worker" in log
    assert "Traceback" not in log


class Impatient(Protocol):
    """One that gives a client a third of a second to read."""

    stall_seconds = 0.3


def test_the_file_limit_is_raised_to_what_is_allowed(simulator: SimulatorThread) -> None:
    """A soft limit that would be too low is raised to the hard one, for every worker, without a word."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    config = base_config(upstream=simulator.base_url)
    config["request_limits"] = {"max_inflight_per_worker": 100}
    with running_gateway(config=config, ulimit="-S -n 100") as gateway:
        (worker,) = stream.workers(gateway)
        assert resource.prlimit(worker, resource.RLIMIT_NOFILE) == (hard, hard)
        assert "open-file limit" not in gateway.log_text()


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[tuple[str, ServerState]]:
    """An application behind `Impatient` in this process, with small buffers in the kernel; its address."""
    config: Any = Config(app, http=Impatient, ws="none", lifespan="off", log_config=None)
    config.admin_app, config.admin_address = app, ("", 0)
    config.doors, config.readiness = Doors(100), Readiness()
    config.intake = memoryview(bytearray(65536))
    config.settings = sample.settings
    config.load()
    state = ServerState()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Impatient(config, state, {}), sock=listener)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", state
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await server.wait_closed()


class Readiness:
    draining = False


async def gone(state: ServerState, *, seconds: float) -> float:
    """Seconds until no connection and no request is left."""
    began = time.monotonic()
    while state.connections or state.tasks:
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@pytest.mark.parametrize("size", [60_000, 300_000])
def test_who_does_not_read_is_let_go(size: int) -> None:
    """A client that asks on and on and reads nothing loses its connection; no request waits for it to read."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(size), "more_body": False})

    async def play() -> float:
        async with served(app) as (url, state), connected(url, small=True) as line:
            await line.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport
            await asyncio.sleep(0)
            return await gone(state, seconds=5)

    assert asyncio.run(play()) >= Impatient.stall_seconds - EARLY


def test_who_reads_slowly_is_not_let_go() -> None:
    """A client that takes many times `stall_seconds` for an answer but reads on within each of them gets it whole."""
    size = 1_000_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(size), "more_body": False})

    async def play() -> tuple[int, float]:
        async with served(app) as (url, _), connected(url, small=True) as line:
            await line.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            began, left = time.monotonic(), size
            await line.head()
            while left:
                left -= len(await line.reader.readexactly(min(left, 40_000)))
                await asyncio.sleep(0.05)
            return left, time.monotonic() - began

    left, seconds = asyncio.run(play())
    assert left == 0
    assert seconds > 3 * Impatient.stall_seconds


@pytest.mark.parametrize("left_early", [False, True])
def test_a_connection_that_ended_leaves_nothing(left_early: bool) -> None:
    """What a connection and its requests held goes with it, not at the garbage collector's next round, which is far."""
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        if left_early:
            await scope["extensions"]["gateway.left"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def play() -> "weakref.ref[Protocol]":
        async with served(app) as (url, state):
            async with connected(url) as line:
                await line.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                if not left_early:
                    await line.answer()
                await begun.wait()
                (protocol,) = state.connections
                assert isinstance(protocol, Protocol)
                known = weakref.ref(protocol)
                del protocol
            await gone(state, seconds=5)
            await asyncio.sleep(0)
            return known

    gc.collect()
    gc.disable()
    try:
        known = asyncio.run(play())
        assert known() is None
    finally:
        gc.enable()


def test_an_answer_to_nobody_ends_quietly() -> None:
    """An answer whose client resets the connection is sent to its end without an error, behind it another request."""
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3000000")]})
        for more in (True, True, False):
            await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": more})
            await scope["extensions"]["gateway.left"]
        ended.append(scope["path"])

    async def play() -> None:
        async with served(app) as (url, state):
            async with connected(url, small=True) as line:
                await line.send(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\nGET /second HTTP/1.1\r\nHost: x\r\n\r\n")
                await line.head()
                line.writer.transport.abort()
            await gone(state, seconds=5)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as in production: asyncio's forgives it
        runner.run(play())
    assert ended == ["/first"]
