"""One HTTP/1.1 connection to the upstream (RFC 9112).

A `Connection` carries one exchange at a time. It writes what it is told to, notes in the exchange's `Progress` what
was handed over, and feeds what comes back to an `Answer` (gateway/answer.py). Reading stops while more than
`HELD_LIMIT` bytes wait for the answer's reader, so an answer of any size takes the same memory.

What it does not do: decide whether to connect, reuse or send again (gateway/transport.py), or what an answer means.
"""

import asyncio
import math
import select
import socket
import ssl
import struct
from enum import Enum
from typing import Protocol, cast

import httptools

from gateway.answer import HELD_LIMIT, Answer, Failure, Progress

_READABLE_OR_GONE = select.POLLIN | getattr(select, "POLLRDHUP", 0)  # the latter is Linux's
_TURNS_TO_READ = 3  # of the event loop: one to see that bytes are there, one to read them, one for good measure
_MEASURED_FOR = 10.0  # seconds that a measured round trip is taken to hold
_TCP_INFO_SIZE = 152  # linux/tcp.h: tcpi_min_rtt, in microseconds, is the u32 at 148
_TCP_INFO_MIN_RTT = 148

Origin = tuple[str, str, int]  # scheme, host, port
_PARSER_ERRORS = (httptools.HttpParserError, httptools.HttpParserUpgrade)


class Keeper(Protocol):
    """Who owns the connections: told when one can be used again and when one is gone."""

    def keep(self, connection: "Connection") -> bool:
        """Takes the connection for reuse, or returns False to have it closed."""

    def forget(self, connection: "Connection") -> None: ...


class State(Enum):
    NEW = "new"
    BUSY = "busy"
    IDLE = "idle"
    CLOSED = "closed"


class Connection(asyncio.Protocol):
    """A socket, plain or TLS, to one origin."""

    def __init__(self, origin: Origin, keeper: Keeper) -> None:
        self.origin = origin
        self.state = State.NEW
        self.idle_since = 0.0
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._answer: Answer | None = None
        self._measured, self._round_trip = -math.inf, 0.0
        self._reading_paused = False
        self._drained: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        scheme, host, port = self.origin
        return f"<Connection {scheme}://{host}:{port} {self.state.value}>"

    def begin(self, progress: Progress, total: float | None) -> "Answer":
        """Starts an exchange. total: seconds from the closing bytes to the end of the answer; None waits for ever."""
        self.state = State.BUSY
        self._answer = Answer(self, progress, total)
        return self._answer

    def write(self, *data: bytes, closing: bool) -> None:
        """Hands bytes over, in one write. closing: the request is complete with them, and from here on its outcome may
        be unknown.
        """
        answer = self._answer
        if answer is None or self._transport is None or self._transport.is_closing():
            return  # the exchange has failed already and its answer says so
        progress = answer.progress
        progress.began = True
        if closing:
            progress.released = True
            answer.start_clock()
        progress.bytes_sent += sum(map(len, data))
        self._transport.writelines(data)

    async def writable(self, limit: float | None) -> None:
        """Waits until the socket takes more, `limit` seconds at most; a stall fails the exchange.

        What has come from the peer is let in first, for it may be an answer before the request's end: once more is
        written to a peer that has closed, the reset may throw that answer away unread.
        """
        turns = _TURNS_TO_READ
        while turns and self._is_open() and self._poll.poll(0):
            turns -= 1
            await asyncio.sleep(0)
        if self._drained is not None:
            try:
                async with asyncio.timeout(limit):
                    await self._drained
            except TimeoutError as exc:
                self.fail("timeout", exc)

    def is_quiet(self) -> bool:
        """Open with nothing to read: no early answer, no end of file, no reset, even one only the kernel has seen."""
        return self._is_open() and not self._poll.poll(0)

    def is_hung_up(self) -> bool:
        """Whether the peer has closed or reset. Unlike `is_quiet` it lets bytes wait: TLS 1.3 sends tickets unasked."""
        return not self._is_open() or any(event & ~select.POLLIN for _, event in self._poll.poll(0))

    def round_trip(self) -> float:
        """The shortest round trip seen on this connection in seconds, 0.0 if not told; asked for now and then."""
        now = self._loop.time()
        if now - self._measured > _MEASURED_FOR:
            self._measured, self._round_trip = now, self._measure()
        return self._round_trip

    def _measure(self) -> float:
        """From the kernel's TCP_INFO."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None or not hasattr(socket, "TCP_INFO"):
            return 0.0
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        if len(info) < _TCP_INFO_SIZE:
            return 0.0
        microseconds: int = struct.unpack_from("=I", info, _TCP_INFO_MIN_RTT)[0]
        return microseconds / 1_000_000

    def fail(self, failure: Failure, cause: BaseException | None) -> None:
        """Ends the exchange without a whole answer and the connection with it."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.fail(failure, cause)
        self._close()

    def abort(self) -> None:
        """Closes at once and drops what is unsent: the peer sees an incomplete request, never a clean end."""
        self.fail("cut", None)

    def resume(self) -> None:
        if self._reading_paused and self._transport is not None and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def _is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _is_clean_end(self) -> bool:
        """TLS in asyncio reports an end without close_notify, which anyone on the way can forge, like one with it."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        if tls is None:
            return True
        try:
            return not tls.read(1)  # nothing after close_notify; without one it wants more
        except ssl.SSLError:
            return False

    def _close(self) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self._keeper.forget(self)
        if self._transport is not None:
            self._transport.abort()
        self.resume_writing()

    def _finish(self, answer: "Answer") -> None:
        """The answer is whole: the connection is kept only if both sides agree that nothing of it is left over."""
        self._answer = None
        answer.detach()
        self.resume()
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        # Whether it has anything to read is looked at when it is taken up again.
        reusable = answer.keep_alive and answer.progress.released and not unsent and self._is_open()
        self.state = State.IDLE
        self.idle_since = self._loop.time()
        if not (reusable and self._keeper.keep(self)):
            self._close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.state is State.CLOSED:  # given up while it was being made
            self._transport.abort()
        else:
            self._poll.register(transport.get_extra_info("socket").fileno(), _READABLE_OR_GONE)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self._close()  # nobody asked: what it says belongs to no request
            return
        try:
            answer.feed(data)
        except _PARSER_ERRORS as exc:
            if not answer.complete:
                self.fail("cut", exc)
                return
            answer.keep_alive = False  # whole, but followed by bytes that nobody asked for
        if answer.complete:
            self._finish(answer)
        elif answer.held > HELD_LIMIT and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """Completes only an answer that has no other end (RFC 9112, 6.3, last case), and only by a clean end."""
        if self._answer is not None and self._is_clean_end() and self._answer.end_of_file():
            self._finish(self._answer)
        else:
            self.fail("cut", None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("cut", exc)

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
