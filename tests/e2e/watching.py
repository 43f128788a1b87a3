"""A gateway that is watched from outside: what its counters, its log and a team's own usage say of each request.

`Watched.counters` waits until no more requests are in flight than it is told, so two readings around a request differ
by that request alone, and a test can say of all counters together what has changed and that nothing else has.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from tests.e2e import wire
from tests.e2e.wire import Answer
from tests.support.running import SECRETS, Running
from tests.support.simulated import SimulatorThread
from tests.support.site import wait_until

#: A series: its name and its labels.
Series = tuple[str, frozenset[tuple[str, str]]]
Counters = Mapping[Series, float]

#: What a request may change. Store and latency series are no facts about one request.
WATCHED = frozenset(
    {
        "gateway_requests_total",
        "gateway_errors_total",
        "gateway_images_total",
        "gateway_images_unknown_total",
        "gateway_images_refunded_total",
        "gateway_image_cost_usd_total",
        "gateway_image_cost_unknown_usd_total",
        "gateway_quota_used",
        "gateway_quota_refusals_total",
        "gateway_period_images",
        "gateway_period_cost_usd",
        "gateway_auth_failures_total",
        "gateway_upstream_responses_total",
        "gateway_unmetered_requests_total",
        "gateway_reservations_expired_total",
    }
)

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def series(name: str, **labels: str) -> Series:
    return name, frozenset(labels.items())


def changes(before: Counters, after: Counters) -> dict[Series, float]:
    """What differs, by how much; money is rounded to the micro-dollar."""
    differences = {each: round(after.get(each, 0.0) - before.get(each, 0.0), 6) for each in {*before, *after}}
    return {each: difference for each, difference in differences.items() if difference}


@dataclass(frozen=True, slots=True)
class Watched:
    gateway: Running
    simulator: SimulatorThread

    @property
    def url(self) -> str:
        return self.gateway.url

    def key(self, team: str) -> str:
        return SECRETS[team]

    def counters(self, *, held: int = 0) -> Counters:
        """All watched series that are not 0, once no more than `held` image requests are in flight.

        Without what is used of a minute, for that falls by itself.
        """
        found: dict[Series, float] = {}

        def quiet() -> bool:
            found.clear()
            inflight = 0.0
            for name, labels, value in _SAMPLE.findall(self._metrics()):
                if name == "gateway_inflight_requests":
                    inflight += float(value)
                elif name in WATCHED and float(value) and not (name == "gateway_quota_used" and "minute" in labels):
                    found[name, frozenset(_LABEL.findall(labels))] = float(value)
            return inflight <= held

        wait_until(quiet)
        if any(("unit", "concurrent") in labels for _, labels in found):
            # A scrape asks the store before it reads the workers' files: the request may have ended in between.
            assert quiet()
        return found

    def used(self, team: str) -> dict[str, float]:
        """What the team itself is told to have used of each of its rules."""
        usage = self.usage(team)
        return {rule["rule"]: rule["used"] for rule in usage["rules"]}

    def usage(self, team: str) -> dict[str, Any]:
        answer = self.get("/v1/usage", team)
        assert answer.status == 200, answer.body
        return answer.json()

    def get(self, path: str, team: str) -> Answer:
        return wire.ask(self.url, wire.head(path, key=self.key(team), method="GET", content_type=None))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels, now."""
        samples = _SAMPLE.findall(self._metrics())
        return sum(
            float(value)
            for found, text, value in samples
            if found == name and labels.items() <= dict(_LABEL.findall(text)).items()
        )

    def _metrics(self) -> str:
        answer = wire.ask(self.gateway.admin_url, wire.head("/metrics", key=None, method="GET", content_type=None))
        assert answer.status == 200
        return answer.body.decode()

    def lines(self, **facts: object) -> list[dict[str, Any]]:
        """The log's lines that have these facts."""
        parsed = [json.loads(line) for line in self.gateway.log_text().splitlines() if line.startswith("{")]
        return [line for line in parsed if facts.items() <= line.items()]

    def request_line(self, request_id: str) -> dict[str, Any]:
        """The log's one line on a request."""
        wait_until(lambda: self.lines(event="request", request_id=request_id))
        (line,) = self.lines(event="request", request_id=request_id)
        return line

    def worker(self) -> int:
        """The process id of the one worker."""
        (pid,) = [
            int(pid)
            for pid in _text(f"/proc/{self.gateway.pid}/task/{self.gateway.pid}/children").split()
            if "gateway" in _text(f"/proc/{pid}/cmdline")
            and "valkey" not in _text(f"/proc/{pid}/cmdline").split("\0")[0]
        ]
        return pid


@cache
def noon_zone() -> str:
    """A zone in which it is about noon, so that no window of a calendar ends while tests run; one for the whole run."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        return file.read()
