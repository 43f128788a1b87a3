"""Answers good and bad, byte by byte, from a scripted server."""

import asyncio
import inspect
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import httptools
import httptools.parser.errors
import httpx
import pytest
import uvloop

from gateway.answer import HEAD_LIMIT, HELD_LIMIT, Answer, Progress
from gateway.connection import _PARSER_ERRORS
from gateway.core.errors import OutcomeUnknown
from gateway.transport import Transport
from tests.support.rawserver import OK, Peer, RawServer, Script, answering

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nhal\r\nC\r\nlo upstream!\r\n0\r\nT: 1\r\n\r\n"
)
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\nhallo upstream!"
UNTIL_END = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhallo upstream!"


def post(server: RawServer, progress: Progress, total: float | None = None) -> httpx.Request:
    return httpx.Request(
        "POST", server.url, content=b"{}", extensions={"progress": progress, "timeout": {"total": total}}
    )


def saying(answer: bytes, *, step: int | None = None, reset: bool = False) -> Script:
    """One answer, then the end of the connection."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(answer, step=step)
        if reset:
            peer.reset()

    return script


async def body_of(response: httpx.Response) -> bytes:
    return b"".join([piece async for piece in response.aiter_raw()])


@pytest.mark.parametrize("step", [None, 1], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("answer", "framed"),
    [
        (LENGTH, True),
        (CHUNKED, True),
        (UNTIL_END, False),
        (b"HTTP/1.0 200 OK\r\n\r\nhallo upstream!", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close" + CHUNKED[43:], True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + LENGTH, True),
    ],
    ids=["length", "chunked", "until-end", "http-1.0", "connection-close", "interim"],
)
def test_framings(run: Run, answer: bytes, framed: bool, step: int | None) -> None:
    """Every framing gives the same body, however it is cut up, and says whether its end can be trusted."""

    async def scenario() -> None:
        async with RawServer(saying(answer, step=step)) as server:
            transport = Transport()
            response = await transport.handle_async_request(post(server, Progress()))
            assert response.status_code == 200
            assert response.extensions["framed"] is framed
            assert "link" not in response.headers
            assert "t" not in response.headers
            assert await body_of(response) == b"hallo upstream!"
            await transport.aclose()

    run(scenario())


def test_an_answer_without_a_body(run: Run) -> None:
    """A 204 is whole with its head and its connection is used again."""

    async def scenario() -> None:
        async with RawServer(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as server:
            transport = Transport()
            for _ in range(3):
                response = await transport.handle_async_request(post(server, Progress()))
                assert await body_of(response) == b""
            assert server.accepted == 1
            await transport.aclose()

    run(scenario())


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("answer", [LENGTH, CHUNKED], ids=["length", "chunked"])
def test_a_cut_anywhere(run: Run, answer: bytes, reset: bool) -> None:
    """Cut at any byte, by FIN or RST, a framed answer is never whole: the outcome is unknown, the failure a cut."""

    async def scenario() -> None:
        transport = Transport()
        for length in range(len(answer)):
            async with RawServer(saying(answer[:length], reset=reset)) as server:
                progress = Progress()
                with pytest.raises(OutcomeUnknown):
                    await body_of(await transport.handle_async_request(post(server, progress)))
                assert progress.released
                assert progress.failure == "cut"
        await transport.aclose()

    run(scenario())


def test_until_end_needs_a_clean_end(run: Run) -> None:
    """An answer that only the connection's end completes is whole at FIN and unknown at RST."""

    async def scenario() -> None:
        transport = Transport()
        async with RawServer(saying(UNTIL_END)) as server:
            response = await transport.handle_async_request(post(server, Progress()))
            assert await body_of(response) == b"hallo upstream!"

        async def late_reset(peer: Peer) -> None:
            await peer.read_request()
            await peer.send(UNTIL_END)
            await asyncio.sleep(0.02)
            peer.reset()

        async with RawServer(late_reset) as server:
            progress = Progress()
            with pytest.raises(OutcomeUnknown):
                await body_of(await transport.handle_async_request(post(server, progress)))
            assert progress.failure == "cut"
        await transport.aclose()

    run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nab",
    ],
    ids=lambda answer: answer[:60].decode().replace("\r\n", "|"),
)
def test_unreadable_answers(run: Run, answer: bytes) -> None:
    """What cannot be read as an answer leaves the outcome unknown, with the parser's complaint as the cause."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.read_request()
            await peer.send(answer)
            await peer.gone()

        async with RawServer(script) as server:
            transport = Transport()
            progress = Progress()
            with pytest.raises(OutcomeUnknown) as caught:
                await body_of(await transport.handle_async_request(post(server, progress)))
            assert isinstance(caught.value.__cause__, _PARSER_ERRORS)
            assert progress.failure == "cut"
            await transport.aclose()

    run(scenario())


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 4096),
        (b"HTTP/1.1 200 OK\r\n", b"X-Header: yes\r\n" * 300),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 4096),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: yes\r\n" * 300),
    ],
    ids=["header", "headers", "interims", "extension", "trailers"],
)
def test_endless_heads(run: Run, start: bytes, more: bytes) -> None:
    """Heads, interim answers, chunk extensions and trailers without end are cut off; nothing waits for them."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.read_request()
            await peer.send(start)
            while True:
                await peer.send(more)

        async with RawServer(script) as server:
            transport = Transport()
            with pytest.raises(OutcomeUnknown):
                await body_of(await transport.handle_async_request(post(server, Progress())))
            await transport.aclose()

    run(scenario())


