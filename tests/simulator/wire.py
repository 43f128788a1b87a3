"""Requests as bytes on a socket, where a client library would tidy up what the test is about."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.simulated import API_KEY, SimulatorThread

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
BOUNDARY = "frontier"


@contextmanager
def connected(simulator: SimulatorThread) -> Iterator[socket.socket]:
    """A connection whose reads give up after 5 s."""
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=5) as connection:
        yield connection


def head(path: str, *headers: str, content_type: str = "application/json") -> bytes:
    """A POST's head with the right key."""
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {API_KEY}", f"Content-Type: {content_type}")
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def generation(**fields: object) -> bytes:
    """A whole generation request."""
    body = json.dumps({"prompt": "a cat", "size": "256x256", **fields}).encode()
    return head(GENERATIONS, f"Content-Length: {len(body)}") + body


def form(files: dict[str, bytes], texts: dict[str, str]) -> bytes:
    """A form's body with boundary BOUNDARY, files first."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.png"\r\n\r\n'.encode() + data
        for name, data in files.items()
    ]
    parts += [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in texts.items()
    ]
    return b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def edit_head(*headers: str) -> bytes:
    return head(EDITS, *headers, content_type=f"multipart/form-data; boundary={BOUNDARY}")


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the other side's FIN. Raises ConnectionResetError on an RST."""
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


def read_till_failure(connection: socket.socket) -> tuple[bytes, OSError | None]:
    """What came, and the error that ended it (a time-out too); None for a FIN."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except OSError as exc:
        return received, exc
    return received, None


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of one answer that has a Content-Length. What comes behind it is left for the next call."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += _some(connection, 1)
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    body, length = b"", int(headers[b"content-length"])
    while len(body) < length:
        body += _some(connection, length - len(body))
    return int(head.split(b" ", 2)[1]), body


def _some(connection: socket.socket, most: int) -> bytes:
    data = connection.recv(most)
    assert data, "closed in the middle of an answer"
    return data
