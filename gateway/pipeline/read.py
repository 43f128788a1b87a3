"""Read: the strict reading of a body. Inside it, a body is the gateway's own bytes and its end means a known order.

A generation's JSON is taken whole (it is small and bounded) and becomes the order. An edit's form is read as it
arrives: files pass on at once, re-framed between part headers of the gateway's own, texts are withheld. In both
cases the last message that the steps inside receive is empty, and the order stands on the exchange by then.
"""

import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from secrets import token_hex
from typing import Protocol, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core import framing, idempotency, jsonbody, multipart, orders
from gateway.core.errors import (
    ClientGone,
    GatewayError,
    MalformedRequest,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMediaType,
)
from gateway.core.multipart import Field, FileBegan, FileData, FormReader
from gateway.core.png import PngHead, check_mask_size
from gateway.core.pricing import price
from gateway.core.rewriting import FormWriter
from gateway.deadline import Deadline
from gateway.exchange import Exchange

_KB = 1024


class Read:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchanges.of(scope)
        _check_encoding(exchange)
        extensions = scope["extensions"]
        source = _Source(
            exchange, receive, wake=extensions["gateway.wake"], has_arrived=extensions["gateway.has_arrived"]
        )
        try:
            if exchange.endpoint == "generations":
                await self.app(scope, _json(exchange, source), send)
                return
            reading = _form(exchange, source)
            try:
                await self.app(scope, reading.__anext__, send)
            finally:
                await reading.aclose()
        finally:
            source.close()


class _Source:
    """The client's bytes, with the deadlines of `request_limits`: between two pieces and over all of them.

    Only the time counts in which a piece is waited for here. wake: makes `receive` return, if nothing else does;
    has_arrived: whether `receive` has something to return, so that nobody waits and no deadline is needed.
    """

    def __init__(
        self, exchange: Exchange, receive: Receive, *, wake: Callable[[], None], has_arrived: Callable[[], bool]
    ) -> None:
        limits = exchange.settings.limits
        self._idle, self._left = limits.body_idle_timeout, limits.body_total_timeout
        self._receive, self._wake, self._has_arrived = receive, wake, has_arrived
        self._deadline: Deadline | None = None
        self._overdue = False
        self.more = True

    async def piece(self) -> bytes:
        message = await (self._receive() if self._has_arrived() else self._waited_for())
        if self._overdue:
            raise RequestTimeout("The request's body stalled or came too slowly.")
        if message["type"] == "http.disconnect":
            raise ClientGone("The client left before its request was complete.")
        self.more = message.get("more_body", False)
        return cast("bytes", message.get("body", b""))

    async def _waited_for(self) -> Message:
        began = time.monotonic()
        if self._deadline is None:
            self._deadline = Deadline(self._give_up)
        self._deadline.begin(min(self._idle, self._left))
        message = await self._receive()
        self._deadline.end()
        self._left -= time.monotonic() - began
        return message

    def close(self) -> None:
        if self._deadline is not None:
            self._deadline.close()

    def _give_up(self) -> None:
        self._overdue = True
        self._wake()


