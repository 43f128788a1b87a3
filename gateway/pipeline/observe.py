"""Observe: gives a request its id and its exchange, marks every answer, and says at the end what happened."""

import os
import time
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core import framing, tracecontext
from gateway.core.catalog import Settings
from gateway.exchange import Exchange

_ENDPOINTS = {
    f"{prefix}/images/{name}{slash}": name
    for prefix in ("/v1", "")
    for name in ("generations", "edits")
    for slash in ("", "/")
}

#: Seconds before a key's end from which on every answer announces it, refusals too.
_NEAR = 14 * 86400.0


class Observe:
    """The outermost step. settings: the config in force; ended(exchange): told once for each request."""

    def __init__(self, app: ASGIApp, *, settings: Callable[[], Settings], ended: Callable[[Exchange], None]) -> None:
        self.app = app
        self.settings = settings
        self.ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        settings = self.settings()
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        chance, caller = os.urandom(28).hex(), tracecontext.caller(headers)
        peer = scope["client"][0] if scope.get("client") else ""
        exchange = Exchange(
            id=f"req_{chance[:24]}",
            settings=settings,
            endpoint=_ENDPOINTS.get(scope["path"], "other"),
            client_ip=framing.client_address(peer, headers, settings.listen.trusted_proxies),
            headers=headers,
            began=time.monotonic(),
            trace_id=caller.trace_id if caller is not None else chance[24:],
        )
        retries = exchange.header(b"x-stainless-retry-count")
        exchange.retry_count = int(retries) if retries is not None and retries.isdigit() and len(retries) < 4 else 0

        async def counted() -> Message:
            began = time.monotonic()
            try:
                message = await receive()
            finally:  # also where a deadline has ended the waiting
                exchange.client_seconds += time.monotonic() - began
            exchange.bytes_in += len(message.get("body", b""))
            return message

        def marked(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                own = [(b"x-request-id", exchange.id.encode()), (b"cache-control", b"no-store")]
                own.append((b"x-content-type-options", b"nosniff"))
                if exchange.team is not None:
                    own.append((b"x-gateway-team", exchange.team.id.encode()))
                if exchange.key is not None and exchange.key.expires is not None:
                    own.extend(_announced(exchange.key.expires))
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            else:
                exchange.bytes_out += len(message.get("body", b""))
            return send(message)

        try:
            await self.app(exchanges.bind(scope, exchange), counted, marked)
        finally:
            exchange.ended = time.monotonic()
            self.ended(exchange)


def _announced(expires: float) -> list[tuple[bytes, bytes]]:
    """The key's end, if it is near."""
    if expires - time.time() > _NEAR:
        return []
    return [(b"x-gateway-key-expires", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires)).encode())]
