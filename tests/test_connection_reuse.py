"""Kept connections: used again, never trusted blindly, never leaked."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from gateway.answer import Progress
from gateway.core.errors import GatewayError
from gateway.transport import CROSSING_GRACE, Closing, Transport, _crossing_pause
from tests.support.rawserver import OK, Peer, RawServer, answering

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])]


async def call(transport: Transport, server: RawServer, progress: Progress | None = None) -> bytes:
    request = httpx.Request("POST", server.url, content=b'{"n":1}', extensions={"progress": progress or Progress()})
    response = await transport.handle_async_request(request)
    return b"".join([piece async for piece in response.aiter_raw()])


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_one_connection_for_requests_in_a_row(run: Run) -> None:
    """A hundred requests one after another use one connection, chunked answers included."""

    async def scenario() -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        async with RawServer(answering(OK, chunked)) as server:
            transport = Transport()
            for _ in range(100):
                assert await call(transport, server) == b"ok"
            assert server.accepted == 1
            assert server.executed == 100
            await transport.aclose()

    run(scenario())


def test_no_more_connections_than_requests_in_flight(run: Run) -> None:
    """400 requests, 8 at a time, use 8 connections at most."""

    async def scenario() -> None:
        async with RawServer(answering(OK)) as server:
            transport = Transport()

            async def caller() -> None:
                for _ in range(50):
                    assert await call(transport, server) == b"ok"

            await asyncio.gather(*(caller() for _ in range(8)))
            assert server.accepted <= 8
            assert server.executed == 400
            await transport.aclose()

    run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + OK,
        OK + b"more",
    ],
    ids=["close", "http-1.0", "two-answers", "surplus"],
)
def test_connections_that_are_not_kept(run: Run, answer: bytes) -> None:
    """A connection that the server means to close, or that says more than was asked, serves no second request."""

    async def scenario() -> None:
        async with RawServer(answering(answer)) as server:
            transport = Transport()
            for count in range(1, 4):
                assert await call(transport, server) == b"ok"
                assert not transport._open
                assert server.accepted == count

    run(scenario())


def test_bytes_that_nobody_asked_for(run: Run) -> None:
    """Bytes on an idle connection close it; the next request does not take them for its answer."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.read_request()
            await peer.send(OK)
            await asyncio.sleep(0.01)
            await peer.send(b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad")
            await peer.gone()

        async with RawServer(script) as server:
            transport = Transport()
            assert await call(transport, server) == b"ok"
            await asyncio.sleep(0.03)
            assert not transport._open
            assert await call(transport, server) == b"ok"
            await transport.aclose()

    run(scenario())


def test_idle_connections_are_closed(run: Run) -> None:
    """Idle connections are closed after the limit without a request's help, and no more than the maximum are kept."""

    async def scenario() -> None:
        async def slow(peer: Peer) -> None:
            while await peer.read_request():
                await asyncio.sleep(0.02)
                await peer.send(OK)

        async with RawServer(slow) as server:
            transport = Transport(idle_limit=0.1, max_idle=3)
            await asyncio.gather(*(call(transport, server) for _ in range(5)))
            await asyncio.sleep(0.01)
            assert server.open == 3
            await asyncio.sleep(0.05)
            await call(transport, server)
            await asyncio.sleep(0.07)
            assert server.open == 1
            await asyncio.sleep(0.1)
            assert server.open == 0
            assert not transport._open

    run(scenario())


def test_streams_use_kept_connections(run: Run) -> None:
    """Streams one after the other go up on one connection, which is used by others before and afterwards."""

    async def scenario() -> None:
        async def body() -> AsyncGenerator[bytes, None]:
            yield b"on"
            yield Closing(b"ce")

        async with RawServer(answering(OK)) as server:
            transport = Transport()
            for _ in range(3):
                await call(transport, server)
                response = await transport.handle_async_request(httpx.Request("POST", server.url, content=body()))
                await response.aread()
                assert server.requests[-1].body == b"once"
            assert server.accepted == 1
            assert server.executed == 6
            await transport.aclose()

    run(scenario())


@pytest.mark.parametrize("ending", ["fin", "rst", "408"])
def test_a_close_that_crosses_a_streams_head(run: Run, ending: str) -> None:
    """A kept connection that ends when a stream's head is there: nothing is taken from the stream before it goes up
    on a new one, whole and once.
    """

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.read_request()
            await peer.send(OK)
            await peer.read_head()
            assert not taken
            if ending == "408":
                await peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            elif ending == "rst":
                peer.reset()

        taken: list[bytes] = []

        async def body() -> AsyncGenerator[bytes, None]:
            for piece in (b"on", Closing(b"ce")):
                taken.append(piece)
                yield piece

        async with RawServer(script) as server:
            transport = Transport()
            assert await call(transport, server) == b"ok"
            await asyncio.sleep(0.06)
            progress = Progress()
            request = httpx.Request("POST", server.url, content=body(), extensions={"progress": progress})
            response = await transport.handle_async_request(request)
            assert await response.aread() == b"ok"
            assert taken == [b"on", b"ce"]
            assert server.requests[-1].body == b"once"
            assert progress.failure is None
            assert server.executed == 2
            assert server.accepted == 2
            await transport.aclose()

    run(scenario())


@pytest.mark.parametrize("ending", ["fin", "rst", "408"])
def test_a_close_that_crosses_the_request(run: Run, ending: str) -> None:
    """A kept connection that ends when all but the last byte is there: sent once more, answered, executed once."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.read_request()
            await peer.send(OK)
            await peer.read_head()
            await peer.reader.readexactly(len(b'{"n":1}') - 1)
            if ending == "408":
                await peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            elif ending == "rst":
                peer.reset()

        async with RawServer(script) as server:
            transport = Transport()
            assert await call(transport, server) == b"ok"
            await asyncio.sleep(0.06)
            progress = Progress()
            assert await call(transport, server, progress) == b"ok"
            assert progress.failure is None
            assert progress.bytes_sent == len(server.requests[-1].head) + len(b'{"n":1}')
            assert server.executed == 2
            assert server.accepted == 2
            await transport.aclose()

    run(scenario())


def test_an_answer_to_a_streams_head(run: Run) -> None:
    """What a kept connection answers to a stream's head is its answer: nothing is sent once more."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.read_request()
            await peer.send(OK)
            await peer.read_head()
            await peer.send(b"HTTP/1.1 411 Length Required\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

        async def body() -> AsyncGenerator[bytes, None]:
            await asyncio.sleep(0.02)
            yield Closing(b"once")

        async with RawServer(script) as server:
            transport = Transport()
            assert await call(transport, server) == b"ok"
            await asyncio.sleep(0.06)
            response = await transport.handle_async_request(httpx.Request("POST", server.url, content=body()))
            assert (response.status_code, await response.aread()) == (411, b"no")
            assert server.accepted == 1
            await transport.aclose()

    run(scenario())


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_the_stale_connection_race(run: Run, reset: bool) -> None:
    """Of 200 requests to a server that closes idle connections just then, none is unknown and none executed twice."""

    async def scenario() -> None:
        chance = random.Random(7)
        idle = (
            0.15  # well over the idling up to which a connection is trusted: the lag of a busy machine counts as idling
        )

        async def script(peer: Peer) -> None:
            while True:
                try:
                    async with asyncio.timeout(idle + chance.uniform(-0.002, 0.002)):
                        first = await peer.reader.readexactly(1)
                except TimeoutError:
                    if reset:
                        peer.reset()
                    return
                except asyncio.IncompleteReadError:
                    return
                peer.reader._buffer[:0] = first  # type: ignore[attr-defined]
                request = await peer.read_request()
                if request is None or not request.complete:
                    return
                await peer.send(OK)

        async with RawServer(script) as server:
            transport = Transport()
            answered = 0

            async def caller() -> None:
                nonlocal answered
                for _ in range(10):
                    assert await call(transport, server) == b"ok"
                    answered += 1
                    await asyncio.sleep(idle + chance.uniform(-0.004, 0.003))

            await asyncio.gather(*(caller() for _ in range(20)))
            assert answered == 200
            assert server.executed == 200
            assert server.accepted > 20  # the race was on
            await transport.aclose()

    run(scenario())


def test_cancellation_at_any_moment(run: Run) -> None:
    """Tasks cancelled natively at random moments, twice in a row, leave no socket and a transport that serves."""

    async def scenario() -> None:
        chance = random.Random(11)

        async def script(peer: Peer) -> None:
            while True:
                request = await peer.read_request()
                if request is None or not request.complete:
                    return
                await asyncio.sleep(chance.uniform(0, 0.002))
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
                await asyncio.sleep(chance.uniform(0, 0.002))
                await peer.send(b"k")

        async def body() -> AsyncGenerator[bytes, None]:
            for _ in range(3):
                yield b"x" * 1000
                await asyncio.sleep(chance.uniform(0, 0.001))
            yield Closing(b"y")

        async with RawServer(script) as server:
            transport = Transport()

            async def streamed() -> bytes:
                response = await transport.handle_async_request(httpx.Request("POST", server.url, content=body()))
                return await response.aread()

            before = open_descriptors()
            for _ in range(150):
                tasks = [asyncio.create_task(call(transport, server)) for _ in range(3)]
                tasks.append(asyncio.create_task(streamed()))
                for task in chance.sample(tasks, len(tasks)):
                    await asyncio.sleep(chance.uniform(0, 0.0015))
                    task.cancel()
                    if chance.random() < 0.5:
                        await asyncio.sleep(0)
                        task.cancel()
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    assert outcome == b"ok" or isinstance(outcome, asyncio.CancelledError)
            assert await call(transport, server) == b"ok"
            await transport.aclose()
            await asyncio.sleep(0.05)
            assert server.open == 0
            assert not transport._open
            assert open_descriptors() <= before

    run(scenario())


def test_failures_keep_the_count(run: Run) -> None:
    """A server that cuts at random leaves every request with an answer or an error of ours, and no open socket."""

    async def scenario() -> None:
        chance = random.Random(3)

        async def script(peer: Peer) -> None:
            while await peer.read_request():
                await peer.send(OK[: chance.choice([0, 10, len(OK) - 1, len(OK), len(OK)])])
                if chance.random() < 0.3:
                    peer.reset()
                if chance.random() < 0.3:
                    return

        async with RawServer(script) as server:
            transport = Transport()
            for _ in range(100):
                try:
                    async with asyncio.timeout(0.02):
                        assert await call(transport, server) == b"ok"
                except (GatewayError, TimeoutError):
                    continue
            await transport.aclose()
            assert not transport._open

    run(scenario())


def test_the_pause_before_the_last_byte(run: Run) -> None:
    """The pause is the round trip, with a grace after idling; none on a near and busy connection; bounded."""

    async def scenario() -> None:
        assert _crossing_pause(0.0001, 0.01) == 0
        assert _crossing_pause(0.0, 1.0) == CROSSING_GRACE
        assert _crossing_pause(0.03, 0.01) == 0.03
        assert _crossing_pause(10.0, 1.0) < 0.3

    run(scenario())
