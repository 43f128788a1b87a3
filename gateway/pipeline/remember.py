"""Remember: the order of an Idempotency-Key goes up and is charged once, over all workers and hosts.

The first request with a key claims it when its order is known. Who comes while that one is under way joins it and
holds no slot; who comes later gets its answer while that is kept. An end that was refunded frees the key; one that
nobody can know is repeated, for nobody may buy it again. A request that joins is read to its end, so that another
order under the same key is noticed, but nothing of it goes up.
"""

import asyncio
import json
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core import idempotency, outcomes, settlement
from gateway.core.errors import (
    ClientGone,
    GatewayError,
    IdempotencyAnswerGone,
    IdempotencyKeyReused,
    OutcomeUnknown,
    Overloaded,
    StoreUnavailable,
)
from gateway.exchange import Exchange
from gateway.ledger.base import Ledger, Remembered

#: Seconds between two looks whether the request that holds the key has ended.
_LOOK = 0.25

#: Seconds beyond its limits that the holder of a key is waited for.
_MARGIN = 10.0

#: Seconds after a request's own limits at which its charge is presumed.
_PRESUMED = 60.0

#: Looks at an ended reservation before its answer is believed lost: the answer is kept a moment after it is settled.
_LATE = 8

#: Milliseconds in which a claim is followed by its reservation.
_FOLLOWED = 60_000


class Remember:
    def __init__(self, app: ASGIApp, *, ledger: Ledger) -> None:
        self.app = app
        self.ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchanges.of(scope)
        key = idempotency.key_of(exchange.headers, team=exchange.known().id)
        if key is None:
            await self.app(scope, receive, send)
            return
        remembering = _Remembering(self, exchange, key, send, scope.get("extensions", {}).get("gateway.left"))
        try:
            found = await self.ledger.remember("recall", key)
        except StoreUnavailable:
            if exchange.settings.store.when_down == "deny":
                raise
            await self.app(scope, receive, send)
            return
        if found.state in ("running", "done"):
            await remembering.read(receive)
            await remembering.join(found)
        else:
            await remembering.lead(scope, receive)


class _TakenMeanwhile(Exception):
    """Another request has claimed the key since this one looked."""

    def __init__(self, found: Remembered) -> None:
        super().__init__()
        self.found = found


