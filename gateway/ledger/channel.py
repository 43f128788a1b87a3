"""The one connection of a worker to the store: commands leave in order, and their answers come in that order.

Commands of one turn of the event loop leave as one write. Where the connection dies, what was asked is asked once
more on a new one, so only commands may be sent here that change nothing when they come twice. A command that gets no
answer in time is given up, and a connection that is silent for so long is replaced.

The library finds the server (gateway/ledger/servers.py) and parses what it says; the sending and waiting are our own,
because they are on the path of every request.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.deadline import HELD_UP, is_late
from gateway.ledger.servers import Finder, Server

#: What a server says that is not the one to ask, or not yet.
_ELSEWHERE: dict[str, type[RedisError]] = {
    "LOADING": BusyLoadingError,
    "CLUSTERDOWN": RedisConnectionError,
    "MASTERDOWN": RedisConnectionError,
    "MOVED": RedisConnectionError,
    "ASK": RedisConnectionError,
    "TRYAGAIN": RedisConnectionError,
    "READONLY": ReadOnlyError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
}


class Call:
    """A command on its way. otherwise: its longer form, for a server that does not know the script."""

    __slots__ = ("answer", "due", "otherwise", "resent", "written")

    def __init__(
        self, written: bytes, otherwise: Callable[[], bytes] | None, answer: asyncio.Future[Any], due: float
    ) -> None:
        self.written = written
        self.otherwise = otherwise
        self.answer = answer
        self.due = due
        self.resent = False

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():  # else its caller has stopped waiting
            self.answer.set_exception(error)


class Channel:
    """limit: seconds until a command is given up; finding and greeting a server may take twice as long."""

    def __init__(self, finder: Finder, *, limit: float) -> None:
        self._finder = finder
        self._limit = limit
        self._lane: _Lane | None = None
        self._waiting: list[Call] = []
        self._asked: deque[Call] = deque()  # oldest first; some may have their answer
        self._watch: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    def ask(self, written: bytes, otherwise: Callable[[], bytes] | None = None) -> asyncio.Future[Any]:
        """The answer to come: a value, a RedisError, an OSError, or TimeoutError."""
        loop = asyncio.get_running_loop()
        call = Call(written, otherwise, loop.create_future(), loop.time() + self._limit)
        if not self._waiting:
            loop.call_soon(self._write)
        self._waiting.append(call)
        self._asked.append(call)
        if self._watch is None:
            self._watch = loop.call_later(self._limit, self._look, call.due)
        return call.answer

    async def close(self) -> None:
        """Fail what still waits and let the connection go."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        if self._watch is not None:
            self._watch.cancel()
        for call in self._asked:
            call.fail(RedisConnectionError("closed"))
        if self._lane is not None:
            await self._lane.close()
        await self._finder.close()

    def _write(self) -> None:
        if self._lane is not None:
            calls, self._waiting = self._waiting, []
            self._lane.send(calls)
        elif self._closed:
            for call in self._waiting:
                call.fail(RedisConnectionError("closed"))
        elif self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            # Behind the commands' own limit, which alone tells a stall of this process from silence of the store.
            async with asyncio.timeout(2 * self._limit):
                server = await self._finder.find()
                self._lane = await _open(server, self)
        except Exception as error:  # noqa: BLE001  whatever the library meets on its way, its callers hear of it
            known = isinstance(error, RedisError | OSError)  # a TimeoutError is an OSError
            calls, self._waiting = self._waiting, []
            for call in calls:
                call.fail(error if known else RedisConnectionError(type(error).__name__))
        else:
            if self._waiting:
                self._write()
        finally:
            self._connecting = None

    def lost(self, lane: "_Lane") -> None:
        """Whatever was asked on it is asked once more: it may have died while it was idle."""
        if self._lane is lane:
            self._lane = None
        again = []
        for call in lane.unanswered():
            if call.resent or self._closed:
                call.fail(RedisConnectionError("the connection to the store was lost"))
            else:
                call.resent = True
                again.append(call)
        self._again(again)

    def refused(self, lane: "_Lane", call: Call, error: RedisError) -> None:
        """An answer that is an error."""
        if isinstance(error, NoScriptError) and call.otherwise is not None:
            call.written, call.otherwise = call.otherwise(), None
            self._again([call])
            return
        if isinstance(error, (RedisConnectionError, ReadOnlyError)) and self._lane is lane:
            self._lane = None  # it is no master, or no more, or not yet: the next command looks for one
            lane.leave()
        call.fail(error)

    def _again(self, calls: list[Call]) -> None:
        if calls and not self._waiting:
            asyncio.get_running_loop().call_soon(self._write)
        self._waiting[:0] = calls

    def _look(self, due: float) -> None:
        """Give up what is overdue. due: when this was to be called, on the loop's clock.

        A loop that was held up has not taken yet what has come meanwhile: such silence is not the store's.
        """
        loop, asked = asyncio.get_running_loop(), self._asked
        if is_late(loop, due):
            self._watch = loop.call_later(HELD_UP, self._look, math.inf)
            return
        now = loop.time()
        silent = False
        while asked and (asked[0].answer.done() or asked[0].due <= now):
            call = asked.popleft()
            if not call.answer.done():
                silent = True
                call.fail(TimeoutError())
        if silent and self._lane is not None:
            self._lane.abort()
        self._watch = loop.call_later(asked[0].due - now, self._look, asked[0].due) if asked else None


