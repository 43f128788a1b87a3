"""Our edge of uvicorn's HTTP/1.1 protocol: what neither gunicorn nor uvicorn has, on each connection.

a deadline for a request's head, from the connection or the last answer on
a deadline for a client that does not read what it asked for
bounds on the head's size, on the number of its headers, on small chunks, and on connections
the error shape of the gateway for heads that are no HTTP at all
`abort`, for an answer that must not end cleanly; `wake`, for a wait that has lasted too long
which listener a connection came in by
"""

import asyncio
import json
import logging
from secrets import token_hex
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway import cycle as cycles
from gateway import logs
from gateway.core.errors import GatewayError, MalformedRequest, RequestTimeout
from gateway.deadline import HELD_UP, Alarm, is_late

_MAX_HEADERS = 128
_MAX_HEAD = 64 * 1024

#: Chunks of a body that may be of any size, and the bytes that more of them must hold on average. Each chunk costs a
#: worker more than its bytes: a megabyte in chunks of one byte would hold up everybody else for a second.
_SMALL_CHUNKS = 4096
_MEAN_CHUNK = 64

#: Seconds that an idle connection is left open when the worker leaves: a request may be on its way on it.
_LINGER = 1.0


#: Seconds and bytes that are read on behind what was refused here: a client that is still writing sees the answer.
_HEAR_OUT_SECONDS = 2.0
_HEAR_OUT_BYTES = 16 * 1024 * 1024

#: Seconds between two words about the same thing.
_SAID = 60.0


class HeadTooLarge(Exception):
    """Raised within the parser, which gives up the connection."""


class ChunksTooSmall(Exception):
    """Raised within the parser, as well."""


