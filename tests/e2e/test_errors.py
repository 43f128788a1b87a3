"""The error table, row by row: what the client reads, what is counted, logged and charged, what the upstream saw."""

import resource
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import pytest

from gateway.core import errors
from gateway.core.errors import GatewayError
from gateway.simulator.script import Behaviour
from tests.e2e import wire
from tests.e2e.rows import PRICE, PROMPT, Row, order, same_class
from tests.e2e.table import OWN_FAULT, ROWS, UNAUTHORIZED, first_of_next_month, spend, tomorrow
from tests.e2e.watching import Watched, changes, noon_zone, series
from tests.e2e.wire import Answer
from tests.support import stream
from tests.support.running import SECRETS, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import wait_until


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.when.replace(" ", "-"))
def test_a_row_of_the_table(row: Row, request: pytest.FixtureRequest, simulator: SimulatorThread) -> None:
    """A request that ends so is answered, counted, logged and charged as the table says, and nothing else changes."""
    assert same_class(row)
    row.check(request.getfixturevalue(row.on))


#: Classes that only group others: nothing is answered with them.
GROUPS = {errors.GatewayError, errors.PermissionRefused, errors.QuotaExceeded, errors.UpstreamError}

#: Held by tests of their own: a store that is away (below), and a client that reads nothing (test_bad_input.py).
ELSEWHERE = {errors.StoreUnavailable, errors.ClientGone}


def test_every_error_has_a_row() -> None:
    """Each class of the error tree stands in a row of the table, but for groups and two that have tests elsewhere."""
    assert _classes(GatewayError) - GROUPS - ELSEWHERE == {row.error for row in ROWS}


def _classes(root: type[GatewayError]) -> set[type[GatewayError]]:
    return {root}.union(*(_classes(each) for each in root.__subclasses__()))


def test_all_401_are_one_answer(roomy: Watched) -> None:
    """Whatever is wrong with a key, on whichever path, the answer is the same but for its id and its time."""
    answers = [row.send(roomy) for row in UNAUTHORIZED]
    head = wire.edit_head("k" * 40, length=10)
    answers += [wire.ask(roomy.url, head), *(_get(roomy, path) for path in ("/v1/models", "/v1/models/x", "/v1/usage"))]
    assert len({answer.body for answer in answers}) == 1
    alike = [
        {pair for pair in answer.headers if pair[0] not in ("x-request-id", "date", "connection")} for answer in answers
    ]
    assert all(each == alike[0] for each in alike)
    assert len({answer.header("x-request-id") for answer in answers}) == len(answers)


def _get(watched: Watched, path: str) -> Answer:
    return wire.ask(watched.url, wire.head(path, key="k" * 40, method="GET", content_type=None))


def test_waiting_is_advised_up_to_a_minute(roomy: Watched) -> None:
    """A refusal that ends within 60 s leaves the retry to the client; one that ends later says not to try again."""
    spend("minute")(roomy, ExitStack())
    seen: dict[bool, str | None] = {}

    def near() -> bool:
        answer = order("minute")(roomy)
        assert answer.status == 429
        after = int(answer.header("retry-after") or "0")
        seen[after <= 60] = answer.header("x-should-retry")
        return after <= 60

    wait_until(near)
    assert seen.pop(True) is None
    assert seen in ({}, {False: "false"})


