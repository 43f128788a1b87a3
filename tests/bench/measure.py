"""One measure: one variant under one load, from idle to idle."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench import client
from tests.bench.processes import MEASURED_CORE, Tree, busy_seconds
from tests.bench.scenarios import Scenario
from tests.bench.upstream import Upstream
from tests.bench.variants import Variant

_WARM_UP = 0.3
_FEW = 16  #: connections of the warm-up: the slowest would take long to end with all of them


@dataclass(frozen=True, slots=True)
class Sample:
    """rate: requests a second, or MB (10^6 bytes) a second where the payload is large. Latencies in microseconds.

    cpu: microseconds of the variant's own processes for each request that reached the upstream; store: of its store, on
    the load's core. rss: megabytes of all its own processes at the peak. others: share of the measured core's time that
    went to processes of somebody else.
    """

    rate: float
    p50: float
    p99: float
    cpu: float
    store: float
    rss: float
    others: float


@dataclass(frozen=True, slots=True)
class Bench:
    upstream: Upstream
    folder: Path
    seconds: float

    def measure(self, scenario: Scenario, variant: Variant, connections: int) -> Sample:
        variant.wake()
        try:
            return self._measure(scenario, variant, connections)
        finally:
            variant.rest()

    def _measure(self, scenario: Scenario, variant: Variant, connections: int) -> Sample:
        request, port = scenario.request(variant), variant.ports[scenario.name]
        length = client.ask(port, request)
        if length < scenario.answer:
            raise client.LoadError(f"{variant.name} answers {length} bytes, less than {scenario.answer}")
        client.drive(port, request, length=length, connections=min(connections, _FEW), seconds=_WARM_UP)
        variant.settle()
        seen, cpu, store = self.upstream.seen(), _cpu(variant.tree), _cpu(variant.store)
        if variant.tree is not None:
            variant.tree.forget_peak()
        began, busy = time.monotonic(), busy_seconds(MEASURED_CORE)
        if scenario.name == "generations" and client.has_wrk():
            load = client.drive_wrk(
                port, request, length=length, connections=connections, seconds=self.seconds, folder=self.folder
            )
        else:
            load = client.drive(port, request, length=length, connections=connections, seconds=self.seconds)
        own, took = _cpu(variant.tree) - cpu, time.monotonic() - began
        others = max(0.0, busy_seconds(MEASURED_CORE) - busy - own) / took
        variant.settle()
        now = self.upstream.seen()
        reached = now.requests - seen.requests
        self._check(scenario, load, reached, now.body_bytes - seen.body_bytes)
        per_request = scenario.payload / 1e6 or 1.0
        return Sample(
            rate=load.requests * per_request / load.seconds,
            p50=load.p50,
            p99=load.p99,
            cpu=(_cpu(variant.tree) - cpu) / reached * 1e6,
            store=(_cpu(variant.store) - store) / reached * 1e6,
            rss=variant.tree.peak_rss() if variant.tree is not None else 0.0,
            others=others,
        )

    def _check(self, scenario: Scenario, load: client.Load, reached: int, body_bytes: int) -> None:
        """The upstream's own count: every answer must have cost a request there, with its whole payload."""
        if reached < load.requests:
            raise client.LoadError(f"{load.requests} answers, but the upstream saw {reached} requests")
        if scenario.name == "edits" and body_bytes < reached * scenario.payload:
            raise client.LoadError(f"{reached} edits brought the upstream no more than {body_bytes} bytes")


def _cpu(tree: Tree | None) -> float:
    return tree.cpu_seconds() if tree is not None else 0.0


#: Samples by (scenario's title, connections, variant), one of each round.
Results = dict[tuple[str, int, str], list[Sample]]


def dump(results: Mapping[tuple[str, int, str], list[Sample]]) -> str:
    rows = [
        {"scenario": title, "connections": connections, "variant": variant, "round": i + 1}
        | {name: getattr(sample, name) for name in Sample.__slots__}
        for (title, connections, variant), samples in results.items()
        for i, sample in enumerate(samples)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)
