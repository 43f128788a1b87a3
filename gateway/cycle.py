"""How an answer leaves: its head is checked as a whole, and goes out in one write with what follows it.

uvicorn looks at each header by itself, twice, which costs a worker as much as the rest of an answer: a team with a few
rules has twenty.
"""

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

_INTERIM = b"HTTP/1.1 100 "

#: All bytes that a head may have: visible ones, the tab, those beyond ASCII, and the ends of its lines.
_FIT = bytes(byte for byte in range(256) if byte in b"\t\r\n" or (byte >= 0x20 and byte != 0x7F))

_OF_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})


class Cycle(RequestResponseCycle):
    """One request and its answer, as uvicorn has them."""

    _says_close = False

    async def send(self, message: "ASGISendEvent") -> None:
        plain = not (self.response_started or self.disconnected or self.flow.write_paused)
        if plain and message["type"] == "http.response.start":
            self._begin(message["status"], [*self.default_headers, *message.get("headers", ())])
        else:
            await super().send(message)

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        for name, value in headers:
            if name in _OF_FRAMING:
                self._frame(name, value.lower())
        if not (self.keep_alive or self._says_close):
            headers.append((b"connection", b"close"))
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            headers.append((b"transfer-encoding", b"chunked"))
        lines = [b"%b: %b\r\n" % header for header in headers]
        head = b"".join((STATUS_LINE[status], *lines, b"\r\n"))
        ends = len(lines) + 2
        if head.count(b"\n") != ends or head.count(b"\r") != ends or head.translate(None, _FIT):
            raise RuntimeError("a header of the answer has bytes that no header may have")
        self.transport.write(head)

    def _frame(self, name: bytes, value: bytes) -> None:
        """What a header says of where the answer ends, and the connection with it."""
        if name == b"connection":
            if b"close" in value:
                self.keep_alive, self._says_close = False, True
        elif name == b"transfer-encoding":
            self.expected_content_length, self.chunked_encoding = 0, True
        elif self.chunked_encoding is None:
            self.expected_content_length, self.chunked_encoding = int(value), False


def take_over(cycle: RequestResponseCycle) -> None:
    """Have a cycle that uvicorn has made answer like this, from before its first byte on."""
    cycle.__class__ = Cycle
    if cycle.scope["method"] != "HEAD":  # to which no body is written
        cycle.transport = _Joining(cycle.transport)  # type: ignore[assignment]  # all of a transport that a cycle uses


class _Joining:
    """A transport whose answer's head waits for what is written behind it: one system call and one packet less."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing
        self._head: bytes | None = None
        self._joined = False

    def write(self, data: bytes) -> None:
        # None that is interim comes behind a head: there it is an upstream's bytes, which may look like one.
        if self._joined or (self._head is None and data.startswith(_INTERIM)):
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            self._joined = True
            self._transport.writelines((self._head, data))

    def close(self) -> None:
        if self._head is not None and not self._joined:
            self._transport.write(self._head)
        self._transport.close()
