"""Settle: ends what was reserved, once, however the request ends.

It counts on a server that does not cancel a request because its client left (uvicorn does not): once the closing
bytes are up, the upstream's answer is read to its end and settled.
"""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core import outcomes, settlement
from gateway.core.errors import GatewayError, OutcomeUnknown
from gateway.core.refusals import dollars, limit_headers
from gateway.core.settlement import Settlement
from gateway.exchange import Exchange
from gateway.ledger.base import Ledger


class Settle:
    """settled(exchange, first) is told of every end; first is False where the ledger knew of an end before."""

    def __init__(self, app: ASGIApp, *, ledger: Ledger, settled: Callable[[Exchange, bool], None]) -> None:
        self.app = app
        self.ledger = ledger
        self.settled = settled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _Ending(self, exchanges.of(scope), send).run(scope, receive)


class _Ending:
    """One request's end."""

    def __init__(self, step: Settle, exchange: Exchange, send: Send) -> None:
        self.step, self.exchange, self._send = step, exchange, send

    async def run(self, scope: Scope, receive: Receive) -> None:
        exchange = self.exchange
        try:
            await self.step.app(scope, receive, self.send)
            if exchange.settlement is None:
                await self._settle(self._by_count())
        except BaseException as error:
            await self._end_failed(error)
            raise

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.exchange.whole:
                await self._settle(self._by_count())
            message = {**message, "headers": [*message["headers"], *self._headers()]}
        await self._send(message)

    def _by_count(self) -> Settlement:
        exchange = self.exchange
        order, _ = exchange.ordered()
        return settlement.committed(ordered=order.n, cost=exchange.cost, made=exchange.made or 0)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        exchange = self.exchange
        cost = exchange.settlement.cost if exchange.settlement is not None else exchange.cost
        headers = [(b"x-gateway-cost-usd", dollars(cost).encode())]
        if exchange.verdict is not None:
            headers += limit_headers(exchange.verdict, exchange.settlement)
        return headers

    async def _end_failed(self, error: BaseException) -> None:
        exchange = self.exchange
        if exchange.settlement is not None:
            return
        # An upload that was let in unmetered may end before there is an order.
        if exchange.order is None or not (exchange.reserved or exchange.unmetered):
            if exchange.admitted:
                # Slots alone were held: there is nothing to refund, so nothing to count.
                await self.step.ledger.settle(exchange.id, settlement.refunded(sent=False))
            return
        order, _ = exchange.ordered()
        sent = exchange.sent is not None and exchange.sent.began
        definite = isinstance(error, GatewayError) and not isinstance(error, OutcomeUnknown)
        if definite or not exchange.released:
            await self._settle(settlement.refunded(sent=sent))
        else:
            # Of an answer that is on its way the client sees no error, only its end: many repeat the order then. One
            # with a key is known by that: a mark would meet only others who order the same.
            unseen = exchange.made is not None and not exchange.whole
            cut = exchange.repeated() if unseen and exchange.header(b"idempotency-key") is None else ""
            await self._settle(settlement.presumed(ordered=order.n, cost=exchange.cost, cut=cut))
        if isinstance(error, OutcomeUnknown) and exchange.settlement is not None:
            outcomes.tell_charge(error, exchange.settlement)

    async def _settle(self, end: Settlement) -> None:
        exchange = self.exchange
        exchange.settlement = end
        first = True
        if exchange.reserved:
            first = await self.step.ledger.settle(exchange.id, end)
        self.step.settled(exchange, first)
