"""What goes up, and what is provable about it after anything that can happen on the way."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest
import uvloop

from gateway.answer import Progress
from gateway.connection import Connection
from gateway.core.errors import InternalError, OutcomeUnknown, QuotaExceeded, UpstreamUnreachable
from gateway.transport import Closing, Transport
from tests.support.rawserver import OK, Peer, RawServer, answering

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])

Body = bytes | AsyncGenerator[bytes, None]


def post(
    url: str,
    body: Body,
    progress: Progress,
    headers: dict[str, str] | None = None,
    **timeouts: float,
) -> httpx.Request:
    return httpx.Request(
        "POST", url, content=body, headers=headers, extensions={"progress": progress, "timeout": timeouts}
    )


async def pieces_of(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def stalled(started: asyncio.Event, ended: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """A client that sends a little and then nothing."""
    try:
        yield b"a little"
        started.set()
        await asyncio.Event().wait()
    finally:
        ended.set()


def only_connection(transport: Transport) -> Connection:
    (connection,) = transport._open
    return connection


def test_a_body_in_memory(run: Run) -> None:
    """A body in memory goes up byte for byte under its length, and the progress counts all of it."""

    async def scenario() -> None:
        async with RawServer(answering(OK)) as server:
            transport = Transport()
            for body in (b"", b"x", b"\r\n0\r\n\r\n" * 50_000):
                for _ in ("new connection", "kept connection"):
                    progress = Progress()
                    response = await transport.handle_async_request(post(f"{server.url}/v1?x=1", body, progress))
                    assert await response.aread() == b"ok"
                    received = server.requests[-1]
                    assert received.head.startswith(b"POST /v1?x=1 HTTP/1.1\r\n")
                    assert received.body == body
                    sent = len(received.head) + len(body)
                    assert progress == Progress(began=True, released=True, bytes_sent=sent)
            await transport.aclose()

    run(scenario())


@pytest.mark.parametrize(
    ("pieces", "wire"),
    [
        ((b"abc", Closing(b"def")), b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"),
        ((b"abc", b"", Closing()), b"3\r\nabc\r\n0\r\n\r\n"),
        ((b"abc", b"def"), b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"),
        ((Closing(b"0123456789abcdef"), b"after"), b"10\r\n0123456789abcdef\r\n0\r\n\r\n"),
        ((), b"0\r\n\r\n"),
    ],
    ids=["closing", "empty", "plain", "hex", "none"],
)
def test_a_chunked_body(run: Run, pieces: tuple[bytes, ...], wire: bytes) -> None:
    """A stream goes up as it comes, an empty piece never ends it, and the last chunk follows the closing piece."""

    async def scenario() -> None:
        async with RawServer(answering(OK)) as server:
            transport = Transport()
            progress = Progress()
            response = await transport.handle_async_request(post(server.url, pieces_of(*pieces), progress))
            assert await response.aread() == b"ok"
            assert server.requests[0].raw_body == wire
            assert progress.released
            assert progress.bytes_sent == len(server.requests[0].head) + len(wire)
            await transport.aclose()

    run(scenario())


def test_pieces_are_not_held_back(run: Run) -> None:
    """Each piece is with the server before the next is asked for, and until the closing one nothing is released."""

    async def scenario() -> None:
        seen = asyncio.Queue[bytes]()

        async def script(peer: Peer) -> None:
            await peer.read_head()
            for _ in range(3):
                size = int(await peer.reader.readline(), 16)
                seen.put_nowait((await peer.reader.readexactly(size + 2))[:-2])
            await peer.reader.readuntil(b"0\r\n\r\n")
            await peer.send(OK)

        progress = Progress()

        async def body() -> AsyncGenerator[bytes, None]:
            for piece in (b"one", b"two"):
                yield piece
                assert await seen.get() == piece
                assert progress.began
                assert not progress.released
            yield Closing(b"three")

        async with RawServer(script) as server:
            transport = Transport()
            await transport.handle_async_request(post(server.url, body(), progress))
            assert progress.released
            await transport.aclose()

    run(scenario())


def test_a_stream_of_known_length(run: Run) -> None:
    """A stream with a Content-Length is released by the write of its last byte."""

    async def scenario() -> None:
        async with RawServer(answering(OK)) as server:
            transport = Transport()
            progress = Progress()

            async def body() -> AsyncGenerator[bytes, None]:
                yield b"ab"
                assert not progress.released
                yield b"cd"

            request = post(server.url, body(), progress, {"content-length": "4"})
            await (await transport.handle_async_request(request)).aread()
            assert progress.released
            assert server.requests[0].raw_body == b"abcd"
            await transport.aclose()

    run(scenario())


@pytest.mark.parametrize("pieces", [(b"abc",), (b"abc", b"def")], ids=["short", "long"])
def test_a_stream_of_another_length(run: Run, pieces: tuple[bytes, ...]) -> None:
    """A stream shorter or longer than its head says is our mistake, and never completes at the server."""

    async def scenario() -> None:
        async with RawServer(answering(OK)) as server:
            transport = Transport()
            progress = Progress()
            request = post(server.url, pieces_of(*pieces), progress, {"content-length": "5"})
            with pytest.raises(InternalError):
                await transport.handle_async_request(request)
            await asyncio.sleep(0.02)
            assert not progress.released
            assert server.executed == 0
            assert server.open == 0

    run(scenario())


def test_a_line_break_in_a_header(run: Run) -> None:
    """A header with a line break in it is not sent, and the error does not repeat it: it may be a key."""

    async def scenario() -> None:
        transport = Transport()
        request = post("http://127.0.0.1:9", b"", Progress(), {"authorization": "Bearer sk-1\r\nX: y"})
        with pytest.raises(InternalError) as caught:
            await transport.handle_async_request(request)
        assert "sk-1" not in str(caught.value)

    run(scenario())


def test_the_streams_own_error(run: Run) -> None:
    """What the stream raises comes out as it is; the server sees a cut, and never the last chunk."""

    async def scenario() -> None:
        refusal = QuotaExceeded("used up")

        async def body() -> AsyncGenerator[bytes, None]:
            yield b"x" * 100_000
            raise refusal

        async with RawServer(answering(OK)) as server:
            transport = Transport()
            progress = Progress()
            with pytest.raises(QuotaExceeded) as caught:
                await transport.handle_async_request(post(server.url, body(), progress))
            assert caught.value is refusal
            assert progress.began
            assert not progress.released
            await asyncio.sleep(0.02)
            assert [request.complete for request in server.requests] == [False]
            assert not transport._open

    run(scenario())


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_cut_before_the_closing_bytes(run: Run, reset: bool) -> None:
    """A cut while the client is still sending ends the request at once, as unreachable, and closes the stream."""

    async def scenario() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.read_head()
            await started.wait()
            if reset:
                peer.reset()

        async with RawServer(script) as server:
            transport = Transport()
            progress = Progress()
            with pytest.raises(UpstreamUnreachable):
                await transport.handle_async_request(post(server.url, stalled(started, ended), progress))
            assert ended.is_set()
            assert progress.failure == "cut"
            assert not progress.released

    run(scenario())


@pytest.mark.parametrize("reset", [False, True], ids=["open", "rst"])
def test_an_early_answer(run: Run, reset: bool) -> None:
    """An answer before the request's end stops the upload, is given out, and its connection is not used again."""

    async def scenario() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.read_head()
            await started.wait()
            await peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
            await (asyncio.sleep(0.02) if reset else peer.gone())
            peer.reset()

        async with RawServer(script) as server:
            transport = Transport()
            progress = Progress()
            response = await transport.handle_async_request(post(server.url, stalled(started, ended), progress))
            assert response.status_code == 413
            assert await response.aread() == b"big"
            assert ended.is_set()
            assert not progress.released
            assert progress.failure is None
            assert not transport._open

    run(scenario())


