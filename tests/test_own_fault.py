"""A fault of our own in the middle of the path, which no upstream and no client can bring about."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core.orders import Order
from gateway.core.settlement import Settlement
from gateway.exchange import Exchange
from gateway.pipeline.refuse import Refuse
from gateway.pipeline.settle import Settle
from tests.core.sample import DALLE, settings

ORDER = Order(endpoint="generations", model="dall-e-3", n=2, size="1024x1024", quality="standard")


@dataclass(frozen=True, slots=True)
class Up:
    """How far a request went up."""

    released: bool
    began: bool = True
    failure: str | None = None


@dataclass(slots=True)
class Ends:
    """Of a ledger what Settle asks for."""

    told: list[Settlement] = field(default_factory=list)

    async def settle(self, rid: str, end: Settlement) -> bool:
        self.told.append(end)
        return True


def answer(*, released: bool) -> tuple[int, dict[str, str], Any, Exchange, Ends]:
    """Status, headers and error of a reserved order on whose way something breaks, and what was settled."""
    exchange = Exchange("req_1", settings(), "generations", "127.0.0.1", [], 0.0, "0" * 32)
    exchange.order, exchange.model, exchange.cost, exchange.reserved = ORDER, DALLE, 80_000, True
    ledger: Any = Ends()
    faults: list[BaseException] = []
    sent: list[Message] = []

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        exchange.sent = Up(released=released)
        raise ZeroDivisionError

    async def nothing() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    step = Settle(broken, ledger=ledger, settled=lambda exchange, first: None)
    refuse = Refuse(step, failed=lambda exchange, error: faults.append(error))
    scope = exchanges.bind({"type": "http", "headers": [(b"host", b"x")], "method": "POST", "path": "/"}, exchange)
    asyncio.run(refuse(scope, nothing, send))
    assert [type(fault) for fault in faults] == [ZeroDivisionError]
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, json.loads(body["body"])["error"], exchange, ledger


def test_before_the_order_is_up_it_may_be_sent_again() -> None:
    """A fault before the closing bytes is a 500, and all is given back."""
    status, _, error, exchange, ledger = answer(released=False)
    assert (status, error["code"], exchange.outcome) == (500, "internal_error", "internal_error")
    assert [(end.images, end.cost) for end in ledger.told] == [(0, 0)]


def test_behind_the_closing_bytes_it_is_no_500() -> None:
    """A fault after them is a 424 that tells the charge: a 500 is sent again by every SDK, and would be paid again."""
    status, headers, error, exchange, ledger = answer(released=True)
    assert (status, error["code"], exchange.outcome) == (424, "upstream_outcome_unknown", "unknown")
    assert (headers["x-should-retry"], headers["x-gateway-cost-usd"]) == ("false", "0.08")
    assert error["charged"] == {"images": 2, "usd": 0.08}
    assert [(end.images, end.cost) for end in ledger.told] == [(2, 80_000)]
