"""A TCP proxy that cuts: resets at a chosen byte, delays, takes nobody, and leads elsewhere after a failover."""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import Literal, Self

Direction = Literal["up", "down"]  # towards the server, towards the client


class Link:
    """Listens on `port` of loopback and leads to the server at `target`, while entered.

    delay: seconds before each piece is passed on. cuts: connections that were reset.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.delay = 0.0
        self.cuts = 0
        self._armed: dict[Direction, deque[tuple[int, bool]]] = {"up": deque(), "down": deque()}
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deciding: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def arm(self, direction: Direction, after: int, *, decided: bool = False) -> None:
        """The next connection on which something goes this way is reset once `after` more bytes have gone.

        decided: only one on which a script was called, which is past a store's greeting.
        """
        self._armed[direction].append((after, decided))

    def disarm(self) -> None:
        for armed in self._armed.values():
            armed.clear()

    def cut_all(self) -> None:
        for writer in list(self._open):
            _reset(writer)

    def close(self) -> None:
        """Reset what is open and whoever comes, until `open`."""
        self._closed = True
        self.cut_all()

    def open(self, target: int | None = None) -> None:
        self._closed = False
        self.target = target or self.target

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._closed:
            _reset(writer)
            return
        try:
            upwards, downwards = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(writer)
            return
        pair = writer, downwards
        self._open.update(pair)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the trial is over
                await asyncio.gather(
                    self._pump(reader, downwards, "up", pair), self._pump(upwards, writer, "down", pair)
                )
        finally:
            self._open.difference_update(pair)
            self._deciding.discard(pair)
            for end in pair:
                end.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        left: int | None = None
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if direction == "up" and b"EVALSHA" in data:
                    self._deciding.add(pair)
                if (
                    left is None
                    and self._armed[direction]
                    and (pair in self._deciding or not self._armed[direction][0][1])
                ):
                    left = self._armed[direction].popleft()[0]
                if left is not None and len(data) >= left:
                    writer.write(data[:left])
                    self.cuts += 1
                    await asyncio.sleep(0)  # what has been written goes out before the reset
                    for end in pair:
                        _reset(end)
                    return
                left = None if left is None else left - len(data)
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN (socket(7): SO_LINGER with no time)."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
