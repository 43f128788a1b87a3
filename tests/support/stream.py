"""Many connections to a gateway at once, each under the test's own control: what it sends when, and how it reads.

A client library sends and reads as fast as it can; here a client may stall, trickle, read slowly, leave or reset.

    async with connected(gateway.url) as stream:
        await stream.send(wire.generation(key))
        answer = await stream.answer()
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.running import Running

PATIENCE = 30.0  #: seconds that an answer or a write may take

#: With TEST_LOAD=full in the environment the tests of load take the numbers of a busy day instead of a small one's.
FULL = os.environ.get("TEST_LOAD") == "full"

_SMALL = 128 * 1024  #: bytes that the kernel holds for a client that does not read; below a segment it crawls


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer. headers: names in lower case; length: of the body, which is kept up to 64 KB only."""

    status: int
    headers: dict[str, str]
    body: bytes
    length: int

    @property
    def code(self) -> str | None:
        """The error's code."""
        code = json.loads(self.body)["error"]["code"]
        assert code is None or isinstance(code, str)
        return code

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Stream:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def ask(self, data: bytes) -> Heard:
        await self.send(data)
        return await self.answer()

    async def answer(self, *, limit: float = PATIENCE) -> Heard:
        """The next whole answer within `limit` seconds, interim ones passed over; EOFError if the connection ends."""
        async with asyncio.timeout(limit):
            while True:
                status, headers = await self.head()
                if status >= 200:
                    break
            kept, length = b"", 0
            async for piece in self._body(headers):
                length += len(piece)
                kept += piece[: 65536 - len(kept)]
            return Heard(status, headers, kept, length)

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(" ", 2)[1]), {name.lower(): value for name, value in pairs}

    async def ended(self, limit: float) -> bytes:
        """What comes until the gateway closes or resets, which must be within `limit` seconds."""
        data = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(limit):
                while piece := await self.reader.read(65536):
                    data += piece
        return data

    def reset(self) -> None:
        """Leave with RST instead of FIN."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def _body(self, headers: dict[str, str]) -> AsyncIterator[bytes]:
        if headers.get("transfer-encoding") != "chunked":
            left = int(headers.get("content-length", "0"))
            while left:
                piece = await self.reader.read(min(left, 65536))
                if not piece:
                    raise EOFError("the gateway closed the connection within an answer")
                left -= len(piece)
                yield piece
            return
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)


@contextlib.asynccontextmanager
async def connected(url: str, *, small: bool = False) -> AsyncIterator[Stream]:
    """A connection for the block's time. small: the kernel takes little for a client that does not read."""
    parts = urlsplit(url)
    raw = socket.socket()
    raw.setblocking(False)
    if small:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_connect(raw, (parts.hostname, parts.port))
    except BaseException:
        raw.close()
        raise
    stream = Stream(*await asyncio.open_connection(sock=raw, limit=65536 if small else 262_144))
    try:
        yield stream
    finally:
        await stream.close()


def workers(gateway: Running) -> list[int]:
    """Process ids of the workers, in no order: the master's children but for the store."""
    children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text("utf-8").split()
    return [int(pid) for pid in children if b"gateway" in _command(pid)[1:] or b"-m" in _command(pid)]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  names only, and quickly


def resident(pid: int) -> int:
    """Bytes of memory that are this process's own."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/PID/status has RssAnon")


def _command(pid: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):  # it ended before, or while, this was read
        return []


@dataclass(slots=True)
class Worker:
    """A worker's memory and descriptors from now on."""

    pid: int
    memory: int = 0
    files: int = 0
    most_memory: int = 0
    most_files: int = 0

    def __post_init__(self) -> None:
        self.memory = self.most_memory = resident(self.pid)
        self.files = self.most_files = descriptors(self.pid)

    @property
    def peak(self) -> float:
        """MB by which its memory has grown at most, as far as `watched` has looked."""
        return (self.most_memory - self.memory) / 1e6

    @property
    def growth(self) -> float:
        """MB by which its memory has grown."""
        return (resident(self.pid) - self.memory) / 1e6

    @property
    def more_files(self) -> int:
        return descriptors(self.pid) - self.files

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look ten times a second within the block."""

        async def look() -> None:
            while True:
                self.most_memory = max(self.most_memory, resident(self.pid))
                self.most_files = max(self.most_files, descriptors(self.pid))
                await asyncio.sleep(0.1)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()
