"""Our edge of uvicorn's HTTP/1.1 protocol: what neither gunicorn nor uvicorn has, on each connection.

a deadline for a request's head, from the connection or the last answer on
bounds on the head's size, and on the number of its headers
the error shape of the gateway for heads that are no HTTP at all
`abort`, for an answer that must not end cleanly
which listener a connection came in by
"""

import asyncio
import json
from secrets import token_hex
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.core.errors import GatewayError, MalformedRequest, RequestTimeout

_MAX_HEADERS = 128
_MAX_HEAD = 64 * 1024

#: Seconds that an idle connection is left open when the worker leaves: a request may be on its way on it.
_LINGER = 1.0


class HeadTooLarge(Exception):
    """Raised within the parser, which gives up the connection."""


class Protocol(HttpToolsProtocol):
    """config has `admin_app`, `admin_address`, `settings` and `readiness` beside uvicorn's own."""

    _head_deadline: asyncio.TimerHandle | None = None
    _head_size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._left: asyncio.Future[None] = self.loop.create_future()
        config: Any = self.config
        if self.server == config.admin_address or self._is_admin_port(config.admin_address):
            self.app = config.admin_app
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        if not self._left.done():
            self._left.set_result(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Between two requests only the keep-alive limit runs; with the first byte of a head its own begins.
        if self._head_deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_size = 0
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # extensions are ours to name
        scope["extensions"] = {"gateway.abort": self.abort, "gateway.left": self._left}

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value))
        if len(self.headers) >= _MAX_HEADERS:
            raise HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._forget_head()
        super().on_headers_complete()
        config: Any = self.config
        if config.readiness.draining:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LINGER, self._leave_if_idle)
        else:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        del msg
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            # Another answer is on its way: these bytes would stand in the middle of it.
            self.abort()
            return
        self._refuse(MalformedRequest("The request is not valid HTTP/1.1, or its head is too large."))

    def abort(self) -> None:
        """End the connection so that its last answer is seen to be incomplete."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport is not None:
            self.transport.abort()

    def _is_admin_port(self, address: tuple[str, int]) -> bool:
        host, port = address
        return host in ("0.0.0.0", "::") and self.server is not None and self.server[1] == port

    def _leave_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _grow(self, size: int) -> None:
        self._head_size += size
        if self._head_size > _MAX_HEAD:
            raise HeadTooLarge

    def _expect_head(self) -> None:
        config: Any = self.config
        self._head_deadline = self.loop.call_later(config.settings().limits.header_timeout, self._head_overdue)

    def _forget_head(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _head_overdue(self) -> None:
        self._head_deadline = None
        if self.headers:
            self._refuse(RequestTimeout("The request's head did not come in time."))
        else:
            self.transport.close()

    def _refuse(self, error: GatewayError) -> None:
        body = json.dumps(error.body()).encode()
        head = (
            STATUS_LINE[error.status] + b"content-type: application/json\r\ncache-control: no-store\r\n"
            b"connection: close\r\ncontent-length: %d\r\nx-request-id: req_%s\r\n\r\n"
            % (len(body), token_hex(12).encode())
        )
        self.transport.write(head + body)
        self.transport.close()
