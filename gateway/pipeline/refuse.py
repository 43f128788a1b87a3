"""Refuse: answers for everything that ends in an error inside, in the one shape that clients read.

It also refuses by itself what is wrong about a request's head. After an early refusal a bounded part of the body is
read on, so that a client which only looks when it has written all still sees the answer; then the connection closes.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core import framing, outcomes
from gateway.core.errors import ClientGone, GatewayError, InternalError, RequestTimeout, UnknownUrl
from gateway.core.parameters import shown
from gateway.core.refusals import limit_headers
from gateway.exchange import Exchange

#: Bytes and seconds of a refused body that are read on: two images of the upstream's own limit fit.
_DRAIN_BYTES = 16 * 1024 * 1024
_DRAIN_SECONDS = 5.0

#: Seconds for what was refused because it came too slowly: there is little left to hope for.
_SLOW_DRAIN_SECONDS = 1.0


class Refuse:
    """failed(exchange, error) is told of our own faults, with the traceback still on the error."""

    def __init__(self, app: ASGIApp, *, failed: Callable[[Exchange, BaseException], None]) -> None:
        self.app = app
        self.failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Guard(self, exchanges.of(scope), scope, receive, send).run()


class _Guard:
    """One request: what of it was read and what of its answer has left."""

    def __init__(self, step: Refuse, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        self.step, self.exchange, self.scope = step, exchange, scope
        self._receive, self._send = receive, send
        self.asked = False
        self.more_body = any(_says_body(name, value) for name, value in scope["headers"])
        self.started = False
        self.ended = False

    async def run(self) -> None:
        scope = self.scope
        try:
            framing.check(
                headers=scope["headers"], http_version=scope.get("http_version", "1.1"), method=scope["method"]
            )
            _check_path(scope, self.exchange)
            await self.step.app(scope, self.receive, self.send)
        except GatewayError as error:
            try:
                await self.answer(error)
            finally:
                _let_go(error)
        except Exception as error:  # noqa: BLE001 the last net: whatever it was, the client gets an answer
            self.step.failed(self.exchange, error)
            await self.answer(_own_fault(self.exchange))

    async def receive(self) -> Message:
        self.asked = True
        message = await self._receive()
        self.more_body = message.get("more_body", False)
        return message

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.started = True
        else:
            self.ended = not message.get("more_body", False)
        return self._send(message)

    async def answer(self, error: GatewayError) -> None:
        exchange = self.exchange
        exchange.error, exchange.outcome = error, error.outcome
        if isinstance(error, ClientGone):
            exchange.status = error.status
            self.scope["extensions"]["gateway.abort"]()  # it may only have ended its own half
            return
        if self.started:
            # The status is out. What is left to say is that this answer has no proper end.
            exchange.status = error.status
            if not self.ended:
                self.scope["extensions"]["gateway.abort"]()
            return
        close = error.close or self.more_body
        body = json.dumps(_told(error, exchange), ensure_ascii=False).encode("utf-8", "replace")
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
        if exchange.verdict is not None:
            headers += limit_headers(exchange.verdict, exchange.settlement)
        if close:
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": close})
        if close:
            await self._drain(_SLOW_DRAIN_SECONDS if isinstance(error, RequestTimeout) else _DRAIN_SECONDS)
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self, seconds: float) -> None:
        # A client that waits for "100 Continue" has sent nothing and must not be asked to.
        expects = (self.exchange.header(b"expect") or b"").lower() == b"100-continue"
        if not self.more_body or (expects and not self.asked):
            return
        read = 0
        try:
            async with asyncio.timeout(seconds):
                while self.more_body and read < _DRAIN_BYTES:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        return
                    self.more_body = message.get("more_body", False)
                    read += len(message.get("body", b""))
        except TimeoutError:
            return


def _own_fault(exchange: Exchange) -> GatewayError:
    """A 500, which every SDK sends again, is for what cannot have been made."""
    if not exchange.released:
        return InternalError("The gateway failed on this request. It has been logged.")
    error = outcomes.unknown()
    if exchange.settlement is not None:
        outcomes.tell_charge(error, exchange.settlement)
    return error


def _let_go(error: BaseException) -> None:
    """Drop the places where an error passed. Their frames hold the request's buffers and, by its exchange, the error
    again: a circle that would keep a piece of every refused upload until the garbage collector's next round.
    """
    chain: BaseException | None = error
    while chain is not None and chain.__traceback__ is not None:
        chain.__traceback__ = None
        chain = chain.__cause__ or chain.__context__


def _check_path(scope: Scope, exchange: Exchange) -> None:
    """One spelling for each path: what a proxy in front reads differently is not there."""
    path: str = scope["path"]
    encoded = exchange.endpoint != "other" and b"%" in scope.get("raw_path", b"")
    if encoded or not (path.isascii() and path.isprintable()):
        raise UnknownUrl(f"There is nothing at {shown(path)}.")


def _says_body(name: bytes, value: bytes) -> bool:
    """Whether a header announces bytes. By a length that is no number none are: the head has not been checked yet."""
    return name == b"transfer-encoding" or (name == b"content-length" and value.isdigit() and value.strip(b"0") != b"")


def _told(error: GatewayError, exchange: Exchange) -> dict[str, object]:
    """The body; who is refused by a permission or has no key is told whom to ask (quota messages say it already)."""
    if error.status in (401, 403):
        contact = exchange.team.contact if exchange.team is not None else exchange.settings.contact
        error.message = f"{error.message} Ask {contact}"
    return error.body()