class Doors:
    """How many connections a worker takes: each may need a second descriptor, to the upstream."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._said = float("-inf")

    def are_shut(self, connections: int, now: float) -> bool:
        """now: monotonic seconds."""
        if connections <= self.most:
            return False
        if now - self._said > _SAID:
            self._said = now
            logs.line("connections refused: no file descriptors left for them", logging.WARNING, limit=self.most)
        return True


class Protocol(HttpToolsProtocol):
    """config has more than uvicorn's own: `admin_app`, `admin_address`, `doors`, `settings`, `readiness`, `unread`, and
    `intake`, the buffer that all connections are read into, one after the other.
    """

    stall_seconds = 30.0  #: in which a client must have read something of an answer that waits for it

    _head_deadline: Alarm | None = None
    _head_size = 0
    _chunks = 0
    _body_size = 0
    _in_head = False
    _deaf = False  #: nothing that comes is believed any more
    _last_words: asyncio.TimerHandle | None = None
    _heard_out = 0
    _unread_deadline: Alarm | None = None
    _unread = 0
    _reads = False
    _answered: RequestResponseCycle | None = None  #: whose answer is on its way; `cycle` is the last that was begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._left: asyncio.Future[None] = self.loop.create_future()
        config: Any = self.config
        transport.set_protocol(_Intake(self, config.intake))
        if self.server == config.admin_address or self._is_admin_port(config.admin_address):
            self.app = config.admin_app
        elif config.doors.are_shut(len(self.connections), self.loop.time()):
            transport.close()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        for timer in (self._last_words, self._unread_deadline):
            if timer is not None:
                timer.cancel()
        if not self._left.done():
            self._left.set_result(None)
        self._desert()
        super().connection_lost(exc)
        # Whoever still works for it has the request's own scope. That names this connection's `abort`: with it here,
        # all of both would stay until the garbage collector's next round.
        self.cycle = self.scope = self._answered = None  # type: ignore[assignment]  # as before the first request
        self.pipeline.clear()

    def data_received(self, data: bytes | memoryview) -> None:
        if self._deaf:
            self._heard_out += len(data)
            if self._heard_out > _HEAR_OUT_BYTES:
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._pass_over_upgrade(data[upgrade.args[0] :])
        except HttpParserError:
            self.send_400_response("")
        # Between two requests only the keep-alive limit runs; with the first byte of a head its own begins.
        if self._head_deadline is None and not self._deaf and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()

    def _pass_over_upgrade(self, rest: bytes | memoryview) -> None:
        """A server may ignore an Upgrade (RFC 9110, 7.8), but the parser ends with the head: another reads the body."""
        lines = [(name, value) for name, value in self.headers if name in (b"content-length", b"transfer-encoding")]
        head = b"".join(b"%b: %b\r\n" % line for line in lines)
        self.parser = HttpRequestParser(_BodyAlone(self))
        self.data_received(b"".join((b"POST / HTTP/1.1\r\nconnection: close\r\n", head, b"\r\n", rest)))

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own: whether the connection stays
        """A client sends no more. Who has sent a whole request may yet read and is answered; who has not has gone."""
        cycle = self.cycle
        waits = cycle is not None and not cycle.more_body and not cycle.response_complete
        if waits:
            cycle.keep_alive = False
            # Most who end their half have left: they keep no place in a line, where an image is not yet bought.
            if not self._left.done():
                self._left.set_result(None)
        return waits

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_size = self._chunks = self._body_size = 0
        self._in_head = True
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # extensions are ours to name
        scope["extensions"] = {
            "gateway.abort": self.abort,
            "gateway.left": self._left,
            "gateway.wake": self.wake,
            "gateway.has_arrived": self.has_arrived,
        }

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value))
        if not self._in_head:
            return  # a trailer comes when all is decided: it is held to the head's size, and read by nobody
        if len(self.headers) >= _MAX_HEADERS:
            raise HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._forget_head()
        self._in_head = False
        super().on_headers_complete()
        config: Any = self.config
        if config.readiness.draining or self.parser.should_upgrade():
            # No upgrade is taken. But a proxy may believe that one was, and pass on unseen what comes behind it.
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > _SMALL_CHUNKS and self._body_size < self._chunks * _MEAN_CHUNK:
            raise ChunksTooSmall

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        cycle = self.cycle
        if not cycle.body and not cycle.response_complete:
            # Handed on as it is: uvicorn would copy it into a bytearray, and that into bytes.
            cycle.body = body  # type: ignore[assignment]
            if len(body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()
            return
        if isinstance(cycle.body, bytes):
            cycle.body = bytearray(cycle.body)  # many small chunks of one read: joined in linear time
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():  # else it is its head alone that is complete
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        cycles.take_over(cycle)
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LINGER, self._leave_if_idle)
        else:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        del msg
        self._deaf = True
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(_malformed())
        elif not self.cycle.more_body:
            # A whole request stands before these bytes and will be answered as if they had not come.
            self.cycle.keep_alive = False
        elif self.cycle.response_started or self.pipeline:
            # An answer is on its way, this one's or an earlier one's: other bytes would stand in the middle of it.
            self.abort()
        else:
            self._desert()
            self._refuse(_malformed())

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        self._reads = True
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._expect_reading()

    def timeout_keep_alive_handler(self) -> None:
        """The client has asked for nothing more; or it has, and this process could not hear it."""
        timer = self.timeout_keep_alive_task
        if timer is not None and is_late(self.loop, timer.when()):
            self.timeout_keep_alive_task = self.loop.call_later(HELD_UP, super().timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def abort(self) -> None:
        """End the connection so that its last answer is seen to be incomplete."""
        self._desert()
        if self.transport is not None:
            self.transport.abort()

    def wake(self) -> None:
        """Whoever waits for more of the body being read gets what there is, be it nothing."""
        if self.cycle is not None:
            self.cycle.message_event.set()

    def has_arrived(self) -> bool:
        """Whether there is more of the body being read, or its end, or the connection's."""
        return self.cycle is not None and self.cycle.message_event.is_set()

    def _desert(self) -> None:
        """Whoever works on a request is told that nobody waits for it."""
        for cycle in (self._answered, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _is_admin_port(self, address: tuple[str, int]) -> bool:
        host, port = address
        return host in ("0.0.0.0", "::") and self.server is not None and self.server[1] == port

    def _leave_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _grow(self, size: int) -> None:
        self._head_size += size
        if self._head_size > _MAX_HEAD:
            raise HeadTooLarge

    def _expect_head(self) -> None:
        config: Any = self.config
        self._head_deadline = Alarm(self.loop, config.settings().limits.header_timeout, self._head_overdue)

    def _forget_head(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _head_overdue(self) -> None:
        self._head_deadline = None
        if self._in_head:
            self._refuse(RequestTimeout("The request's head did not come in time."))
        else:
            self.transport.close()

    def _expect_reading(self) -> None:
        if self._unread_deadline is None:
            self._unread, self._reads = self.transport.get_write_buffer_size(), False
            self._unread_deadline = Alarm(self.loop, self.stall_seconds, self._reading_overdue)

    def _reading_overdue(self) -> None:
        self._unread_deadline = None
        unread = self.transport.get_write_buffer_size()
        if unread and not self._reads and unread >= self._unread:
            self.abort()
        elif unread:
            self._expect_reading()

    def _refuse(self, error: GatewayError) -> None:
        self._deaf = True
        self._forget_head()
        config: Any = self.config
        request_id = f"req_{token_hex(12)}"
        config.unread(request_id, self.client[0] if self.client else "", error)
        body = json.dumps(error.body()).encode()
        head = (
            STATUS_LINE[error.status] + b"content-type: application/json\r\ncache-control: no-store\r\n"
            b"connection: close\r\ncontent-length: %d\r\nx-request-id: %s\r\n\r\n" % (len(body), request_id.encode())
        )
        self.transport.write(head + body)
        self.transport.write_eof()
        self._last_words = self.loop.call_later(_HEAR_OUT_SECONDS, self.transport.abort)


class _BodyAlone:
    """What a parser tells of a request whose head is known."""

    def __init__(self, protocol: Protocol) -> None:
        self.on_header = protocol.on_header  # of trailers: the head's are known
        self.on_chunk_header, self.on_body = protocol.on_chunk_header, protocol.on_body
        self.on_message_complete = protocol.on_message_complete


class _Intake(asyncio.BufferedProtocol):
    """Reads for a `Protocol` into a buffer that all connections share. What is given on of it the parser copies anyway:
    bytes made for each read would be one copy more.
    """

    def __init__(self, protocol: Protocol, buffer: memoryview) -> None:
        self._take, self._buffer = protocol.data_received, buffer
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._take(self._buffer[:nbytes])


def _malformed() -> MalformedRequest:
    return MalformedRequest("The request is not valid HTTP/1.1, or its head is too large, or its chunks are too small.")
