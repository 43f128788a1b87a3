"""The load: closed loops over kept connections, by a client of our own on epoll; or by wrk, where a request is small.

Ours sends bodies from one buffer, reads and discards answers, and checks each: a 200 with the length that was found
right. At the end it takes no new requests and waits for those in flight, so that none is left to burden the next
measure, and slow ones count as what they are.
"""

import re
import select
import shutil
import socket
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import LOAD_CORE, started_on

_PIECE = 256 * 1024
_DRAIN_LIMIT = 90.0  #: seconds that requests in flight may take at the end
_SAME_LENGTH = 64  #: bytes by which answers may differ: some that we measure beside ours add facts of their own
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class LoadError(Exception):
    """An answer that is not what the measure is about: then its speed means nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, sent again and again; path and headers as they go on the wire."""

    path: str
    headers: dict[str, str]
    body: bytes

    def wire(self) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one load. Latencies in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float


class Connection:
    """One kept connection with one request at a time on it."""

    def __init__(self, port: int, wire: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._wire = memoryview(wire)
        self.sent = 0
        self.status = 0
        self.length = 0
        self._head = b""
        self._left: int | None = None

    def begin(self) -> None:
        self.sent = 0
        self._head, self._left = b"", None

    def send(self, until: int | None = None) -> bool:
        """As much as the socket takes; whether all of it up to `until` has gone."""
        end = len(self._wire) if until is None else until
        try:
            while self.sent < end:
                self.sent += self.socket.send(self._wire[self.sent : min(self.sent + _PIECE, end)])
        except BlockingIOError:
            return False
        return True

    def receive(self, buffer: bytearray) -> bool:
        """What there is; whether the answer is whole."""
        try:
            got = self.socket.recv_into(buffer)
        except BlockingIOError:
            return False
        if not got:
            raise LoadError("the connection was closed before its answer's end")
        if self._left is None:
            self._head += bytes(buffer[:got])
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return False
            self._read_head(head, body)
            got = len(body)
        self._left = (self._left or 0) - got
        return self._left <= 0

    def close(self) -> None:
        self.socket.close()

    def _read_head(self, head: bytes, body: bytes) -> None:
        status, length = _STATUS.match(head), _LENGTH.search(head)
        self.status = int(status[1]) if status else 0
        if self.status != 200 or length is None:
            raise LoadError(f"an answer that is no 200 with its length: {(head + body)[:1000]!r}")
        self._left = self.length = int(length[1])


def ask(port: int, request: Request) -> int:
    """One request; the length of its answer's body."""
    connection = Connection(port, request.wire())
    connection.socket.setblocking(True)
    connection.socket.settimeout(60)
    try:
        connection.send()
        buffer = bytearray(_PIECE)
        while not connection.receive(buffer):
            pass
    finally:
        connection.close()
    return connection.length


def drive(port: int, request: Request, *, length: int, connections: int, seconds: float) -> Load:
    """length: of the answer's body, which all must have."""
    wire = request.wire()
    loop = select.epoll()
    held = [Connection(port, wire) for _ in range(connections)]
    by_fd = {each.socket.fileno(): each for each in held}
    buffer = bytearray(_PIECE)
    latencies: list[float] = []
    start = time.perf_counter()
    began = dict.fromkeys(by_fd, start)
    ends, gives_up = start + seconds, start + seconds + _DRAIN_LIMIT
    running = len(held)

    def begin(fd: int, connection: Connection, *, new: bool) -> None:
        began[fd] = time.perf_counter()
        connection.begin()
        mask = select.EPOLLIN if connection.send() else select.EPOLLIN | select.EPOLLOUT
        if new:
            loop.register(fd, mask)
        elif mask & select.EPOLLOUT:
            loop.modify(fd, mask)

    try:
        for fd, connection in by_fd.items():
            begin(fd, connection, new=True)
        while running:
            ready = loop.poll(1.0)
            now = time.perf_counter()
            if now > gives_up:
                raise LoadError(f"{running} requests were still unanswered {_DRAIN_LIMIT:.0f} s after the end")
            for fd, event in ready:
                connection = by_fd[fd]
                if event & select.EPOLLOUT and connection.send():
                    loop.modify(fd, select.EPOLLIN)
                if not event & ~select.EPOLLOUT or not connection.receive(buffer):
                    continue
                _check_length(connection.length, length)
                now = time.perf_counter()
                latencies.append(now - began[fd])
                if now < ends:
                    begin(fd, connection, new=False)
                else:
                    loop.unregister(fd)
                    running -= 1
        took = time.perf_counter() - start
    finally:
        loop.close()
        for connection in held:
            connection.close()
    latencies.sort()
    return Load(
        requests=len(latencies),
        seconds=took,
        p50=statistics.median(latencies) * 1e6,
        p99=latencies[int(len(latencies) * 0.99)] * 1e6,
    )


def _check_length(found: int, right: int) -> None:
    if abs(found - right) > _SAME_LENGTH:
        raise LoadError(f"an answer of {found} bytes where {right} are right")


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def drive_wrk(port: int, request: Request, *, length: int, connections: int, seconds: float, folder: Path) -> Load:
    """The same with wrk, whose own share of the load's core is small. folder: for its script.

    It leaves requests in flight behind when its time is over: whoever measures waits for what is measured to settle.
    """
    script = folder / "wrk.lua"
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in request.headers.items())
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = [==[{request.body.decode()}]==]\n{headers}'
        "done = function(summary, latency)\n"
        "  local e = summary.errors\n"
        '  io.write(string.format("\\nRESULT %d %d %d %d %d %f %f\\n", summary.requests, summary.duration,\n'
        "    summary.bytes, e.status, e.connect + e.read + e.write + e.timeout,\n"
        "    latency:percentile(50), latency:percentile(99)))\nend\n"
    )
    url = f"http://127.0.0.1:{port}{request.path}"
    duration = f"{max(1, round(seconds))}s"
    words = ["wrk", "-t1", f"-c{connections}", f"-d{duration}", "--timeout", "60s", "-s", str(script), url]
    with started_on(LOAD_CORE):
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found = re.search(r"^RESULT (.+)$", said, re.MULTILINE)
    if found is None:
        raise LoadError(f"wrk said {said}")
    requests, micros, size, bad, broken, p50, p99 = map(float, found[1].split())
    if bad or broken or (requests and size / requests < length):
        raise LoadError(f"{bad:.0f} answers of {requests:.0f} were no 200, {broken:.0f} connections broke")
    return Load(requests=int(requests), seconds=micros / 1e6, p50=p50, p99=p99)
