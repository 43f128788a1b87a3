"""The answer of the upstream as it arrives, and how far its request has gone.

`Answer` is a parser's callbacks on one side and an httpx stream on the other. It bounds what the parser does not:
heads, trailers, chunk extensions, interim answers. What cannot be read as an answer ends it like a cut connection.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

import httptools
import httpx

from gateway.core.errors import OutcomeUnknown, UpstreamError, UpstreamUnreachable
from gateway.deadline import Alarm

HELD_LIMIT = 64 * 1024  # bytes: one socket read of uvloop; more would only be queued twice
HEAD_LIMIT = 32 * 1024  # bytes: four times what common servers send at most
INTERIM_LIMIT = 100  # a 102 every 5 s over the longest call is 56

Failure = Literal["connect_error", "timeout", "cut"]


@dataclass(slots=True)
class Progress:
    """How far one request went up; still true after any exception, cancellation included.

    began: a byte was handed to a socket. released: the closing bytes were, so the upstream may act on the request;
    while it is False the upstream cannot have got a whole request. bytes_sent: head, framing and body, of the last
    attempt. failure: why there is no whole answer, as the metrics name it.
    """

    began: bool = False
    released: bool = False
    bytes_sent: int = 0
    failure: Failure | None = None


class Carrier(Protocol):
    """What an answer needs of the connection it arrives on."""

    def resume(self) -> None:
        """Reads on, if reading had stopped."""

    def abort(self) -> None:
        """Closes; the answer will not be read to its end."""

    def fail(self, failure: Failure, cause: BaseException | None) -> None:
        """Closes; the answer did not come to its end."""


class Answer(httpx.AsyncByteStream):
    """One answer: the parser's callbacks on one side, the stream its reader iterates on the other.

    head: done when the status line and headers are in, or when they never will be; then `check()` tells. Iterating
    gives body pieces as they came, undecoded, and may be left and taken up again. `aclose()` before the end closes
    the connection; after it the connection has long gone back to its keeper.
    """

    def __init__(self, connection: Carrier, progress: Progress, total: float | None) -> None:
        self.progress = progress
        self.status = 0
        self.version = ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.framed = False
        self.keep_alive = False
        self.complete = False
        self.held = 0
        self._loop = asyncio.get_running_loop()
        self.head: asyncio.Future[None] = self._loop.create_future()
        self._connection: Carrier | None = connection
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._total = total
        self._clock: Alarm | None = None
        self._pieces: deque[bytes] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._failure: tuple[Failure, BaseException | None] | None = None
        self._fruitless = 0  # bytes in a row that brought neither body nor end
        self._head_size = 0
        self._interims = 0

    def check(self) -> None:
        """Raises UpstreamUnreachable or OutcomeUnknown, whichever the progress proves, if the answer has failed."""
        if self._failure is not None:
            failure, cause = self._failure
            self.progress.failure = failure
            raise _error(failure, released=self.progress.released) from cause

    def start_clock(self) -> None:
        """Once, from the closing bytes or from an answer that came before them, to the answer's end."""
        if self._clock is None and self._total is not None:
            self._clock = Alarm(self._loop, self._total, self._expire)

    def fail(self, failure: Failure, cause: BaseException | None) -> None:
        self._failure = (failure, cause)
        self.detach()
        self._wake()

    def detach(self) -> None:
        """Lets go of connection, timer and parser (which points back here, a cycle for the collector otherwise)."""
        self._connection = self._parser = None
        if self._clock is not None:
            self._clock.cancel()

    def end_of_file(self) -> bool:
        if self.status and not self.framed:
            self.complete = True
            self._wake()
        return self.complete

    # httpx.AsyncByteStream

    def __aiter__(self) -> "Answer":
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self.complete:
                raise StopAsyncIteration
            self.check()
            if self._connection is not None:
                self._connection.resume()
            self._arrival = self._loop.create_future()
            try:
                await self._arrival
            except BaseException:
                await self.aclose()
                raise
        piece = self._pieces.popleft()
        self.held -= len(piece)
        return piece

    async def aclose(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    # httptools callbacks

    def feed(self, data: bytes) -> None:
        """Parses; endless heads, trailers and chunk extensions are cut off, for the parser itself has no bound."""
        if self._parser is None:
            return
        self._fruitless += len(data)
        self._parser.feed_data(data)
        if self._fruitless > HEAD_LIMIT and not self.complete:
            raise httptools.HttpParserError("head or trailer too large")

    def on_message_begin(self) -> None:
        if self.complete:
            raise httptools.HttpParserError("bytes after the answer")
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > HEAD_LIMIT:
            raise httptools.HttpParserError("head too large")
        if not self.status:  # afterwards it is a trailer, which nothing here uses
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        self.version = self._parser.get_http_version()
        if self.version not in {"1.0", "1.1"} or status == httpx.codes.SWITCHING_PROTOCOLS:
            raise httptools.HttpParserError("not an answer to this request")
        if httpx.codes.is_informational(status):
            self._interims += 1
            if self._interims > INTERIM_LIMIT:
                raise httptools.HttpParserError("too many interim answers")
            return
        self.status = status
        self.framed = self._is_framed()
        self.keep_alive = self._parser.should_keep_alive()  # only now: after the message the parser has forgotten
        self.start_clock()
        self._wake()

    def on_body(self, piece: bytes) -> None:
        self._fruitless = 0
        self._pieces.append(piece)
        self.held += len(piece)
        self._wake()

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True
            self._wake()

    def _is_framed(self) -> bool:
        """Whether the answer tells its own end (RFC 9112, 6.3)."""
        codings = [value.strip().lower() for name, value in self.headers if name.lower() == b"transfer-encoding"]
        if codings and codings != [b"chunked"]:
            raise httptools.HttpParserError("a transfer coding that was not asked for")
        if codings or self.status in {httpx.codes.NO_CONTENT, httpx.codes.NOT_MODIFIED}:
            return True
        return any(name.lower() == b"content-length" for name, _ in self.headers)

    def _expire(self) -> None:
        if self._connection is not None:
            self._connection.fail("timeout", None)

    def _wake(self) -> None:
        if not self.head.done():
            self.head.set_result(None)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


def _error(failure: Failure, *, released: bool) -> UpstreamError:
    """The sentence for the team's person. `released` alone decides what can be promised."""
    how = "did not take the request in time" if failure == "timeout" else "closed the connection"
    if not released:
        return UpstreamUnreachable(
            f"The image service {how} before the request was complete. Nothing was made; sending it again is safe."
        )
    how = "did not answer in time" if failure == "timeout" else "broke off without a complete answer"
    return OutcomeUnknown(
        f"The image service had the whole request and {how}. The images may have been made and are charged; "
        "sending it again may make them, and charge them, twice."
    )