def test_each_refusing_rule_is_told(roomy: Watched) -> None:
    """Where several rules refuse all are listed with their use, the one with the latest reset first."""
    spend("several")(roomy, ExitStack())
    now = datetime.now(ZoneInfo(noon_zone()))
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    told = order("several", n=2)(roomy).error["quota"]
    # Two images of four cents are more than the day and the month can ever hold.
    midnight = (today + timedelta(days=1)).isoformat()
    first = (today.replace(day=1) + timedelta(days=32)).replace(day=1).isoformat()
    images = {"rule": "images-day", "unit": "images", "per": "day", "limit": 1, "used": 1, "requested": 2}
    usd = {"rule": "usd-month", "unit": "usd", "per": "month", "limit": 0.04, "used": 0.04, "requested": 0.08}
    assert told[:2] == [
        {"scope": "several", "resets_at": first, **usd},
        {"scope": "several", "resets_at": midnight, **images},
    ]
    last = told[2]
    assert [last[name] for name in ("rule", "per", "limit", "used", "requested")] == ["requests-hour", "hour", 1, 1, 1]
    assert 0 < (datetime.fromisoformat(last["resets_at"]) - now).total_seconds() <= 3661
    assert len(told) == 3
    one = order("several")(roomy).error["quota"]
    assert [(each["rule"], each["resets_at"]) for each in one[:2]] == [
        ("usd-month", first_of_next_month(today).isoformat()),
        ("images-day", tomorrow(today).isoformat()),
    ]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A 200 to an order of three images, and what of them is charged."""

    when: str
    script: Behaviour
    charged: int
    fields: Mapping[str, str] = field(default_factory=dict)
    told: int | None = None  #: images that x-gateway-cost-usd speaks of, where the answer began before the end


LONG = {"response_format": "b64_json"}

DELIVERIES = (
    Delivery("all", Behaviour(), 3),
    Delivery("one", Behaviour(images=1), 1),
    Delivery("none", Behaviour(images=0), 0),
    Delivery("more", Behaviour(images=5), 3),
    Delivery("all, chunked", Behaviour(chunked=True), 3),
    Delivery("all, long", Behaviour(pad=100_000), 3, LONG),
    Delivery("one, long", Behaviour(images=1, pad=100_000), 1, LONG, told=3),
    Delivery("more, long and chunked", Behaviour(images=5, pad=100_000, chunked=True), 3, LONG),
)


@pytest.mark.parametrize("delivery", DELIVERIES, ids=lambda delivery: delivery.when.replace(" ", "-"))
def test_what_comes_is_charged(delivery: Delivery, roomy: Watched) -> None:
    """Of three ordered images as many are charged as come, never more than ordered, and the rest is refunded."""
    roomy.simulator.script(delivery.script)
    before, used = roomy.counters(), roomy.used("plain")
    answer = order(n=3, **delivery.fields)(roomy)
    changed = changes(before, roomy.counters())
    charged = delivery.charged
    assert answer.status == 200
    assert len(answer.json()["data"]) == (3 if delivery.script.images is None else delivery.script.images)
    told = charged if delivery.told is None else delivery.told
    assert float(answer.header("x-gateway-cost-usd") or "") == pytest.approx(told * PRICE)
    images = {
        "team": "plain",
        "endpoint": "generations",
        "model": "dall-e-3",
        "size": "1024x1024",
        "quality": "standard",
    }
    assert changed.get(series("gateway_images_total", **images), 0) == charged
    assert changed.get(series("gateway_images_refunded_total", **images), 0) == 3 - charged
    assert changed.get(series("gateway_image_cost_usd_total", **images), 0) == pytest.approx(charged * PRICE)
    assert series("gateway_images_unknown_total", **images) not in changed
    now = roomy.used("plain")
    assert {rule: round(now[rule] - used[rule], 6) for rule in used} == {
        "images-day": charged,
        "usd-month": round(charged * PRICE, 6),
        "requests-day": 1,
        "concurrent": 0,
    }
    line = roomy.request_line(answer.header("x-request-id") or "")
    assert (line["outcome"], line["images"], line["n"]) == ("ok", charged, 3)
    if charged == told:
        left = 100_000 - now["images-day"]
        assert answer.header("x-ratelimit-remaining-images") == str(int(left))


def test_an_unknown_end_is_charged_whole_and_flagged(roomy: Watched) -> None:
    """A 424 says what it charged, and the team's usage keeps it, told apart as unknown."""
    before = roomy.usage("plain")
    roomy.simulator.script(Behaviour(fault="drop"))
    answer = order(n=3)(roomy)
    after = roomy.usage("plain")
    assert answer.status == 424
    assert answer.error["charged"] == {"images": 3, "usd": 0.12}
    assert answer.header("x-gateway-cost-usd") == "0.12"
    for period in ("today", "month"):
        assert after[period]["images"] - before[period]["images"] == 3
        assert after[period]["unknown"] - before[period]["unknown"] == 3
        assert after[period]["usd"] - before[period]["usd"] == pytest.approx(0.12)


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_a_long_answer_that_breaks_off_has_no_clean_end(fault: Literal["cut", "reset"], roomy: Watched) -> None:
    """Where the upstream breaks off in a streamed answer the client sees a broken one, and all of it is unknown."""
    before = roomy.counters()
    roomy.simulator.script(Behaviour(fault=fault, pad=300_000, after=500_000, chunked=True))
    with wire.connected(roomy.url) as connection:
        connection.send(wire.generation(roomy.key("plain"), prompt=f"{PROMPT}, {fault}", n=3, **LONG))
        with pytest.raises((EOFError, ConnectionError)):
            connection.read()
    changed = changes(before, roomy.counters())
    requests = {"team": "plain", "endpoint": "generations", "model": "dall-e-3"}
    images = {**requests, "size": "1024x1024", "quality": "standard"}
    assert changed[series("gateway_requests_total", outcome="unknown", **requests)] == 1
    assert changed[series("gateway_images_unknown_total", **images)] == 3
    assert changed[series("gateway_errors_total", team="plain", code="upstream_outcome_unknown")] == 1
    assert changed[series("gateway_upstream_responses_total", account="main", status="cut")] == 1
    assert series("gateway_images_refunded_total", **images) not in changed


def test_a_fault_of_ours_is_logged_by_its_place(cramped: Watched) -> None:
    """What the 500 does not say stands in the log under its id: the kind and the place, but no value."""
    (row,) = OWN_FAULT
    answer = row.check(cramped)
    (line,) = cramped.lines(event="fault", request_id=answer.header("x-request-id"))
    assert line["error"] == "OSError"
    assert any("forward.py" in place for place in line["places"])
    assert line.keys() <= {"event", "level", "ts", "request_id", "endpoint", "stage", "error", "causes", "places"}


def test_a_log_that_cannot_be_written_costs_no_order() -> None:
    """On a full disk an order that passes a threshold is made, answered and counted; its lines are what is lost."""
    with running_simulator() as simulator:
        config = base_config(upstream=simulator.base_url)
        config["teams"]["design"]["quotas"] = [{"images": 10, "per": "day", "warn_at": ["10%"]}]
        with running_gateway(config=config) as gateway:
            (worker,) = stream.workers(gateway)
            soft, hard = resource.prlimit(worker, resource.RLIMIT_FSIZE)
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, hard))
            try:
                statuses = [wire.ask(gateway.url, wire.generation(SECRETS["design"])).status for _ in range(3)]
                assert gateway.requests_logged() == []
            finally:
                resource.prlimit(worker, resource.RLIMIT_FSIZE, (soft, hard))
            assert statuses == [200] * 3
            assert simulator.record.totals.images_made == 3
            assert gateway.metric("gateway_images_total", team="design") == 3
