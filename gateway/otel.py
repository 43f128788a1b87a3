"""Traces by OpenTelemetry: the one part of the gateway that needs the extra `otel`.

A request's spans are made when it has ended, from the times that it has gathered: its path knows nothing of them and
waits for none. They go out in a thread of the library's, which drops what a collector that is away or slow does not
take. What is read of the environment: opentelemetry.io, "SDK Environment Variables" and "OTLP Exporter".
"""

import asyncio
import threading
import time
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from gateway import __version__
from gateway.core import tracecontext
from gateway.core.quota import MICRO
from gateway.exchange import Exchange

_SERVICE = "image-gateway"

#: Seconds that a leaving worker waits for its last spans to be taken.
_LAST = 3.0

_ROUTES = {"generations": "/v1/images/generations", "edits": "/v1/images/edits"}


class Traces:
    """One worker's. It has threads, so it is made after the fork."""

    def __init__(self) -> None:
        self._ids = _Ids()
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):  # nobody has named it
            resource = resource.merge(Resource({"service.name": _SERVICE}))
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("gateway", __version__)

    def note(self, exchange: Exchange) -> None:
        """A request has ended: a span for it, and one inside it from its closing bytes to the answer's end."""
        wall = time.time() - time.monotonic()
        route = _ROUTES.get(exchange.endpoint)
        self._ids.trace_id = int(exchange.trace_id, 16)
        span = self._tracer.start_span(
            f"POST {route}" if route is not None else "HTTP",
            context=_parent(exchange),
            kind=SpanKind.SERVER,
            attributes=_facts(exchange, route),
            start_time=_nanoseconds(wall + exchange.began),
        )
        if span.is_recording() and exchange.upstream_began:
            self._upstream(span, exchange, wall)
        if exchange.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(wall + exchange.ended))

    async def close(self) -> None:
        """Send what is left, if it is taken soon."""
        # In a thread that nobody waits for at the end: a collector that hangs must not keep the worker.
        leaving = threading.Thread(target=self._provider.shutdown, daemon=True)
        leaving.start()
        await asyncio.to_thread(leaving.join, _LAST)

    def _upstream(self, span: Span, exchange: Exchange, wall: float) -> None:
        status, failure = exchange.upstream_status, exchange.sent.failure if exchange.sent is not None else None
        address = urlsplit(exchange.settings.upstream.base_url)
        facts: dict[str, str | int] = {"http.request.method": "POST", "server.address": address.hostname or ""}
        facts["server.port"] = address.port or (443 if address.scheme == "https" else 80)
        if exchange.account is not None:
            facts["gateway.account"] = exchange.account.name
        if status is not None:
            facts["http.response.status_code"] = status
        if failure is not None or (status is not None and status >= 400):
            facts["error.type"] = failure or str(status)
        inner = self._tracer.start_span(
            "POST",
            context=set_span_in_context(span, Context()),
            kind=SpanKind.CLIENT,
            attributes=facts,
            start_time=_nanoseconds(wall + exchange.upstream_began),
        )
        if "error.type" in facts:
            inner.set_status(Status(StatusCode.ERROR))
        inner.end(_nanoseconds(wall + exchange.upstream_began + exchange.upstream_seconds))


class _Ids(RandomIdGenerator):
    """A trace that begins here has the id that the log gives it."""

    trace_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id


def _parent(exchange: Exchange) -> Context:
    caller = tracecontext.caller(exchange.headers)
    if caller is None:
        return Context()
    trace_id, span_id = int(caller.trace_id, 16), int(caller.span_id, 16)
    seen = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(caller.flags))
    return set_span_in_context(NonRecordingSpan(seen), Context())


def _facts(exchange: Exchange, route: str | None) -> dict[str, str | int | float]:
    """By OpenTelemetry's conventions for HTTP, and our own under `gateway.`. No word of a client's is among them."""
    facts: dict[str, str | int | float] = {
        "http.request.method": "POST" if route is not None else "_OTHER",
        "http.response.status_code": exchange.status,
        "gateway.request_id": exchange.id,
        "gateway.team": exchange.whose,
        "gateway.outcome": exchange.outcome,
    }
    if route is not None:
        facts["http.route"] = route
    if exchange.error is not None:
        error = exchange.error  # an upstream's own code is its word, not ours
        facts["error.type"] = (error.code if error.outcome != "upstream_refused" else None) or error.outcome
    if exchange.key is not None:
        facts["gateway.key_id"] = exchange.key.id
    for name in ("model", "size", "quality", "n"):
        if (value := getattr(exchange.named, name)) is not None:
            facts[f"gateway.{name}"] = value
    if exchange.settlement is not None:
        facts["gateway.images"] = exchange.settlement.images
        facts["gateway.cost_usd"] = exchange.settlement.cost / MICRO
    return facts


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
