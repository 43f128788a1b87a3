"""A TCP server that plays a script of bytes, good and bad, and remembers what it was sent.

A script is a coroutine function called once for each connection::

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\nhal")
        peer.reset()

    async with RawServer(script) as server:
        ...  # connect to server.url; then look at server.accepted, server.most_open, server.requests

`answering(...)` makes the usual script. The connection closes when its script returns.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Script = Callable[["Peer"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came. raw_body: with its framing; body: without. complete: its closing bytes were there."""

    head: bytes
    raw_body: bytes
    body: bytes
    complete: bool

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


class Peer:
    """One accepted connection."""

    def __init__(self, server: "RawServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._server = server

    async def read_head(self) -> bytes:
        """Up to the empty line, which is included; what there is of it if the client closes first."""
        try:
            return await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as exc:
            return exc.partial

    async def read_request(self) -> Received | None:
        """The next request, whole or cut; None if the client closed before its first byte. Whole ones are counted."""
        head = await self.read_head()
        if not head:
            return None
        request = Received(head, b"", b"", complete=False)
        if head.endswith(b"\r\n\r\n"):
            headers = request.headers
            if "transfer-encoding" in headers:
                request = await self._read_chunked(head)
            else:
                length = int(headers.get("content-length", "0"))
                body = await self._read(length)
                request = Received(head, body, body, complete=len(body) == length)
        self._server.requests.append(request)
        return request

    async def send(self, data: bytes, *, step: int | None = None) -> None:
        """Sends, in pieces of `step` bytes with a turn of the loop between them if given."""
        for start in range(0, len(data), step or max(len(data), 1)):
            if self.writer.is_closing():
                raise ConnectionResetError
            self.writer.write(data[start : start + (step or len(data))])
            await self.writer.drain()
            if step:
                await asyncio.sleep(0)

    def reset(self) -> None:
        """Ends with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Waits until the client closes."""
        while await self.reader.read(65536):
            pass

    async def _read(self, length: int) -> bytes:
        try:
            return await self.reader.readexactly(length)
        except asyncio.IncompleteReadError as exc:
            return exc.partial

    async def _read_chunked(self, head: bytes) -> Received:
        raw = body = b""
        while True:
            line = await self.reader.readline()
            raw += line
            if not line.endswith(b"\r\n"):
                return Received(head, raw, body, complete=False)
            size = int(line, 16)
            chunk = await self._read(size + 2)
            raw += chunk
            body += chunk[:-2] if len(chunk) == size + 2 else chunk
            if len(chunk) < size + 2 or size == 0:
                return Received(head, raw, body, complete=len(chunk) == size + 2)


class RawServer:
    """Listens on loopback while entered. requests: all, in order, also cut ones. most_open: connections at a time."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.accepted = 0
        self.open = 0
        self.most_open = 0
        self.requests: list[Received] = []
        self.port = 0
        self._script = script
        self._tls = tls
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    @property
    def executed(self) -> int:
        """How many whole requests came: what a real server would have acted on."""
        return sum(request.complete for request in self.requests)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._play, self._host, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if kind is None and self._failures:
            raise self._failures[0]

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._script(Peer(self, reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        except Exception as exc:  # noqa: BLE001 - a script's mistake fails the test, at its end
            self._failures.append(exc)
        finally:
            self.open -= 1
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


def answering(*answers: bytes, step: int | None = None) -> Script:
    """Answers each request of a connection with the next of `answers`, the last one for ever."""

    async def script(peer: Peer) -> None:
        turn = 0
        while (request := await peer.read_request()) is not None and request.complete:
            await peer.send(answers[min(turn, len(answers) - 1)], step=step)
            turn += 1

    return script
