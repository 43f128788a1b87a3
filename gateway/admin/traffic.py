"""What the workers of this host have counted since it began, as far as the dashboard shows it."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.quantiles import quantile
from gateway.metrics import ENDPOINTS
from gateway.slots import counted

SHARES = (0.5, 0.95, 0.99)  #: the quantiles that are shown

#: Histograms by what they are called on the page.
_TIMES = {
    "gateway_request_duration_seconds": "Whole requests",
    "gateway_upstream_duration_seconds": "The upstream's part",
    "gateway_overhead_seconds": "Our own part",
}

_SAMPLES = frozenset({
    "gateway_requests_total",
    "gateway_inflight_requests",
    "gateway_inflight_limit",
    "gateway_upstream_inflight",
    "gateway_upstream_responses_total",
    "gateway_start_time_seconds",
    *(f"{name}{end}" for name in _TIMES for end in ("_bucket", "_sum")),
})  # fmt: skip


@dataclass(slots=True)
class Times:
    """One histogram of orders. buckets: upper bound in seconds -> observations in it alone; seconds: their sum."""

    buckets: Counter[float] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def quantiles(self) -> list[float | None]:
        return [quantile(self.buckets, share) for share in SHARES]


@dataclass(slots=True)
class Traffic:
    """requests: (team, outcome) -> number, of the image endpoints. responses: account -> status -> number.

    since: when the oldest worker began, unix seconds.
    """

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    responses: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    at_accounts: Counter[str] = field(default_factory=Counter)
    times: dict[str, Times] = field(default_factory=lambda: {told: Times() for told in _TIMES.values()})
    inflight: int = 0
    inflight_limit: int = 0
    since: float | None = None

    def outcomes(self, team: str | None = None) -> Counter[str]:
        """Requests by how they ended: of all teams, or of one."""
        found: Counter[str] = Counter()
        for (whose, outcome), number in self.requests.items():
            if team in (None, whose):
                found[outcome] += number
        return found

    @property
    def own_share(self) -> float | None:
        """Of the time that orders took, the share that was ours; None without any."""
        whole = self.times[_TIMES["gateway_request_duration_seconds"]].seconds
        return self.times[_TIMES["gateway_overhead_seconds"]].seconds / whole if whole else None


def read(folder: Path) -> Traffic:
    """folder: where the workers' metrics files are. With many teams it takes its time: not for the event loop."""
    traffic = Traffic()
    for name, labels, value in counted(folder, _SAMPLES):
        _add(traffic, name, labels, value)
    return traffic


def _add(traffic: Traffic, name: str, labels: Mapping[str, str], value: float) -> None:
    order = labels.get("endpoint") in ENDPOINTS
    family, _, kind = name.rpartition("_")
    if name == "gateway_start_time_seconds":
        traffic.since = min(value, traffic.since or value)
    elif name == "gateway_inflight_limit":
        traffic.inflight_limit += int(value)
    elif name == "gateway_upstream_inflight":
        traffic.at_accounts[labels["account"]] += int(value)
    elif name == "gateway_upstream_responses_total":
        traffic.responses[labels["account"]][labels["status"]] += int(value)
    elif not order:
        return  # a look at /v1/models tells nothing of what an image takes
    elif name == "gateway_requests_total":
        traffic.requests[labels["team"], labels["outcome"]] += int(value)
    elif name == "gateway_inflight_requests":
        traffic.inflight += int(value)
    elif kind == "bucket":
        traffic.times[_TIMES[family]].buckets[float(labels["le"])] += int(value)
    else:
        traffic.times[_TIMES[family]].seconds += value