def _message(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def _only(exchange: Exchange, name: bytes) -> bytes | None:
    """The header of this lower-case name. Of two, a proxy before us may have gone by the other."""
    values = [value for key, value in exchange.headers if key == name]
    if len(values) > 1:
        raise MalformedRequest(f"A request has one {name.decode().title()} header at most.")
    return values[0] if values else None


def _check_encoding(exchange: Exchange) -> None:
    encoding = _only(exchange, b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        raise UnsupportedMediaType("The body is sent as it is: no Content-Encoding is taken.")


def _json(exchange: Exchange, source: _Source) -> Receive:
    """Check what the head says; then the reading of the body."""
    limit = exchange.settings.limits.max_json_size
    content_type = _only(exchange, b"content-type") or b""
    if content_type != b"application/json" and not _is_json(content_type):
        raise UnsupportedMediaType("A generation is sent as application/json in UTF-8.")
    if (framing.content_length(exchange.headers) or 0) > limit:
        raise _too_large_json(limit)
    return partial(_read_json, exchange, source, limit)


def _is_json(content_type: bytes) -> bool:
    kind, _, rest = content_type.partition(b";")
    charset = rest.strip().lower().replace(b'"', b"")
    return kind.strip().lower() == b"application/json" and charset in (b"", b"charset=utf-8")


def _too_large_json(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request's JSON is larger than {limit} bytes.")


async def _read_json(exchange: Exchange, source: _Source, limit: int) -> Message:
    """All of it, and then the empty message that ends it."""
    pieces: list[bytes] = []
    size = 0
    while source.more:
        piece = await source.piece()
        size += len(piece)
        if size > limit:
            raise _too_large_json(limit)
        pieces.append(piece)
    body = jsonbody.decode(b"".join(pieces))
    try:
        order = orders.from_json(body, settings=exchange.settings, team=exchange.known(), endpoint="generations")
    except GatewayError:
        exchange.asked = orders.asked(body, settings=exchange.settings, endpoint="generations")
        raise
    _take(exchange, order)
    return _message(b"", more=False)


def _form(exchange: Exchange, source: _Source) -> AsyncGenerator[Message, None]:
    """Check what the head says; then the reading of the body."""
    settings = exchange.settings
    boundary = multipart.parse_content_type(_only(exchange, b"content-type") or b"")
    team = exchange.known()
    images = max((model.edit_max_images for model in orders.permitted_models(settings, team, "edits")), default=1)
    limits = multipart.FormLimits(
        max_image_size=settings.limits.max_image_size,
        max_prompt_chars=settings.limits.max_prompt_chars,
        max_images=images,
    )
    most = (images + 1) * limits.max_image_size + 4 * limits.max_prompt_chars + 64 * _KB * limits.max_parts
    if (framing.content_length(exchange.headers) or 0) > most:
        raise RequestTooLarge(f"An edit's body is larger than {most} bytes, more than its images and texts may be.")
    exchange.writer = FormWriter(token_hex(16), max_images=images)
    summed = hashlib.sha256 if exchange.header(b"idempotency-key") is not None else idempotency.Ends
    form = _Form(exchange.writer, exchange.digests, summed)
    return _read_form(exchange, source, FormReader(boundary, limits=limits), form)


async def _read_form(
    exchange: Exchange, source: _Source, reader: FormReader, form: "_Form"
) -> AsyncGenerator[Message, None]:
    while source.more:
        piece = await source.piece()
        out = b"".join([framed for event in reader.feed(piece) for framed in form.take(event)])
        if out:
            yield _message(out, more=True)
    reader.close()
    try:
        order = orders.from_form(form.fields, form.files, settings=exchange.settings, team=exchange.known())
    except GatewayError:
        exchange.asked = orders.asked(form.fields, settings=exchange.settings, endpoint="edits")
        raise
    _take(exchange, order)
    yield _message(b"", more=False)


class _Sum(Protocol):
    """What hashlib's digests have."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Form:
    """What has come of a form: its texts, its files' names, and the first image's and the mask's size.

    digests: where the files' names and digests are put down, which `summed` gives.
    """

    def __init__(self, writer: FormWriter, digests: list[tuple[str, str]], summed: Callable[[], _Sum]) -> None:
        self._writer = writer
        self._digests = digests
        self._summed = summed
        self._sum = summed()
        self.fields: dict[str, str] = {}
        self.files: list[str] = []
        self._head = PngHead("image")
        self._held: list[bytes] = []
        self._sizes: dict[str, tuple[int, int]] = {}

    def take(self, event: multipart.Event) -> list[bytes]:
        """The bytes that go up because of an event. A file's first bytes wait until they are known to be a PNG's."""
        if isinstance(event, Field):
            self.fields[event.name] = event.value
            return []
        if isinstance(event, FileBegan):
            self.files.append(event.name)
            self._head = PngHead("mask" if event.name == "mask" else "image")
            self._held = [self._writer.file_head(event.name)]
            self._sum = self._summed()
            return []
        if isinstance(event, FileData):
            self._sum.update(event.data)
            if self._head.size is not None:
                return [event.data]
            self._head.feed(event.data)
            self._held.append(event.data)
            if self._head.size is None:
                return []
            self._check_size(self._head.size)
            held, self._held = self._held, []
            return held
        self._head.close()
        self._digests.append((self._head.param, self._sum.hexdigest()))
        return [self._writer.file_tail()]

    def _check_size(self, size: tuple[int, int]) -> None:
        self._sizes.setdefault(self._head.param, size)
        if len(self._sizes) == 2:
            check_mask_size(self._sizes["image"], self._sizes["mask"])


def _take(exchange: Exchange, order: orders.Order) -> None:
    exchange.order = order
    exchange.model = exchange.settings.models[order.model]
    exchange.cost = price(order, exchange.model) or 0
