"""What a row of the error table promises, and the check of one request against all of it."""

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from gateway.core.errors import GatewayError, UpstreamRefused
from gateway.simulator.script import Behaviour
from tests.e2e import wire
from tests.e2e.watching import Series, Watched, changes, series
from tests.e2e.wire import Answer

PROMPT = "a lighthouse made of umbrellas"  #: must never stand in a log

PRICE = 0.04  #: dollars an image of what rows order

CONTACT = "image-gateway@example.com"  #: the config's own

#: A header's value, a check of it, or None where it must be absent.
Header = str | Callable[[str | None], bool] | None

#: Headers that tell a client what to do next; a row that does not name one says that it is absent.
ADVICE = ("retry-after", "x-should-retry", "www-authenticate", "allow", "x-gateway-cost-usd")


@dataclass(frozen=True, slots=True)
class Charged:
    """What one request leaves: images charged (and how many of them as unknown), images refunded, requests."""

    images: int = 0
    unknown: int = 0
    refunded: int = 0
    requests: int = 0


NOTHING = Charged()
GIVEN_BACK = Charged(refunded=1, requests=1)
UNKNOWN = Charged(images=1, unknown=1, requests=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request and everything that is to be seen of it.

    when: the row's name. on: the fixture of its gateway. prepare: what comes before, held till after the request;
    held: how many requests are in flight by that. known: the team is recognized; ordered: so is the model. upstream:
    the label of its answer. reached: whether the upstream got a whole request, by its own record; without, where a
    request was charged. metric: the label of gateway_errors_total where it is not the code. refusing: rules that
    refuse, as (scope, name, per). more: further series. log: further facts of the log's line.
    """

    when: str
    error: type[GatewayError]
    send: Callable[[Watched], Answer]
    status: int
    type: str
    code: str | None
    outcome: str
    says: str
    param: str | None = None
    extra: frozenset[str] = frozenset()
    headers: Mapping[str, Header] = field(default_factory=dict)
    on: str = "roomy"
    team: str = "plain"
    endpoint: str = "generations"
    model: str = "dall-e-3"
    known: bool = True
    ordered: bool = True
    script: tuple[Behaviour, ...] = ()
    prepare: Callable[[Watched, ExitStack], None] | None = None
    held: int = 0
    charged: Charged = NOTHING
    upstream: str | None = None
    reached: bool | None = None
    metric: str | None = None
    refusing: tuple[tuple[str, str, str], ...] = ()
    more: Mapping[Series, float] = field(default_factory=dict)
    log: Mapping[str, object] = field(default_factory=dict)

    def check(self, watched: Watched) -> Answer:
        """Send it, and compare all there is to be seen."""
        with ExitStack() as held:
            if self.prepare is not None:
                self.prepare(watched, held)
            before = watched.counters(held=self.held)
            complete = watched.simulator.record.totals.complete
            watched.simulator.script(*self.script)
            answer = self.send(watched)
            after = watched.counters(held=self.held)
        if self.held:
            watched.counters()  # what was held is over before the next row begins
        self._check_answer(answer)
        reached = self.charged.requests > 0 if self.reached is None else self.reached
        assert watched.simulator.record.totals.complete - complete == reached
        assert changes(before, after) == self._expected()
        self._check_log(watched, answer)
        return answer

    def _check_answer(self, answer: Answer) -> None:
        error = answer.error
        assert (answer.status, error["type"], error["code"]) == (self.status, self.type, self.code)
        assert error["param"] == self.param
        assert error.keys() == {"message", "type", "param", "code", *self.extra}
        assert re.search(self.says, error["message"]), error["message"]
        assert error["message"].endswith(f" Ask {CONTACT}") == self._names_contact(), error["message"]
        assert re.fullmatch(r"req_[0-9a-f]{24}", answer.header("x-request-id") or "")
        assert answer.header("content-type") == "application/json"
        assert answer.header("cache-control") == "no-store"
        assert answer.header("x-gateway-team") == (self.team if self.known else None)
        for name in ADVICE:
            self._check_header(name, answer.header(name))

    def _names_contact(self) -> bool:
        """Who is refused by a key, a permission or a quota of the config's is told whom to ask."""
        return self.status in (401, 403) or "quota" in self.extra

    def _check_header(self, name: str, value: str | None) -> None:
        wanted = self.headers.get(name)
        assert wanted(value) if callable(wanted) else value == wanted, (name, value)

    def _expected(self) -> dict[Series, float]:
        """Every change of a watched series."""
        team = self.team if self.known else "none"
        model = self.model if self.ordered else "none"
        order = {
            "team": team,
            "endpoint": self.endpoint,
            "model": self.model,
            "size": "1024x1024",
            "quality": "standard",
        }
        charged = self.charged
        rule = {"team": team, "mode": "enforce"}
        found: dict[Series, float] = {
            series("gateway_requests_total", team=team, endpoint=self.endpoint, model=model, outcome=self.outcome): 1,
            series("gateway_errors_total", team=team, code=self.metric or self.code or "other"): 1,
            series("gateway_images_total", **order): charged.images,
            series("gateway_images_unknown_total", **order): charged.unknown,
            series("gateway_images_refunded_total", **order): charged.refunded,
            series("gateway_image_cost_usd_total", **order): charged.images * PRICE,
            series("gateway_image_cost_unknown_usd_total", **order): charged.unknown * PRICE,
            series("gateway_quota_used", rule="images-day", unit="images", per="day", **rule): charged.images,
            series("gateway_quota_used", rule="usd-month", unit="usd", per="month", **rule): charged.images * PRICE,
            series("gateway_quota_used", rule="requests-day", unit="requests", per="day", **rule): charged.requests,
            **self.more,
        }
        for period in ("today", "month"):
            found[series("gateway_period_images", team=team, period=period)] = charged.images
            found[series("gateway_period_cost_usd", team=team, period=period)] = charged.images * PRICE
        if self.upstream is not None:
            found[series("gateway_upstream_responses_total", account="main", status=self.upstream)] = 1
        for scope, name, per in self.refusing:
            found[series("gateway_quota_refusals_total", team=scope, rule=name, per=per, mode="enforce")] = 1
        return {each: round(change, 6) for each, change in found.items() if change}

    def _check_log(self, watched: Watched, answer: Answer) -> None:
        line = watched.request_line(answer.header("x-request-id") or "")
        facts: dict[str, Any] = {
            "outcome": self.outcome,
            "status": self.status,
            "code": self.code,
            "endpoint": self.endpoint,
            "team": self.team if self.known else None,
            "key_id": "test" if self.known else None,
            "model": self.model if self.ordered else None,
            "client_ip": "127.0.0.1",
        }
        if self.charged != NOTHING:
            facts |= {"images": self.charged.images, "cost_usd": self.charged.images * PRICE}
        if self.upstream is not None:
            facts["upstream_status"] = int(self.upstream) if self.upstream.isdigit() else None
        facts |= self.log
        assert {name: line.get(name) for name in facts} == facts
        assert line["level"] == "info"


def order(team: str = "plain", **fields: object) -> Callable[[Watched], Answer]:
    """Sends a generation."""

    def send(watched: Watched) -> Answer:
        return wire.ask(watched.url, wire.generation(watched.key(team), prompt=PROMPT, **fields))

    return send


def raw(body: bytes, team: str = "plain") -> Callable[[Watched], Answer]:
    """Sends a generation whose body is these bytes."""

    def send(watched: Watched) -> Answer:
        return wire.ask(watched.url, wire.generation_of(body, watched.key(team)))

    return send


def edit(*parts: wire.Part, team: str = "plain") -> Callable[[Watched], Answer]:
    """Sends an edit of these parts and a prompt."""

    def send(watched: Watched) -> Answer:
        return wire.ask(watched.url, wire.edit(watched.key(team), *parts, wire.text("prompt", PROMPT)))

    return send


def same_class(row: Row) -> bool:
    """Whether the class that the row names has the row's status and code; UpstreamRefused takes the upstream's."""
    return row.error is UpstreamRefused or (row.error.status, row.error.code) == (row.status, row.code)
