"""HTTP/1.1 on one connection: reads requests with httptools, writes replies, ends them the way each reply says.

A server of our own, because cutting an answer, resetting a connection or closing an idle one takes the transport,
which application servers keep to themselves. A request that is complete is always answered for (`Service.finish`
runs to its end even if the client has left); one that never completes is handed to `Service.abandon` instead.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import Protocol, cast

import httptools

from gateway.simulator.messages import EarlyReply, Ending, Reply, Request, encode

_MAX_BODY = 16 * 1024 * 1024  # two images of 4 MB and their text fit several times
_LINGER = 2.0  # seconds a client may go on sending after an early answer


class Service(Protocol):
    """What a connection asks of the server behind it."""

    keep_alive_timeout: float

    def opened(self, connection: "Connection") -> int:
        """Number of the connection."""

    def closed(self, connection: "Connection") -> None: ...

    def next_number(self) -> int:
        """Number of a request that begins."""

    def begin(self, request: Request) -> EarlyReply | None:
        """The head is there: answer early, or None to read the body first."""

    async def finish(self, request: Request) -> Reply:
        """The request is complete."""

    def finished(self, request: Request) -> None:
        """Its reply is out, or nobody is left to read it."""

    def abandon(self, request: Request, reply: Reply | None) -> None:
        """The request will never be complete; `reply` is what it gets instead."""

    def malformed(self) -> Reply:
        """For what is not HTTP."""

    def too_large(self) -> Reply:
        """For a body beyond every bound."""


class Connection(asyncio.Protocol):
    """One client connection. The methods named on_* are the parser's callbacks."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._gone = asyncio.Event()
        self._number = 0
        self._begun = 0
        self._reading: Request | None = None
        self._early: EarlyReply | None = None
        self._waiting: deque[Request] = deque()
        self._answering: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._deaf = False  # nothing that still arrives is read

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream's transport, which uvloop's is without being a subclass of it.
        self._transport = cast("asyncio.Transport", transport)
        self._number = self._service.opened(self)
        self._rest()

    def data_received(self, data: bytes) -> None:
        self._stir()
        if self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._deaf:
                self._cut_short(self._service.malformed())

    def connection_lost(self, _exc: Exception | None) -> None:
        self._stir()
        self._gone.set()
        if self._reading is not None:
            self._service.abandon(self._reading, None)
            self._reading = None
        self._service.closed(self)

    async def aclose(self) -> None:
        """Abort, and wait for what is being answered."""
        self._transport.abort()
        await self._gone.wait()
        if self._answering is not None:
            await self._answering

    # The parser's side.

    def on_message_begin(self) -> None:
        if self._deaf:
            return
        self._begun += 1
        self._reading = Request(self._service.next_number(), self._number, self._begun)

    def on_url(self, url: bytes) -> None:
        if self._reading is not None:
            self._reading.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not None:
            self._reading.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        request = self._reading
        if request is None:
            return
        request.method = self._parser.get_method().decode("latin-1")
        request.keep_alive = self._parser.should_keep_alive()
        if request.header("transfer-encoding"):
            request.framing = "chunked"
        elif request.header("content-length"):
            request.framing = "content-length"
        self._early = self._service.begin(request)
        if self._early is not None and self._early.after == 0:
            self._cut_short(self._early.reply)
        elif "100-continue" in (value.lower() for value in request.header("expect")):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        request = self._reading
        if request is None:
            return
        request.body += body
        if self._early is not None and len(request.body) >= self._early.after:
            self._cut_short(self._early.reply)
        elif len(request.body) > _MAX_BODY:
            self._cut_short(self._service.too_large())

    def on_message_complete(self) -> None:
        request = self._reading
        if request is None:
            return
        if self._early is not None:  # its body was shorter than the script foresaw: now or never
            self._cut_short(self._early.reply)
            return
        request.complete = True
        self._reading = None
        self._waiting.append(request)
        self._answer_next()

    # Answering.

    def _cut_short(self, reply: Reply) -> None:
        """Answer what is being read without reading on; where its end would be can no longer be told."""
        self._deaf = True
        if self._reading is not None:
            self._service.abandon(self._reading, reply)
            self._reading = None
        self._send(reply, keep_alive=False)

    def _answer_next(self) -> None:
        if self._answering is None and self._waiting:
            self._answering = self._loop.create_task(self._answer(self._waiting.popleft()))

    async def _answer(self, request: Request) -> None:
        try:
            reply = await self._service.finish(request)
            if reply.latency:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), reply.latency)
            if not self._transport.is_closing() and not self._deaf:
                self._send(reply, keep_alive=request.keep_alive)
            if reply.ending is Ending.HANG:
                await self._gone.wait()
        except BaseException:
            self._transport.abort()
            raise
        finally:
            self._service.finished(request)
            self._answering = None
            if not self._gone.is_set():
                self._answer_next()
                self._rest()

    def _send(self, reply: Reply, *, keep_alive: bool) -> None:
        head, body = encode(reply, keep_alive=keep_alive)
        if not reply.silent:
            self._transport.write(head + body[: reply.limit])
        match reply.ending:
            case Ending.COMPLETE if keep_alive:
                pass
            case Ending.COMPLETE | Ending.CLOSE:
                self._transport.close()
            case Ending.LINGER:
                self._transport.write_eof()
                self._loop.call_later(_LINGER, self._transport.close)
            case Ending.RESET:
                # SO_LINGER with no time: close() sends RST instead of FIN (socket(7)).
                self._transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self._transport.abort()
            case Ending.HANG:
                self._deaf = True

    # Idleness.

    def _rest(self) -> None:
        """Start the idle clock, unless there is something to do."""
        if self._reading is None and self._answering is None and not self._deaf:
            self._idle = self._loop.call_later(self._service.keep_alive_timeout, self._transport.close)

    def _stir(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
