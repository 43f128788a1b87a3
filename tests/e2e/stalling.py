"""A network that stalls: it withholds the last byte of each call's first request, and lets the later ones pass."""

import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_TRACE = re.compile(rb"\r\ntraceparent: *([0-9a-f-]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@contextmanager
def stalling(url: str) -> Iterator[str]:
    """The address of such a network before `url`. Calls are told by their W3C trace; a connection takes one request."""
    server = _Server(url)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        parts = urlsplit(url)
        self.behind = (parts.hostname or "", parts.port or 0)
        self.met: set[bytes] = set()


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        request = self._read()
        trace = _TRACE.findall(request)[0]
        withheld = trace not in self.server.met
        self.server.met.add(trace)
        with suppress(ConnectionError), socket.create_connection(self.server.behind, timeout=30) as behind:
            behind.sendall(request[:-1] if withheld else request)
            while piece := behind.recv(65536):
                self.request.sendall(piece)

    def _read(self) -> bytes:
        """A whole request with its length."""
        request = b""
        while b"\r\n\r\n" not in request:
            request += self.request.recv(65536)
        head = request.index(b"\r\n\r\n") + 4
        length = int(_LENGTH.findall(request[:head])[0])
        while len(request) < head + length:
            request += self.request.recv(65536)
        return request
