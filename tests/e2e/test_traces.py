"""Traces: what a collector of OTLP over HTTP is sent by a real gateway, and what one that does not answer costs."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.simulator.script import Behaviour
from tests.e2e import wire
from tests.support.running import Running, base_config, running_gateway
from tests.support.simulated import running_simulator
from tests.support.site import Site, wait_until

PROMPT = "a very private lighthouse"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

SERVER, CLIENT, ERROR = 2, 3, 2  # as the protocol has them


@dataclass
class Span:
    """As it came. Times in unix nanoseconds, ids in hexadecimal."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    began: int
    ended: int
    status: int
    facts: dict[str, Any]
    resource: dict[str, Any]


@dataclass
class Collector:
    """silent: takes requests and says nothing till it is released."""

    url: str
    silent: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    raw: list[bytes] = field(default_factory=list)

    def spans(self, trace: str) -> list[Span]:
        return [span for body in list(self.raw) for span in _read(body) if span.trace == trace]


def _plain(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def _read(body: bytes) -> Iterator[Span]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = {item.key: _plain(item.value) for item in group.resource.attributes}
        for scope in group.scope_spans:
            for span in scope.spans:
                facts = {item.key: _plain(item.value) for item in span.attributes}
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                times = (span.start_time_unix_nano, span.end_time_unix_nano)
                yield Span(span.name, span.kind, *ids, *times, span.status.code, facts, resource)


@contextlib.contextmanager
def collecting(*, silent: bool = False) -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.asked += 1
            if silent:
                collector.silent.wait(60)
            if self.path == "/v1/traces":
                collector.raw.append(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield collector
        finally:
            collector.silent.set()
            server.shutdown()


@contextlib.contextmanager
def tracing(url: str, *, every: int = 50, workers: int = 1, more: Mapping[str, str] | None = None) -> Iterator[Site]:
    """every: milliseconds between two sendings. more: of the environment."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": str(every), **(more or {})}
    with running_simulator() as simulator:
        config = base_config(upstream=simulator.base_url, workers=workers)
        with running_gateway(config=config, environ=environ) as gateway:
            yield Site(gateway, simulator)


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[Site, Collector]]:
    with collecting() as collector, tracing(collector.url, workers=2) as site:
        yield site, collector


def trace_of(gateway: Running, request_id: str | None) -> str:
    (line,) = wait_until(lambda: [line for line in gateway.requests_logged() if line["request_id"] == request_id])
    return str(line["trace_id"])


def spans(collector: Collector, trace: str, number: int) -> list[Span]:
    wait_until(lambda: len(collector.spans(trace)) >= number)
    return sorted(collector.spans(trace), key=lambda span: span.kind)


def test_a_request_is_part_of_its_callers_trace(traced: tuple[Site, Collector]) -> None:
    """A span under the caller's for the request and one under that for the upstream, with times that nest and what the
    conventions name; neither prompt nor key is sent.
    """
    site, collector = traced
    site.simulator.script(Behaviour(latency=0.2))
    began = time.time_ns()
    line = f"traceparent: 00-{TRACE}-{SPAN}-01"
    answer = wire.ask(site.gateway.url, wire.generation(site.key(), line, prompt=PROMPT, n=2))
    ended = time.time_ns()
    assert answer.status == 200
    server, client = spans(collector, TRACE, 2)
    assert (server.kind, server.name, server.parent) == (SERVER, "POST /v1/images/generations", SPAN)
    assert (client.kind, client.name, client.parent) == (CLIENT, "POST", server.span)
    assert began - 5_000_000 <= server.began <= client.began < client.ended <= server.ended <= ended + 500_000_000
    assert client.ended - client.began >= 200_000_000
    order = {"gateway.model": "dall-e-3", "gateway.size": "1024x1024", "gateway.quality": "standard", "gateway.n": 2}
    assert server.facts == {
        "http.request.method": "POST",
        "http.route": "/v1/images/generations",
        "http.response.status_code": 200,
        "gateway.request_id": answer.header("x-request-id"),
        "gateway.team": "free",
        "gateway.key_id": "test",
        "gateway.outcome": "ok",
        "gateway.images": 2,
        "gateway.cost_usd": 0.08,
        **order,
    }
    host, port = site.simulator.base_url.removeprefix("http://").removesuffix("/v1").split(":")
    assert client.facts == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": host,
        "server.port": int(port),
        "gateway.account": "main",
    }
    assert (server.status, client.status) == (0, 0)
    assert server.resource["service.name"] == "image-gateway"
    sent = b"".join(collector.raw)
    assert PROMPT.encode() not in sent
    assert site.key().encode() not in sent


def test_without_a_caller_the_trace_is_the_logs(traced: tuple[Site, Collector]) -> None:
    """A request of no trace begins one, under the id that its log line has, be its header malformed or not there."""
    site, collector = traced
    seen = set()
    for lines in ((), (f"traceparent: 00-{TRACE}-{SPAN}-01-x",)):
        answer = wire.ask(site.gateway.url, wire.generation(site.key(), *lines))
        trace = trace_of(site.gateway, answer.header("x-request-id"))
        server, _ = spans(collector, trace, 2)
        assert server.parent == ""
        seen.add(trace)
    assert len(seen | {TRACE}) == 3


def test_what_went_wrong_is_told(traced: tuple[Site, Collector]) -> None:
    """A refusal is no error of ours and has no span of the upstream; a lost answer is one of the upstream's."""
    site, collector = traced
    answer = wire.ask(site.gateway.url, wire.generation("not-a-key"))
    (server,) = spans(collector, trace_of(site.gateway, answer.header("x-request-id")), 1)
    assert (server.status, server.facts["error.type"], server.facts["gateway.team"]) == (0, "invalid_api_key", "none")
    answer = wire.ask(site.gateway.url, wire.generation(site.key(), n=0, quality="hd"))
    (server,) = spans(collector, trace_of(site.gateway, answer.header("x-request-id")), 1)
    asked = [server.facts[f"gateway.{name}"] for name in ("team", "model", "size", "quality", "n")]
    assert asked == ["free", "dall-e-3", "1024x1024", "hd", 0]
    site.simulator.script(Behaviour(fault="drop"))
    answer = wire.ask(site.gateway.url, wire.generation(site.key()))
    server, client = spans(collector, trace_of(site.gateway, answer.header("x-request-id")), 2)
    assert (server.facts["error.type"], client.facts["error.type"]) == ("upstream_outcome_unknown", "cut")
    assert client.status == ERROR
    site.simulator.script(Behaviour(status=500))
    answer = wire.ask(site.gateway.url, wire.generation(site.key()))
    server, client = spans(collector, trace_of(site.gateway, answer.header("x-request-id")), 2)
    assert (server.status, client.facts["error.type"]) == (ERROR, "500")


def test_what_the_caller_does_not_record_is_not_sent(traced: tuple[Site, Collector]) -> None:
    """A caller's flag that says "not recorded" is followed."""
    site, collector = traced
    quiet = "1" * 32
    assert wire.ask(site.gateway.url, wire.generation(site.key(), f"traceparent: 00-{quiet}-{SPAN}-00")).status == 200
    answer = wire.ask(site.gateway.url, wire.generation(site.key()))
    spans(collector, trace_of(site.gateway, answer.header("x-request-id")), 2)
    assert not collector.spans(quiet)


def test_the_last_spans_are_sent_at_the_end() -> None:
    """What waits to be sent together goes out when the gateway leaves."""
    with collecting() as collector:
        with tracing(collector.url, every=600_000) as site:
            assert wire.ask(site.gateway.url, wire.generation(site.key(), f"traceparent: 00-{TRACE}-{SPAN}-01"))
            assert not collector.raw
        assert len(collector.spans(TRACE)) == 2


@pytest.mark.parametrize("gone", [False, True], ids=["says nothing", "is not there"])
def test_a_collector_that_fails_costs_nothing(gone: bool) -> None:
    """Requests are answered as ever, and the gateway ends in order and in its time."""
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collecting(silent=True))
        site = stack.enter_context(tracing("http://127.0.0.1:9" if gone else collector.url))
        for _ in range(3):
            assert wire.ask(site.gateway.url, wire.generation(site.key())).status == 200
        if not gone:
            wait_until(lambda: collector.asked)
        assert wire.ask(site.gateway.url, wire.generation(site.key())).status == 200
        assert _seconds(site.gateway.stop) < 10
        assert site.made == 4


def test_who_asks_for_none_loads_nothing() -> None:
    """Without a collector's address in the environment nothing that sends is imported."""
    look = (
        "import os, sys; from gateway import traces, worker; made = traces.begun({}); "
        "print(type(made).__name__, {'gateway.otel', 'opentelemetry.exporter'} & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True)
    assert told.stdout == "Untraced set()\n"


@pytest.mark.parametrize(
    "setting",
    [{"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100000"}],
    ids=["told to send none", "more in a batch than can wait"],
)
def test_orders_are_made_where_traces_cannot_be(setting: dict[str, str]) -> None:
    """An environment that forbids traces, or has a variable that the library refuses, costs the traces and no more."""
    with collecting() as collector:
        with tracing(collector.url, more=setting) as site:
            assert wire.ask(site.gateway.url, wire.generation(site.key())).status == 200
        assert collector.asked == 0


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