def test_an_early_answer_to_a_fast_upload(run: Run) -> None:
    """A server that answers and closes with bytes unread is heard, however fast the upload: 50 of 50."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.read_head()
            await peer.send(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")

        async def body() -> AsyncGenerator[bytes, None]:
            for _ in range(1000):
                yield b"x" * 16384
                await asyncio.sleep(0)

        async with RawServer(script) as server:
            transport = Transport()
            for _ in range(50):
                progress = Progress()
                response = await transport.handle_async_request(post(server.url, body(), progress))
                assert response.status_code == 429
                assert not progress.released
            assert not transport._open

    run(scenario())


def test_a_slow_server_holds_the_upload_back(run: Run) -> None:
    """A server that does not read stops the stream: what waits in the gateway is bounded, and the stall ends it."""

    async def scenario() -> None:
        transport = Transport()
        waiting: list[int] = []

        async def body() -> AsyncGenerator[bytes, None]:
            while True:
                yield bytes(65536)
                inner = only_connection(transport)._transport
                waiting.append(inner.get_write_buffer_size() if inner else 0)

        async def script(peer: Peer) -> None:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(5)

        async with RawServer(script) as server:
            progress = Progress()
            with pytest.raises(UpstreamUnreachable):
                await transport.handle_async_request(post(server.url, body(), progress, write=0.1))
            assert progress.failure == "timeout"
            assert not progress.released
            assert max(waiting) <= 3 * 65536
            assert len(waiting) < 2000

    run(scenario())


def test_refused_and_unresolved(run: Run) -> None:
    """No listener, no such name: unreachable, nothing began, and the system's own error is the cause."""

    async def scenario() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            transport = Transport()
            for url in (f"http://127.0.0.1:{unused.getsockname()[1]}", "http://nowhere.invalid"):
                progress = Progress()
                with pytest.raises(UpstreamUnreachable) as caught:
                    await transport.handle_async_request(post(url, b"{}", progress))
                assert isinstance(caught.value.__cause__, OSError)
                assert progress == Progress(failure="connect_error")
                assert "127.0.0.1" not in str(caught.value)
                assert not transport._open

    run(scenario())


