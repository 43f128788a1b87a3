"""Forward: sends the request up and brings the answer down. The innermost step.

An answer up to 64 KB is read whole before its status goes out, so its cost is exact and a cut one is an error. A
longer one is passed on as it comes, its images counted on the way; its last piece waits until the whole is known to
be complete, so that a cut answer never ends cleanly. A client that reads too slowly is let go; what was made is still
read to its end and counted.
"""

import math
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import IO, cast

import httpx
from starlette.types import Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.answer import Progress
from gateway.core import outcomes
from gateway.core.answers import ImageCounter, count_images
from gateway.core.catalog import Account
from gateway.core.errors import UpstreamError
from gateway.core.orders import Endpoint
from gateway.deadline import Deadline
from gateway.exchange import Exchange
from gateway.transport import Closing
from gateway.upstream import Upstream

#: Bytes of an answer that are read whole.
_WHOLE = 64 * 1024

#: Seconds that a client may take to read one piece of a streamed answer.
_READ_STALL = 30.0

#: Seconds before the upstream's own time is over at which a slow client is let go, to read the rest without it. Of an
#: answer that comes so late, or where there is no more time than that, each piece may take half of what is left.
_HURRY = 10.0

#: Statuses that say: this body must announce its length.
_WANTS_LENGTH = frozenset({411, 501})

_SPOOL_PIECE = 64 * 1024


class Forward:
    """upstream(exchange): the client for its config; answered(exchange, status): told when an answer's head or its
    failure is known.
    """

    def __init__(self, *, upstream: Callable[[Exchange], Upstream], answered: Callable[[Exchange, str], None]) -> None:
        self.upstream = upstream
        self.answered = answered
        self.spools = False  #: the upstream has refused a body of unknown length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchanges.of(scope)
        progress = exchange.sent = Progress()

        async def timed() -> Message:
            message = await receive()
            if not message["more_body"]:
                exchange.upstream_began = time.monotonic()
            return message

        try:
            response = await self._send(exchange, progress, timed)
            try:
                if response.status_code in _WANTS_LENGTH and exchange.endpoint == "edits":
                    self.spools = exchange.settings.upstream.edit_framing == "auto"
                await _Answer(exchange, scope, send, response).pass_on()
            finally:
                await _stream(response).aclose()  # the response has nothing else to close
        finally:
            if exchange.upstream_began:
                exchange.upstream_seconds = time.monotonic() - exchange.upstream_began
            if exchange.upstream_status is not None or progress.failure is not None:
                self.answered(exchange, progress.failure or str(exchange.upstream_status))

    async def _send(self, exchange: Exchange, progress: Progress, receive: Receive) -> httpx.Response:
        first = await receive()
        if exchange.endpoint == "generations":
            return await self._send_up(exchange, progress, first["body"])
        framing = exchange.settings.upstream.edit_framing
        if framing == "spool" or self.spools:
            with tempfile.TemporaryFile() as file:
                length = await _spool(file, first, receive)
                return await self._send_up(exchange, progress, _unspooled(file, length), length)
        return await self._send_up(exchange, progress, _pieces(first, receive))

    def _send_up(
        self, exchange: Exchange, progress: Progress, body: bytes | AsyncIterator[bytes], length: int | None = None
    ) -> Awaitable[httpx.Response]:
        # Its head goes into a cache, with the account's key. Where another config came while the body was spooled, the
        # client is made anew here, and again for the next request, which lets go of that head.
        upstream, endpoint = self.upstream(exchange), cast("Endpoint", exchange.endpoint)
        request = upstream.request(
            endpoint, _account(exchange), body, content_type=exchange.content_type, length=length
        )
        return upstream.send(request, progress)


def _stream(response: httpx.Response) -> httpx.AsyncByteStream:
    stream = response.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        raise TypeError("the transport gives asynchronous streams")
    return stream


def _account(exchange: Exchange) -> Account:
    if exchange.account is None:
        raise AssertionError("Reserve names the account")
    return exchange.account


async def _pieces(message: Message, receive: Receive) -> AsyncIterator[bytes]:
    while message["more_body"]:
        yield message["body"]
        message = await receive()
    yield Closing(message["body"])


async def _spool(file: IO[bytes], message: Message, receive: Receive) -> int:
    """The whole body into a file, before a byte of it goes up; its length."""
    while message["more_body"]:
        file.write(message["body"])
        message = await receive()
    file.write(message["body"])
    length = file.tell()
    file.seek(0)
    return length


async def _unspooled(file: IO[bytes], left: int) -> AsyncIterator[bytes]:
    while left > _SPOOL_PIECE:
        left -= _SPOOL_PIECE
        yield file.read(_SPOOL_PIECE)
    yield Closing(file.read(left))


class _Answer:
    """One answer on its way down."""

    def __init__(self, exchange: Exchange, scope: Scope, send: Send, response: httpx.Response) -> None:
        self._exchange, self._scope, self._send, self._response = exchange, scope, send, response
        self._ends = exchange.upstream_began + exchange.settings.upstream.total_timeout
        self._client_reads = True
        exchange.upstream_status = response.status_code

    async def pass_on(self) -> None:
        if not self._response.is_success:
            raise await self._refusal()
        if not self._exchange.released:
            raise outcomes.premature()
        pieces = aiter(_stream(self._response))
        head: list[bytes] = []
        size = 0
        async for piece in pieces:
            head.append(piece)
            size += len(piece)
            if size > _WHOLE:
                patience = Deadline(self._let_go)
                try:
                    await self._pass_stream(head, pieces, patience)
                finally:
                    patience.close()
                return
        body = b"".join(head)
        made = count_images(body)
        if made is None:
            raise outcomes.unknown()
        self._exchange.made, self._exchange.whole = made, True
        await self._start(len(body))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _refusal(self) -> Exception:
        body = b""
        try:
            async for piece in _stream(self._response):
                body += piece
                if len(body) > _WHOLE:
                    break
        except UpstreamError:
            # The status has said it; its reasons may be cut off.
            pass
        return outcomes.refusal(
            self._response.status_code,
            body[:_WHOLE],
            released=self._exchange.released,
            retry_after=self._response.headers.get("retry-after"),
            now=time.time(),
            account_key=_account(self._exchange).api_key,
        )

    async def _pass_stream(self, head: list[bytes], pieces: AsyncIterator[bytes], patience: Deadline) -> None:
        counter = ImageCounter()
        length = self._response.headers.get("content-length")
        await self._start(int(length) if length is not None else None)
        left = int(length) if length is not None else math.inf  # without a length, what ends it is written at the end
        piece, last = b"".join(head), b""
        try:
            while piece:
                counter.feed(piece)
                left -= len(piece)
                if left > 0:
                    await self._body(piece, patience, more=True)
                else:
                    last = piece
                piece = await anext(pieces, b"")
        finally:
            self._exchange.made = counter.count
        if not counter.complete:
            raise outcomes.unknown()
        await self._body(last, patience, more=False)

    async def _start(self, length: int | None) -> None:
        headers = [(b"content-type", b"application/json")]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        await self._send({"type": "http.response.start", "status": self._response.status_code, "headers": headers})

    async def _body(self, piece: bytes, patience: Deadline, *, more: bool) -> None:
        if not self._client_reads:
            return
        left = self._ends - time.monotonic()
        patience.begin(min(_READ_STALL, max(left - _HURRY, left / 2)))
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})
        patience.end()

    def _let_go(self) -> None:
        """The client reads too slowly. What is being sent to it returns, for it has left."""
        self._client_reads = False
        self._scope["extensions"]["gateway.abort"]()
