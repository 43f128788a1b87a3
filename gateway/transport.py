"""An httpx transport that knows exactly how much of a request has gone up.

It takes an `httpx.Request` and gives an `httpx.Response`, over its own connections (gateway/connection.py), because
the question that matters for a paid call is one no ready client answers: were the closing bytes handed over? Until
they are, every failure is `UpstreamUnreachable` and sending again is safe; from then on it is `OutcomeUnknown`.

Four ways a request goes up:

    from memory, kept connection   all but the last byte; a pause; the connection is looked at; the last byte
    from memory, new connection    one write
    from a stream, kept            the head; a pause; the connection is looked at; the stream
    from a stream, new             the head and the stream

A stream has a task of its own, so that an answer or a cut ends it while it waits for its next piece. The pause is why a
connection that the upstream closes in the same moment costs nothing: the close shows while the request is still
incomplete and nothing has been taken from its stream, and the request then goes once more on a new connection.

Request extensions: ``progress`` (a `Progress`), ``timeout`` ({"connect", "write", "total"} in seconds, None for ever):
to make a connection; for the socket to take more; from the closing bytes to the end of the answer. Response
extensions: ``http_version``, ``framed`` (False: only the end of the connection says that the answer is whole).

Not done: redirects, cookies, proxies, decompression, HEAD, HTTP/2, environment variables.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import httpx

from gateway.answer import Answer, Progress
from gateway.connection import Connection, Origin
from gateway.core.errors import InternalError, UpstreamUnreachable

CROSSING_GRACE = 0.005  # seconds for a close to show on a connection that has idled
CROSSING_LOOKS = 3  # how often the pause looks: one look may fall together with a stall of this process, three hardly
FRESH_ENOUGH = 0.05  # seconds of idling for which no server has a time-out: one turn of the loop is grace enough
LONGEST_PAUSE = 0.25  # seconds: a round trip told longer than this is a measuring error

#: Statuses of a head that answers nothing: none came, or 408, by which some servers end an idle connection.
_NO_ANSWER = frozenset({0, 408})

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_CHUNK = b"0\r\n\r\n"

Timeouts = Mapping[str, float | None]


class Closing(bytes):
    """The last piece of a request's stream: with it the request is complete, in the same write.

    A chunked stream that ends without one is completed by a write of its own. After it the stream is closed at its
    ``yield``, so what must run afterwards belongs in a ``finally``.
    """

    __slots__ = ()


class Transport(httpx.AsyncBaseTransport):
    """Connections to any number of origins; belongs to one event loop.

    idle_limit: seconds an unused connection is kept, short because common servers give up after 5. max_idle: kept per
    origin. There is no limit on connections in use: whoever calls knows how many requests it may have in flight.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, idle_limit: float = 2.0, max_idle: int = 100) -> None:
        self._tls = tls or _default_tls()
        self._idle_limit = idle_limit
        self._max_idle = max_idle
        self._open: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Transport open={len(self._open)} idle={sum(map(len, self._idle.values()))}>"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends once and returns when the answer's head is in.

        Raises UpstreamUnreachable, OutcomeUnknown, and whatever the request's stream raises, unchanged. Cancelled, or
        with any exception, the connection is closed at once; `Progress` tells how far the request went.
        """
        outgoing = _outgoing(request)
        if isinstance(request.stream, httpx.ByteStream) and outgoing.length is not None:
            payload = b"".join((outgoing.head, *request.stream))
            if len(payload) != len(outgoing.head) + outgoing.length:
                raise InternalError("The request's length is not what its head says.")
            answer = await self._send_on_kept(outgoing, payload) or await self._send_on_new(outgoing, payload)
        else:
            answer = await self._send_stream(outgoing)
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=answer,
            extensions={"http_version": b"HTTP/" + answer.version.encode(), "framed": answer.framed},
        )

    async def probe(self, url: httpx.URL, *, connect_timeout: float | None) -> float:
        """Connects, with TLS where the URL says so, sends nothing, and returns the seconds it took."""
        started = time.perf_counter()  # the loop's own clock may count in milliseconds
        origin = _origin(url.scheme, url.raw_host, url.port)
        connection = await self._connect(origin, Progress(), connect_timeout)
        connection.abort()
        return time.perf_counter() - started

    def forget_heads(self) -> None:
        """Nothing stays here of the heads that were sent: they have keys in them."""
        _lines.cache_clear()

    async def aclose(self) -> None:
        """Closes every connection; requests in flight fail as cut."""
        for connection in list(self._open):
            connection.abort()
        if self._sweep is not None:
            self._sweep.cancel()

    # the three ways up

    async def _send_on_kept(self, outgoing: "_Outgoing", payload: bytes) -> Answer | None:
        """None if there is no kept connection, or if it proved dead before the last byte: then nothing is lost."""
        begun = await self._begin_on_kept(outgoing, payload[:-1])
        return await _complete(*begun, payload[-1:]) if begun is not None else None

    async def _begin_on_kept(self, outgoing: "_Outgoing", opening: bytes) -> tuple[Connection, Answer] | None:
        """A kept connection that has taken `opening` and answered it or shown no sign of its end since, if any has."""
        connection = self._take(outgoing.origin)
        if connection is None:
            return None
        pause = _crossing_pause(connection.round_trip(), asyncio.get_running_loop().time() - connection.idle_since)
        answer = connection.begin(outgoing.progress, outgoing.timeouts.get("total"))
        try:
            connection.write(opening, closing=False)
            for _ in range(CROSSING_LOOKS if pause else 1):
                await asyncio.sleep(pause / CROSSING_LOOKS)
                if answer.head.done() and answer.status not in _NO_ANSWER:
                    break
                if answer.head.done() or not connection.is_quiet():
                    connection.abort()
                    outgoing.progress.bytes_sent = 0
                    return None
        except BaseException:
            connection.abort()
            raise
        return connection, answer

    async def _send_on_new(self, outgoing: "_Outgoing", payload: bytes) -> Answer:
        connection = await self._connect(outgoing.origin, outgoing.progress, outgoing.timeouts.get("connect"))
        answer = connection.begin(outgoing.progress, outgoing.timeouts.get("total"))
        if connection.is_hung_up():  # a full server accepts and closes; that is known before anything is sent
            connection.fail("cut", None)
        return await _complete(connection, answer, payload)

    async def _send_stream(self, outgoing: "_Outgoing") -> Answer:
        begun = await self._begin_on_kept(outgoing, outgoing.head) if outgoing.length != 0 else None
        if begun is None:
            connection = await self._connect(outgoing.origin, outgoing.progress, outgoing.timeouts.get("connect"))
            answer = connection.begin(outgoing.progress, outgoing.timeouts.get("total"))
            connection.write(outgoing.head, closing=outgoing.length == 0)
        else:
            connection, answer = begun
        sender = asyncio.create_task(_write_stream(connection, answer, outgoing))
        sender.add_done_callback(_retrieve)
        try:
            await asyncio.wait((sender, answer.head), return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                sender.result()
                await answer.head
            else:  # answered or cut before the request's end: the rest of the stream is of no use to anyone
                sender.cancel()
                await asyncio.wait((sender,))
            answer.check()
        except BaseException:
            connection.abort()
            sender.cancel()
            raise
        return answer

    # connections

    async def _connect(self, origin: Origin, progress: Progress, limit: float | None) -> Connection:
        scheme, host, port = origin
        connection = Connection(origin, self)
        self._open.add(connection)
        tls = self._tls if scheme == "https" else None
        try:
            async with asyncio.timeout(limit):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, host, port, ssl=tls, server_hostname=host if tls else None
                )
        except OSError as exc:  # refused, unresolved, timed out, certificate: TimeoutError and SSLError are OSErrors
            connection.abort()
            progress.failure = "connect_error"
            raise UpstreamUnreachable(
                "The image service could not be reached. Nothing was made; sending it again is safe."
            ) from exc
        except BaseException:
            connection.abort()
            raise
        return connection

    def _take(self, origin: Origin) -> Connection | None:
        """The connection used last, whose other end is the likeliest to be there; dead ones are closed on the way."""
        kept = self._idle.get(origin)
        oldest_use = asyncio.get_running_loop().time() - self._idle_limit
        while kept:
            connection = kept.pop()
            if connection.idle_since > oldest_use and connection.is_quiet():
                return connection
            connection.abort()
        return None

    def keep(self, connection: Connection) -> bool:
        kept = self._idle.setdefault(connection.origin, [])
        if len(kept) >= self._max_idle:
            return False
        kept.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_limit, self._close_expired)
        return True

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        kept = self._idle.get(connection.origin)
        if kept and connection in kept:
            kept.remove(connection)

    def _close_expired(self) -> None:
        """One timer for all, running only while something is kept: the next look is when the oldest is due."""
        loop = asyncio.get_running_loop()
        self._sweep = None
        due = loop.time() - self._idle_limit
        for connection in [each for kept in self._idle.values() for each in kept if each.idle_since <= due]:
            connection.abort()
        remaining = [each.idle_since for kept in self._idle.values() for each in kept]
        if remaining:
            self._sweep = loop.call_at(min(remaining) + self._idle_limit, self._close_expired)


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A request as it goes up. length: the body's bytes, None if chunked."""

    origin: Origin
    head: bytes = field(repr=False)
    length: int | None
    stream: httpx.AsyncByteStream
    progress: Progress
    timeouts: Timeouts


