"""A request and a reply as they stand on the connection, and the ways a reply may end.

No I/O: `encode` gives the bytes of a reply and of its head, `connection` decides how many of them go out.
"""

from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from typing import Literal

_CHUNK = 16 * 1024
_BODYLESS = frozenset({204, 304})  # RFC 9110 section 6.4.1

Framing = Literal["chunked", "content-length", "none"]


@dataclass(slots=True, eq=False)
class Request:
    """One request as it arrives: `body` grows till `complete`.

    number: over all connections, from 1, in the order of arrival. connection, ordinal: which connection, and the
    how manieth request on it, both from 1. headers: names and values as sent, decoded as latin-1.
    """

    number: int
    connection: int
    ordinal: int
    method: str = ""
    target: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    framing: Framing = "none"
    keep_alive: bool = False
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> list[str]:
        """All values of a header, `name` in lower case."""
        return [value for key, value in self.headers if key.lower() == name]


class Ending(Enum):
    """What becomes of the connection after a reply's bytes."""

    COMPLETE = "complete"  # kept for the next request, unless the client asked otherwise
    LINGER = "linger"  # our side ends, the rest of the client's body is read and thrown away: it sees the answer
    CLOSE = "close"  # FIN
    RESET = "reset"  # RST
    HANG = "hang"  # nothing more, till the client leaves


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and how much of it goes out.

    limit: bytes of the body (as framed, so with chunk sizes) after which `ending` happens; None is all of them.
    silent: not even the head goes out. latency: seconds before the first byte. fault: what a script calls it.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    chunked: bool = False
    latency: float = 0.0
    ending: Ending = Ending.COMPLETE
    limit: int | None = None
    silent: bool = False
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class EarlyReply:
    """A reply that does not wait for the request's end: it comes after `after` bytes of its body."""

    reply: Reply
    after: int


def encode(reply: Reply, *, keep_alive: bool) -> tuple[bytes, bytes]:
    """Head and framed body. A Content-Length among the reply's own headers stands, even a false one."""
    names = {name.lower() for name, _ in reply.headers}
    try:
        reason = HTTPStatus(reply.status).phrase
    except ValueError:  # 52x and the like are nobody's standard
        reason = "Unknown"
    lines = [f"HTTP/1.1 {reply.status} {reason}", *(f"{name}: {value}" for name, value in reply.headers)]
    if "date" not in names:
        lines.append(f"date: {formatdate(usegmt=True)}")
    if not keep_alive:
        lines.append("connection: close")
    if reply.status in _BODYLESS:
        body = b""
    elif reply.chunked:
        lines.append("transfer-encoding: chunked")
        body = _chunks(reply.body)
    else:
        body = reply.body
        if "content-length" not in names:
            lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1"), body


def _chunks(body: bytes) -> bytes:
    pieces = [body[start : start + _CHUNK] for start in range(0, len(body), _CHUNK)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
