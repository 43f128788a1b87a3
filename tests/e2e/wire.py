"""Requests to a gateway as bytes on a socket, and their answers as they came.

Client libraries tidy up what many of these tests are about: when a byte leaves, how a body is framed, what
stands twice.
"""

import contextlib
import json
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from zlib import compress, crc32

BOUNDARY = "frontier"
GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"

PATIENCE = 10.0  #: seconds that a read or a write may take

#: name, file name or None for a text, data
Part = tuple[str, str | None, bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. headers: in order, names in lower case. interim: status lines that came before it, as of a 100."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    interim: tuple[bytes, ...] = ()

    def header(self, name: str) -> str | None:
        """The header's one value, None without; a header that came twice is a failure."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    def json(self) -> dict[str, Any]:
        decoded = json.loads(self.body)
        assert isinstance(decoded, dict)
        return decoded

    @property
    def error(self) -> dict[str, Any]:
        body = self.json()
        assert list(body) == ["error"]
        error = body["error"]
        assert isinstance(error, dict)
        return error


class Wire:
    """A connection to the gateway."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_some(self, data: bytes) -> bool:
        """Send all of it, or as much as the other side takes; whether it was all."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)
            return True
        return False

    def read(self) -> Answer:
        """The next answer, with the interim ones before it."""
        interim: list[bytes] = []
        while True:
            head, rest = self._head()
            line, *lines = head.split(b"\r\n")
            status = int(line.split(b" ", 2)[1])
            if status < 200:
                interim.append(line)
                self._left = rest
                continue
            pairs = [tuple(entry.decode("latin-1").split(": ", 1)) for entry in lines]
            headers = tuple((name.lower(), value) for name, value in pairs)
            return Answer(status, headers, self._body(dict(headers), rest), tuple(interim))

    def interim(self) -> bytes:
        """The status line of the next interim answer."""
        head, self._left = self._head()
        return head

    def at_end(self) -> bool:
        """Wait for the next byte or for the connection's end; whether it was the end."""
        if not self._left:
            with contextlib.suppress(ConnectionError):
                self._left = self.socket.recv(65536)
        return not self._left

    def quiet_for(self, seconds: float) -> bytes:
        """What comes within so many seconds; nothing is the usual hope."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(65536)
        except TimeoutError:
            return b""
        finally:
            self.socket.settimeout(PATIENCE)

    def leave(self, how: str) -> None:
        """Leave with FIN or with RST."""
        self.reset() if how == "RST" else self.close()

    def reset(self) -> None:
        """Leave with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    _left = b""

    def _head(self) -> tuple[bytes, bytes]:
        data, self._left = self._left, b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    def _body(self, headers: Mapping[str, str], rest: bytes) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            while not rest.endswith(b"0\r\n\r\n"):
                rest += self._more()
            return _unchunked(rest)
        if "content-length" not in headers:  # a proxy's own, which the connection's end ends
            while more := self.socket.recv(65536):
                rest += more
            return rest
        length = int(headers["content-length"])
        while len(rest) < length:
            rest += self._more()
        self._left = rest[length:]
        return rest[:length]

    def _more(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the gateway closed the connection within an answer")
        return data


@contextlib.contextmanager
def connected(url: str) -> Iterator[Wire]:
    wire = Wire(url)
    try:
        yield wire
    finally:
        wire.close()


def ask(url: str, *pieces: bytes) -> Answer:
    """Send the pieces on a connection of their own, as far as they are taken, and read the answer."""
    with connected(url) as wire:
        for piece in pieces:
            if not wire.send_some(piece):
                break
        return wire.read()


def head(
    path: str, *lines: str, key: str | None, method: str = "POST", content_type: str | None = "application/json"
) -> bytes:
    """A request's head. lines: further headers, as ``Name: value``."""
    own = [f"{method} {path} HTTP/1.1", "Host: gateway.test"]
    if key is not None:
        own.append(f"Authorization: Bearer {key}")
    if content_type is not None:
        own.append(f"Content-Type: {content_type}")
    return "\r\n".join([*own, *lines, "", ""]).encode("latin-1")


def generation(key: str | None, *lines: str, **fields: object) -> bytes:
    """A whole generation of a prompt and these fields."""
    return generation_of(json.dumps({"prompt": "a lighthouse", **fields}).encode(), key, *lines)


def generation_of(body: bytes, key: str | None, *lines: str) -> bytes:
    """A whole generation whose body is these bytes."""
    return head(GENERATIONS, f"Content-Length: {len(body)}", *lines, key=key) + body


def edit_head(key: str | None, *lines: str, length: int | None) -> bytes:
    """An edit's head. length: None sends chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return head(EDITS, framing, *lines, key=key, content_type=f"multipart/form-data; boundary={BOUNDARY}")


def edit(key: str | None, *parts: Part, lines: Sequence[str] = ()) -> bytes:
    """A whole edit with its length."""
    body = form(*parts)
    return edit_head(key, *lines, length=len(body)) + body


def form(*parts: Part) -> bytes:
    """The parts as a form's body, in their order."""
    return b"".join([*(part_head(name, file) + data + b"\r\n" for name, file, data in parts), closing()])


def part_head(name: str, file: str | None) -> bytes:
    named = f'; filename="{file}"\r\nContent-Type: image/png' if file is not None else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()


def closing() -> bytes:
    return f"--{BOUNDARY}--\r\n".encode()


def image(data: bytes, name: str = "image", file: str = "picture.png") -> Part:
    return (name, file, data)


def text(name: str, value: str) -> Part:
    return (name, None, value.encode())


def chunks(data: bytes, *, size: int = 65536, last: bool = True) -> Iterable[bytes]:
    """The data in HTTP chunks; last: with the chunk that ends it."""
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    if last:
        yield b"0\r\n\r\n"


def png(*, length: int = 0, side: int = 64, filler: int = 1) -> bytes:
    """A grey PNG of side * side pixels that a decoder reads, blown up to `length` bytes by a private chunk.

    filler: what the bytes of that chunk are made from, so that two such files differ.
    """
    pixels = compress(b"".join(b"\x00" + b"\x80" * side for _ in range(side)))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    end = chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    missing = length - len(start) - len(end) - 12
    if missing < 0:
        return start + end
    block = bytes((i * filler + (i >> 8)) & 0xFF for i in range(65536))
    return start + chunk(b"prVt", (block * (missing // 65536 + 1))[:missing]) + end


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))


def _unchunked(data: bytes) -> bytes:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if int(size, 16) == 0:
            return body
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