async def _complete(connection: Connection, answer: Answer, rest: bytes) -> Answer:
    """Writes what the request still lacks, unless it is answered already, and waits for the answer's head."""
    try:
        if not answer.head.done():
            connection.write(rest, closing=True)
            await answer.head
        answer.check()
    except BaseException:
        connection.abort()
        raise
    return answer


async def _write_stream(connection: Connection, answer: Answer, outgoing: _Outgoing) -> None:
    """Writes the body; done when the closing bytes are handed over, or when nothing more is worth writing.

    Never holds a piece back: a chunked body's end is known by `Closing`, another's by its length.
    """
    length, sent = outgoing.length, 0
    pieces = aiter(outgoing.stream)
    try:
        async for piece in pieces:
            if not piece and not isinstance(piece, Closing):
                continue  # an empty chunk would end the body
            await connection.writable(outgoing.timeouts.get("write"))
            if answer.head.done():
                return
            sent += len(piece)
            if length is None:
                connection.write(*_chunk(piece), closing=isinstance(piece, Closing))
            elif sent <= length:
                connection.write(piece, closing=sent == length)
            else:
                raise InternalError("The request is longer than its head says.")
            if answer.progress.released:
                return
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
    if length is None:
        connection.write(_LAST_CHUNK, closing=True)
    elif sent < length:
        raise InternalError("The request is shorter than its head says.")


