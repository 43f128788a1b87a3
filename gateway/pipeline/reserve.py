"""Reserve: no closing byte passes before its quota is taken.

For an edit the slots are taken from the head alone, with a look whether the team's cheapest order still fits, so
that a refused upload costs no bytes. What an order needs of all other rules is taken in one step when the body is
complete, between its last byte and the upstream's.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core.catalog import Account, Settings
from gateway.core.errors import StoreUnavailable
from gateway.core.pricing import cheapest, price
from gateway.core.quota import Charge, Rule, Unit, Verdict, charges
from gateway.core.refusals import quota_error
from gateway.exchange import Exchange
from gateway.ledger.base import Booking, Ledger

#: Seconds between two looks for a free slot, by a request that may wait for one.
_LOOK = 0.2


@dataclass(slots=True)
class Accounts:
    """How many requests this worker has in flight at each upstream account: the least busy one is next."""

    changed: Callable[[str, int], None]  #: told of an account and its number
    inflight: dict[str, int] = field(default_factory=dict)

    def least_busy(self, accounts: Sequence[Account]) -> Account:
        return min(accounts, key=lambda account: self.inflight.get(account.name, 0))

    def take(self, account: Account) -> None:
        self._add(account.name, 1)

    def give_back(self, account: Account) -> None:
        self._add(account.name, -1)

    def _add(self, name: str, change: int) -> None:
        number = self.inflight[name] = self.inflight.get(name, 0) + change
        self.changed(name, number)


class Reserve:
    """decided(exchange) is told of each verdict."""

    def __init__(
        self, app: ASGIApp, *, ledger: Ledger, accounts: Accounts, decided: Callable[[Exchange, Verdict], None]
    ) -> None:
        self.app = app
        self.ledger = ledger
        self.accounts = accounts
        self.decided = decided

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchanges.of(scope)
        account = exchange.account = self.accounts.least_busy(exchange.settings.upstream.accounts)
        self.accounts.take(account)

        async def reserved() -> Message:
            message = await receive()
            if not message["more_body"]:
                await self._reserve(exchange, account)
            return message

        try:
            if exchange.endpoint == "edits":
                await self._admit(exchange, account)
            await self.app(scope, reserved, send)
        finally:
            self.accounts.give_back(account)

    async def _admit(self, exchange: Exchange, account: Account) -> None:
        team, settings = exchange.known(), exchange.settings
        rules = _rules(settings, team.rules, account)
        asked: list[Charge] = []
        candidates: list[list[int]] = []
        for order in cheapest(settings, team, "edits"):
            cost = price(order, settings.models[order.model])
            taken = charges(
                rules, endpoint="edits", model=order.model, size=order.size, quality=order.quality, n=1, cost=cost
            )
            candidates.append([])
            for charge in taken:
                if charge not in asked:
                    asked.append(charge)
                candidates[-1].append(asked.index(charge))
        if not asked:
            return
        slots = [i for i, charge in enumerate(asked) if charge.rule.unit is Unit.CONCURRENT]
        told = sorted({*slots, *(candidates[0] if candidates else ())})

        async def admit() -> Verdict:
            verdict = await self.ledger.admit(exchange.id, team.id, asked, candidates)
            # Of what might be ordered the cheapest speaks for all: where it does not fit, nothing does.
            return replace(verdict, states=tuple(verdict.states[i] for i in told))

        exchange.admitted = await self._decide(exchange, admit) is not None

    async def _reserve(self, exchange: Exchange, account: Account) -> None:
        team = exchange.known()
        order, model = exchange.ordered()
        taken = charges(
            _rules(exchange.settings, team.rules, account),
            endpoint=order.endpoint,
            model=order.model,
            size=order.size,
            quality=order.quality,
            n=order.n,
            cost=price(order, model),
        )
        booking = Booking(
            team=team.id,
            zone=team.zone,
            key=exchange.key.id if exchange.key is not None else "",
            account=account.name,
            endpoint=order.endpoint,
            model=order.model,
            size=order.size,
            quality=order.quality,
            images=order.n,
            cost=exchange.cost,
        )
        verdict = await self._decide(exchange, lambda: self.ledger.reserve(exchange.id, taken, booking))
        exchange.reserved = verdict is not None
        if verdict is not None:
            self.decided(exchange, verdict)

    async def _decide(self, exchange: Exchange, ask: Callable[[], Awaitable[Verdict]]) -> Verdict | None:
        """The verdict that admits. None: the store is away and the config lets requests pass unmetered."""
        began = time.monotonic()
        while True:
            try:
                verdict = await ask()
            except StoreUnavailable:
                if exchange.settings.store.when_down == "deny":
                    raise
                exchange.unmetered = True
                return None
            exchange.verdict = verdict
            if verdict.admitted:
                return verdict
            if time.monotonic() - began + _LOOK > _patience(verdict):
                self.decided(exchange, verdict)
                raise quota_error(verdict, team=exchange.known().id, contact=exchange.known().contact)
            await asyncio.sleep(_LOOK)
            exchange.queue_seconds = time.monotonic() - began


def _rules(settings: Settings, own: Sequence[Rule], account: Account) -> tuple[Rule, ...]:
    """The team's rules, the organization's, and the account's cap over all hosts."""
    cap = Rule(
        scope=f"account:{account.name}", name="account", unit=Unit.CONCURRENT, per=None, limit=account.max_concurrent
    )
    return (*own, *settings.organization, cap)


def _patience(verdict: Verdict) -> float:
    """How long this refusal may be waited out: only where nothing but slots are lacking."""
    refusals = verdict.refusals
    if any(state.rule.unit is not Unit.CONCURRENT for state in refusals):
        return 0.0
    return min((state.rule.wait for state in refusals), default=0.0)