def test_a_large_head_in_one_read(run: Run) -> None:
    """The bound on a head holds also when the whole of it comes at once, and a head just under it passes."""

    async def scenario() -> None:
        transport = Transport()
        end = b"\r\nContent-Length: 0\r\n\r\n"
        async with RawServer(answering(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (HEAD_LIMIT - 100) + end)) as server:
            response = await transport.handle_async_request(post(server, Progress()))
            assert len(response.headers["x"]) == HEAD_LIMIT - 100
        async with RawServer(answering(b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_LIMIT + end)) as server:
            with pytest.raises(OutcomeUnknown):
                await transport.handle_async_request(post(server, Progress()))
        await transport.aclose()

    run(scenario())


@pytest.mark.parametrize("said", [b"", LENGTH[:20], LENGTH[:-3], UNTIL_END], ids=["nothing", "head", "body", "no-end"])
def test_the_total_timeout(run: Run, said: bytes) -> None:
    """An answer that stalls anywhere before its end is given up `total` seconds after the closing bytes."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.read_request()
            await peer.send(said)
            await peer.gone()

        async with RawServer(script) as server:
            transport = Transport()
            progress = Progress()
            loop = asyncio.get_running_loop()
            started = loop.time()
            with pytest.raises(OutcomeUnknown):
                await body_of(await transport.handle_async_request(post(server, progress, total=0.05)))
            assert 0.04 < loop.time() - started < 1
            assert progress.failure == "timeout"
            await transport.aclose()

    run(scenario())


def test_a_slow_reader_holds_the_server_back(run: Run) -> None:
    """Of 32 MB that nobody reads no more than the limit and one socket read are held, and all arrive in the end."""

    async def scenario() -> None:
        size = 32 * 1024 * 1024

        async def script(peer: Peer) -> None:
            await peer.read_request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            await peer.send(bytes(size), step=65536)

        async with RawServer(script) as server:
            transport = Transport()
            response = await transport.handle_async_request(post(server, Progress()))
            answer = response.stream
            assert isinstance(answer, Answer)
            await asyncio.sleep(0.1)
            assert HELD_LIMIT < answer.held <= HELD_LIMIT + 256 * 1024
            received = most_held = 0
            async for piece in response.aiter_raw():
                received += len(piece)
                most_held = max(most_held, answer.held)
            assert received == size
            assert most_held <= HELD_LIMIT + 256 * 1024
            await transport.aclose()

    run(scenario())


def test_reading_can_be_left_and_taken_up(run: Run) -> None:
    """Leaving a loop over the stream loses nothing; the next loop goes on where the first stopped."""

    async def scenario() -> None:
        async with RawServer(answering(LENGTH, step=3)) as server:
            transport = Transport()
            response = await transport.handle_async_request(post(server, Progress()))
            assert isinstance(response.stream, Answer)
            first = await anext(response.stream)
            rest = [piece async for piece in response.stream]
            assert first + b"".join(rest) == b"hallo upstream!"
            await transport.aclose()

    run(scenario())


def test_closing_before_the_end(run: Run) -> None:
    """A response closed before its end takes its connection with it; one read to its end leaves it to the next."""

    async def scenario() -> None:
        async with RawServer(answering(LENGTH[:-1], OK)) as server:
            transport = Transport()
            response = await transport.handle_async_request(post(server, Progress()))
            await response.aclose()
            await asyncio.sleep(0.02)
            assert server.open == 0
            await transport.aclose()

    run(scenario())


def test_every_foreign_error_is_known(run: Run) -> None:
    """No exception class of httptools' parser escapes translation, and TLS and time-out errors are OSErrors."""

    async def scenario() -> None:
        found = [
            kind
            for _, kind in inspect.getmembers(httptools.parser.errors, inspect.isclass)
            if kind.__module__ == httptools.parser.errors.__name__
        ]
        assert len(found) >= 6
        assert all(issubclass(kind, _PARSER_ERRORS) for kind in found)
        assert issubclass(ssl.SSLError, OSError)
        assert issubclass(ssl.CertificateError, OSError)
        assert issubclass(TimeoutError, OSError)

    run(scenario())