class _Remembering:
    """One request with a key."""

    def __init__(
        self, step: Remember, exchange: Exchange, key: str, send: Send, left: "asyncio.Future[None] | None"
    ) -> None:
        self.step, self.exchange, self.key, self._send, self._left = step, exchange, key, send, left
        self._holds = False
        self._whole = False
        self._status = 0
        self._body: bytes | None = b""

    async def read(self, receive: Receive) -> None:
        """The body to its end: what matters of it is the order."""
        while (await receive())["more_body"]:
            pass

    async def lead(self, scope: Scope, receive: Receive) -> None:
        """Claim the key with the order, and keep the answer."""

        async def claimed() -> Message:
            message = await receive()
            if not message["more_body"]:
                await self._claim()
            return message

        try:
            await self.step.app(scope, claimed, self._kept)
        except _TakenMeanwhile as taken:
            await self.join(taken.found)
        except GatewayError as error:
            if self._holds and isinstance(error, OutcomeUnknown):
                await self._conclude(error.status, json.dumps(error.body()).encode())
            elif self._holds:
                await self._free(error)
            raise
        else:
            if self._holds:
                await self._conclude(self._status, self._body if self._whole else None)

    async def join(self, found: Remembered) -> None:
        """Wait for the answer of the request that holds the key, and give it."""
        order, _ = self.exchange.ordered()
        limits, upstream = self.exchange.settings.limits, self.exchange.settings.upstream
        ends = time.monotonic() + limits.body_total_timeout + upstream.total_timeout + _MARGIN
        print_ = idempotency.fingerprint(order, self.exchange.digests)
        ended = 0
        while True:
            if found.print not in ("", print_):
                raise IdempotencyKeyReused("This Idempotency-Key was sent before with another order.")
            if found.state in ("done", "freed"):
                await self._replay(found)
                return
            ended += found.reservation in ("presumed", "committed")
            if ended > _LATE and found.reservation == "presumed":
                raise outcomes.unknown()
            if ended > _LATE:
                raise IdempotencyAnswerGone("The answer to this Idempotency-Key's order is no longer there.")
            if found.state == "free" or time.monotonic() > ends:
                raise _no_answer()
            await asyncio.sleep(_LOOK)
            self.exchange.queue_seconds += _LOOK
            if self._left is not None and self._left.done():
                raise ClientGone("The client left while its request waited for another's answer.")
            found = await self.step.ledger.remember("recall", self.key)

    async def _claim(self) -> None:
        order, _ = self.exchange.ordered()
        settings = self.exchange.settings
        # As long as its charge can be open, and then as long as an answer is kept.
        keep = (
            settings.upstream.total_timeout + settings.limits.body_total_timeout + _PRESUMED + settings.idempotency.keep
        )
        print_ = idempotency.fingerprint(order, self.exchange.digests)
        waits = max((rule.wait for rule in self.exchange.known().rules), default=0.0)
        patience = _FOLLOWED + int(waits * 1000)
        try:
            found = await self.step.ledger.remember(
                "claim", self.key, print=print_, rid=self.exchange.id, keep=int(keep * 1000), patience=patience
            )
        except StoreUnavailable:
            if settings.store.when_down == "deny":
                raise
            return
        if found.state != "claimed":
            raise _TakenMeanwhile(found)
        self._holds = True

    async def _kept(self, message: Message) -> None:
        """Pass an answer on and keep it, if it is not too long."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif self._body is not None:
            self._body += message.get("body", b"")
            self._whole = not message.get("more_body", False)
            if len(self._body) > self.exchange.settings.idempotency.max_answer:
                self._body = None
        await self._send(message)

    async def _conclude(self, status: int, body: bytes | None) -> None:
        keep = int(self.exchange.settings.idempotency.keep * 1000)
        facts: dict[str, object] = {"rid": self.exchange.id, "status": status, "keep": keep}
        if body is not None:
            facts["body"] = body.decode("utf-8", "replace")
        await self._tell("conclude", **facts)

    async def _free(self, error: GatewayError) -> None:
        """Those who have joined read the refusal, unless it was the lot of this one request."""
        own = isinstance(error, ClientGone | StoreUnavailable | Overloaded)
        facts: dict[str, object] = {} if own else {"body": json.dumps(error.body())}
        headers = json.dumps(error.headers)
        told = await self._tell("free", rid=self.exchange.id, status=error.status, headers=headers, **facts)
        if not told and not self.exchange.reserved:
            # No reservation has an end that could stand in for this word. A tombstone will, once it is delivered.
            await self.step.ledger.settle(self.exchange.id, settlement.refunded(sent=False))

    async def _tell(self, act: str, **facts: object) -> bool:
        """The request has its answer whatever comes of this: the reservation's state stands in for a lost word."""
        try:
            await self.step.ledger.remember(act, self.key, **facts)
        except StoreUnavailable:
            return False
        return True

    async def _replay(self, found: Remembered) -> None:
        if not found.body and found.state == "freed":
            raise _no_answer()
        if not found.body:
            raise IdempotencyAnswerGone("The answer to this Idempotency-Key's order was too long to be kept.")
        self.exchange.outcome = "replayed"
        body = found.body.encode()
        told = json.loads(found.headers) if found.headers else {}
        if found.status == OutcomeUnknown.status:
            told.update(OutcomeUnknown.advice)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"idempotent-replayed", b"true"),
            *((name.encode(), value.encode()) for name, value in told.items()),
            (b"x-gateway-cost-usd", b"0.00"),
        ]
        await self._send({"type": "http.response.start", "status": found.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _no_answer() -> Overloaded:
    return Overloaded("The first request with this Idempotency-Key gave no answer. Send it again.")