def test_accepted_and_closed(run: Run) -> None:
    """A server too full to serve, that accepts and closes, is seen to have hung up before anything is sent."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            peer.reset()

        async with RawServer(script) as server:
            transport = Transport()
            connection = await transport._connect(("http", "127.0.0.1", server.port), Progress(), 1.0)
            await asyncio.sleep(0.01)
            assert connection.is_hung_up()
            assert not transport._open

    run(scenario())


def test_ipv6(run: Run) -> None:
    """An address literal of IPv6 is connected to without its brackets."""

    async def scenario() -> None:
        async with RawServer(answering(OK), host="::1") as server:
            transport = Transport()
            response = await transport.handle_async_request(post(server.url, b"{}", Progress()))
            assert response.status_code == 200
            await transport.aclose()

    run(scenario())


def test_closing_the_transport(run: Run) -> None:
    """Closing ends what is in flight, by what is provable of it, and leaves no socket open."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.read_request()
            await peer.gone()

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x"
                await asyncio.sleep(0.001)

        async with RawServer(script) as server:
            transport = Transport()
            whole = asyncio.create_task(transport.handle_async_request(post(server.url, b"{}", Progress())))
            half = asyncio.create_task(
                transport.handle_async_request(httpx.Request("POST", server.url, content=endless()))
            )
            await asyncio.sleep(0.05)
            await transport.aclose()
            failures = await asyncio.gather(whole, half, return_exceptions=True)
            assert [type(failure) for failure in failures] == [OutcomeUnknown, UpstreamUnreachable]
            await asyncio.sleep(0.02)
            assert server.open == 0

    run(scenario())
