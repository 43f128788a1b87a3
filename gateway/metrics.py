"""Every collector, with its help text: contract 6.

Label values come from the config alone, anything else is `other`; all series of a config exist at 0 from the start,
so that a rate over the first event is seen. Where a worker keeps its values is the business of gateway/slots.py.
"""

import time
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway.core.catalog import Settings, Team
from gateway.core.errors import GatewayError
from gateway.core.orders import permitted_models, permitted_qualities, permitted_sizes
from gateway.core.quota import MICRO

_IMAGE = ("team", "endpoint", "model", "size", "quality")
_LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 20, 30, 40, 60, 90, 120, 180, 240, 300)
_SHORT = (0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

ENDPOINTS = ("generations", "edits")

OUTCOMES = (
    "ok", "replayed", "refused_auth", "refused_invalid", "refused_policy", "refused_quota", "overloaded",
    "store_unavailable", "upstream_unreachable", "upstream_error", "upstream_refused", "upstream_rate_limited",
    "unknown", "client_gone", "internal_error",
)  # fmt: skip


#: What the names of counters end in that workers keep in micro-dollars: a sum of many cents as floats of dollars is
#: off by a last digit.
_MONEY = "_usd"

#: Of the one counter that the master counts in, too.
RELOADS = "Changes of the config file, by whether they took effect."


class Buckets(Histogram):
    """A histogram without exemplars: five observations are on each request's path."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        del exemplar
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


class Count(Counter):
    """A counter without exemplars, whose callers add nothing negative: seven are on each request's path."""

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        del exemplar
        self._value.inc(amount)


class Level(Gauge):
    """A gauge without the library's checks: four are on each request's path."""

    def inc(self, amount: float = 1) -> None:
        self._value.inc(amount)

    def dec(self, amount: float = 1) -> None:
        self._value.inc(-amount)

    def set(self, value: float) -> None:
        self._value.set(value)


Collecting = TypeVar("Collecting", Count, Level, Buckets)


class Bound(Generic[Collecting]):
    """A collector whose children are looked up once: the library locks and converts at each look-up."""

    def __init__(self, collector: Collecting) -> None:
        self._collector: Collecting = collector
        self._children: dict[tuple[str, ...], Collecting] = {}

    def labels(self, *values: str) -> Collecting:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._collector.labels(*values)
        return child


def _codes(root: type[GatewayError]) -> Iterable[str]:
    """Every code that an answer may have."""
    for error in root.__subclasses__():
        if isinstance(error.code, str):
            yield error.code
        yield from _codes(error)


CODES = tuple(sorted({*_codes(GatewayError), "upstream_refused"}))


class Metrics:
    """The collectors of one process. Names and labels are fixed: people's dashboards hold them."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: Sequence[str]) -> Bound[Count]:
            return Bound(Count(name, text, labels, registry=registry))

        def gauge(name: str, text: str, labels: Sequence[str], mode: Any = "livesum") -> Bound[Level]:
            return Bound(Level(name, text, labels, registry=registry, multiprocess_mode=mode))

        def plain(name: str, text: str, mode: Any) -> Level:
            return Level(name, text, registry=registry, multiprocess_mode=mode)

        def histogram(name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Bound[Buckets]:
            return Bound(Buckets(name, text, labels, registry=registry, buckets=buckets))

        self.requests = counter(
            "gateway_requests_total", "Requests by how they ended.", ("team", "endpoint", "model", "outcome")
        )
        self.errors = counter("gateway_errors_total", "Answers with an error, by its code.", ("team", "code"))
        self.images = counter("gateway_images_total", "Images charged: delivered and unknown.", _IMAGE)
        self.images_unknown = counter(
            "gateway_images_unknown_total", "Images charged whose delivery nobody can know.", _IMAGE
        )
        self.images_refunded = counter("gateway_images_refunded_total", "Images reserved and given back.", _IMAGE)
        self.cost = counter("gateway_image_cost_usd_total", "Dollars charged for images.", _IMAGE)
        self.cost_unknown = counter(
            "gateway_image_cost_unknown_usd_total", "Dollars charged for images that may not have been made.", _IMAGE
        )
        self.refusals = counter(
            "gateway_quota_refusals_total",
            "Orders refused by a rule, or that a shadow rule would have refused.",
            ("team", "rule", "per", "mode"),
        )
        self.auth_failures = counter(
            "gateway_auth_failures_total",
            "Credentials not accepted, by the reason that is not told.",
            ("reason", "team"),
        )
        self.request_seconds = histogram(
            "gateway_request_duration_seconds",
            "Whole requests, as the client sees them.",
            ("endpoint", "outcome"),
            _LONG,
        )
        self.upstream_seconds = histogram(
            "gateway_upstream_duration_seconds",
            "From the closing bytes to the answer's end.",
            ("endpoint", "model"),
            _LONG,
        )
        self.overhead_seconds = histogram(
            "gateway_overhead_seconds", "Our own time: without the client's and the upstream's.", ("endpoint",), _SHORT
        )
        self.inflight = gauge("gateway_inflight_requests", "Requests being worked on.", ("endpoint",))
        self.inflight_limit = plain("gateway_inflight_limit", "Requests that all workers may hold.", "livesum")
        self.upload_bytes = counter("gateway_upload_bytes_total", "Bytes of request bodies received.", ("endpoint",))
        self.client_retries = counter(
            "gateway_client_retries_total", "Requests that a client's SDK says it sends again.", ("endpoint",)
        )
        self.upstream_responses = counter(
            "gateway_upstream_responses_total",
            "Upstream answers by exact status, or timeout, cut, connect_error.",
            ("account", "status"),
        )
        self.upstream_inflight = gauge(
            "gateway_upstream_inflight", "Requests in flight at an upstream account.", ("account",)
        )
        self.store_up = plain("gateway_store_up", "0 if any worker finds the store away.", "livemin")
        self.store_info = gauge("gateway_store_info", "What kind of store it is.", ("kind",), mode="livemax")
        self.store_errors = counter("gateway_store_errors_total", "Store calls without an answer.", ("operation",))
        self.store_seconds = histogram("gateway_store_duration_seconds", "Store calls.", ("operation",), _SHORT)
        self.expired = counter(
            "gateway_reservations_expired_total", "Charges presumed because nobody ended them in time.", ("team",)
        )
        self.unmetered = counter(
            "gateway_unmetered_requests_total", "Requests let through while the store was away.", ("team",)
        )
        self.config_reloads = counter("gateway_config_reloads_total", RELOADS, ("result",))
        self.config_success = plain(
            "gateway_config_last_reload_successful", "1 if the config file last read is in force.", "livemin"
        )
        self.config_time = plain(
            "gateway_config_last_reload_success_timestamp_seconds", "When the config in force was read.", "livemax"
        )
        self.build_info = gauge("gateway_build_info", "The gateway's version.", ("version",), mode="livemax")
        self.start_time = plain("gateway_start_time_seconds", "When the oldest worker started.", "livemin")

    def reloaded(self, settings: Settings) -> None:
        """A config is in force from now on."""
        self.prime(settings)
        self.config_success.set(1)
        self.config_time.set(time.time())
        self.inflight_limit.set(settings.limits.max_inflight_per_worker)

    def prime(self, settings: Settings) -> None:
        """Make every series that this config can have exist, at 0."""
        for team in settings.teams.values():
            self._prime_team(settings, team)
        for code in CODES:
            self.errors.labels("none", code)
        for endpoint in (*ENDPOINTS, "other"):
            for outcome in OUTCOMES:
                self.requests.labels("none", endpoint, "none", outcome)
                self.request_seconds.labels(endpoint, outcome)
            for collector in (self.inflight, self.upload_bytes, self.client_retries, self.overhead_seconds):
                collector.labels(endpoint)
        for rule in settings.organization:
            self.refusals.labels(rule.scope, rule.name, rule.per or "now", rule.mode)
        for reason in ("missing", "malformed", "unknown", "expired", "token_invalid", "token_expired", "token_revoked"):
            self.auth_failures.labels(reason, "none")
        self._prime_parts(settings)

    def _prime_parts(self, settings: Settings) -> None:
        for model in settings.models.values():
            for endpoint in model.endpoints:
                self.upstream_seconds.labels(endpoint, model.alias)
        for account in settings.upstream.accounts:
            self.upstream_inflight.labels(account.name)
            for status in ("200", "timeout", "cut", "connect_error"):
                self.upstream_responses.labels(account.name, status)
        for operation in ("admit", "reserve", "settle", "beat", "usage", "remember", "administer", "refusals"):
            self.store_errors.labels(operation)
            self.store_seconds.labels(operation)
        for result in ("success", "failure"):
            self.config_reloads.labels(result)
        self.store_info.labels(settings.store.kind).set(1)

    def _prime_team(self, settings: Settings, team: Team) -> None:
        self.expired.labels(team.id)
        self.unmetered.labels(team.id)
        named = {(endpoint, "none") for endpoint in (*ENDPOINTS, "other")}
        for labels in image_labels(settings, team):
            named.add((labels[1], labels[2]))
            for collector in (self.images, self.images_unknown, self.images_refunded, self.cost, self.cost_unknown):
                collector.labels(*labels)
        self._prime_requests(settings, team, named)
        for code in CODES:
            self.errors.labels(team.id, code)
        for reason in ("expired", "token_revoked"):
            self.auth_failures.labels(reason, team.id)
        for rule in team.rules:
            self.refusals.labels(rule.scope, rule.name, rule.per or "now", rule.mode)

    def _prime_requests(self, settings: Settings, team: Team, named: Collection[tuple[str, str]]) -> None:
        for endpoint, model in named:
            for outcome in OUTCOMES:
                self.requests.labels(team.id, endpoint, model, outcome)
        for endpoint in ENDPOINTS:  # for what it may not order, and for what there is not
            for model in settings.models:
                if (endpoint, model) not in named:
                    for outcome in ("refused_policy", "refused_invalid"):
                        self.requests.labels(team.id, endpoint, model, outcome)
            self.requests.labels(team.id, endpoint, "other", "refused_invalid")


def image_labels(settings: Settings, team: Team) -> Iterable[tuple[str, str, str, str, str]]:
    """team, endpoint, model, size, quality of every image that the team may order."""
    for endpoint in ENDPOINTS:
        for model in permitted_models(settings, team, endpoint):  # type: ignore[arg-type]  # a literal of Endpoint
            for size in permitted_sizes(model, team):
                for quality in permitted_qualities(model, team, endpoint):  # type: ignore[arg-type]  # see above
                    yield team.id, endpoint, model.alias, size, quality


class Readings(Collector):
    """Gauges, or counters by their name, read for one scrape: (name, help, labels, [(label values, value), ...])."""

    def __init__(
        self, families: Sequence[tuple[str, str, Sequence[str], Sequence[tuple[Sequence[str], float]]]]
    ) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for name, text, labels, samples in self._families:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, text, labels=labels)
            for label_values, value in samples:
                family.add_metric(label_values, value)
            yield family


class _Counted(Collector):
    """What all workers counted, money as dollars."""

    def __init__(self, folder: Path) -> None:
        self._files: Collector = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        for family in self._files.collect():
            if family.type == "counter" and family.name.endswith(_MONEY):
                family.samples = [sample._replace(value=sample.value / MICRO) for sample in family.samples]
            yield family


def exposition(folder: Path, readings: Readings, accept: str) -> tuple[bytes, str]:
    """The text of /metrics and its content type. folder: where all workers write."""
    registry = CollectorRegistry()
    registry.register(_Counted(folder))
    registry.register(readings)
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