class _Lane(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._channel: Channel | None = None  # none until it is greeted
        self._reader = hiredis.Reader(replyError=_error, encoding="utf-8")
        self._pending: deque[Call] = deque()
        self._transport: asyncio.Transport | None = None
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving = False

    def send(self, calls: list[Call]) -> None:
        calls = [call for call in calls if not call.answer.done()]
        if calls and self._transport is not None:
            self._pending.extend(calls)
            self._transport.write(b"".join([call.written for call in calls]))

    def belong(self, channel: Channel) -> None:
        """Greeted: from here on its end and its errors are the channel's business. Raises if it has ended already."""
        if self._transport is None:
            raise RedisConnectionError("the store closed the connection")
        self._channel = channel

    def unanswered(self) -> list[Call]:
        calls = [call for call in self._pending if not call.answer.done()]
        self._pending.clear()
        return calls

    def leave(self) -> None:
        """Close once all that was asked has its answer."""
        if not self._pending and self._transport is not None:
            self._transport.close()
        self._leaving = True

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            await self._gone

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self._pending
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                call = pending.popleft()  # an IndexError: an answer that nobody asked for
                if isinstance(reply, RedisError):
                    self._refused(call, reply)
                elif not call.answer.done():
                    call.answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.abort()
        if self._leaving:
            self.leave()

    def _refused(self, call: Call, error: RedisError) -> None:
        if self._channel is None:
            call.fail(error)
        else:
            self._channel.refused(self, call, error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._gone.done():
            self._gone.set_result(None)
        if self._channel is not None:
            self._channel.lost(self)
        else:
            for call in self.unanswered():
                call.fail(exc or RedisConnectionError("the store closed the connection"))


async def _open(server: Server, channel: Channel) -> _Lane:
    """A connection that is greeted: known, on its database, and at a master where that was asked for."""
    loop = asyncio.get_running_loop()
    lane = _Lane()
    if server.path is not None:
        await loop.create_unix_connection(lambda: lane, server.path)
    else:
        await loop.create_connection(lambda: lane, server.host, server.port, ssl=server.tls)
    greeting = [Call(written, None, loop.create_future(), math.inf) for written in server.greeting]
    try:
        lane.send(greeting)
        server.check(await asyncio.gather(*(call.answer for call in greeting), return_exceptions=True))
    except BaseException:
        lane.abort()
        raise
    lane.belong(channel)
    return lane


def _error(text: str) -> RedisError:
    code, _, rest = text.partition(" ")
    if code == "NOSCRIPT":
        return NoScriptError(rest)
    return _ELSEWHERE.get(code, ResponseError)(text)