def _chunk(piece: bytes) -> tuple[bytes, ...]:
    """One chunk, with the last chunk behind it where the piece is the closing one (RFC 9112, 7.1)."""
    end = b"\r\n" + _LAST_CHUNK if isinstance(piece, Closing) else b"\r\n"
    return (b"%x\r\n" % len(piece), piece, end) if piece else (_LAST_CHUNK,)


def _outgoing(request: httpx.Request) -> _Outgoing:
    if not isinstance(request.stream, httpx.AsyncByteStream):
        raise InternalError("The request's stream cannot be read asynchronously.")
    url, extensions = request.url, request.extensions
    # Of one account's requests only the last two headers differ: what the body is, and its length.
    headers = request.headers.raw
    head, length = _lines(request.method, url.raw_path, tuple(headers[:-2]))
    for name, value in headers[-2:]:
        line, length = _header(name, value, length)
        head += line
    return _Outgoing(
        origin=_origin(url.scheme, url.raw_host, url.port),
        head=head + b"\r\n",
        length=length,
        stream=request.stream,
        progress=extensions.get("progress") or Progress(),
        timeouts=extensions.get("timeout") or {},
    )


@lru_cache(maxsize=64)
def _lines(method: str, target: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, int | None]:
    """The first lines of a head, and the body's length by them."""
    lines = [b"%b %b HTTP/1.1\r\n" % (method.encode("ascii"), target)]
    length: int | None = 0
    for name, value in headers:
        line, length = _header(name, value, length)
        lines.append(line)
    return b"".join(lines), length


def _header(name: bytes, value: bytes, length: int | None) -> tuple[bytes, int | None]:
    """A header's line, and the body's length, which was known as `length` before it."""
    line = b"%b: %b\r\n" % (name, value)
    if line.count(b"\n") != 1 or line.count(b"\r") != 1:
        raise InternalError("A header of the request has a line break in it.")  # which one is not said: it may be a key
    lowered = name.lower()
    if lowered == b"content-length":
        return line, int(value)
    return line, None if lowered == b"transfer-encoding" else length


@lru_cache(maxsize=64)
def _origin(scheme: str, host: bytes, port: int | None) -> Origin:
    return scheme, host.decode("ascii"), port or _DEFAULT_PORTS[scheme]


def _crossing_pause(round_trip: float, idled: float) -> float:
    """How long to look at a kept connection before the request's last byte goes out, in seconds.

    A close that crosses the request was sent before the request arrived, so it shows within one round trip. A server
    whose time-out for idle connections fires just as the request arrives needs a moment more; that takes idling.
    """
    pause = min(round_trip, LONGEST_PAUSE) + (CROSSING_GRACE if idled > FRESH_ENOUGH else 0.0)
    return pause if pause >= 0.001 else 0.0  # a timer is no finer: one turn of the loop


def _retrieve(sender: asyncio.Task[None]) -> None:
    """Marks what the sender raised as seen; whoever cancelled it has a better reason to report."""
    if not sender.cancelled():
        sender.exception()


def _default_tls() -> ssl.SSLContext:
    """The operating system's trust, names checked, HTTP/1.1 asked for by ALPN (RFC 7301)."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
