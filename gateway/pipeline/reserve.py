"""Reserve: no closing byte passes before its quota is taken.

For an edit the slots are taken from the head alone, with a look whether the team's cheapest order still fits, so
that a refused upload costs no bytes. What an order needs of all other rules is taken in one step when the body is
complete, between its last byte and the upstream's. Where nothing but a slot is lacking and the rule says so, the
request waits for one in the order of arrival, until its client leaves.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.accounts import Accounts
from gateway.core.catalog import Account, Settings, Team
from gateway.core.errors import ClientGone, StoreUnavailable
from gateway.core.orders import Order
from gateway.core.pricing import cheapest, price
from gateway.core.quota import Charge, Rule, Unit, Verdict, charges
from gateway.core.refusals import quota_error
from gateway.exchange import Exchange
from gateway.ledger.base import Booking, Ledger
from gateway.waiting import Lines

#: Seconds between two looks for a slot that another worker may have freed.
_LOOK = 0.2

_ACCOUNT = "account:"  #: the scope of an upstream account's own cap

Ask = Callable[[Account], Awaitable[Verdict]]


class Reserve:
    """decided(exchange, verdict) is told of every verdict that stands."""

    def __init__(
        self, app: ASGIApp, *, ledger: Ledger, accounts: Accounts, decided: Callable[[Exchange, Verdict], None]
    ) -> None:
        self.app = app
        self.ledger = ledger
        self.accounts = accounts
        self.decided = decided
        self.lines = Lines()
        self._looks: dict[tuple[str, str], _Look] = {}  # of one config, told by its teams: the whole has secrets in it
        self._looks_of: Mapping[str, Team] = {}

    def look(self, settings: Settings, team: Team, account: Account) -> "_Look":
        """What is asked before an edit's first byte: the same for all of a team's, until the config changes."""
        if self._looks_of is not settings.teams:
            self._looks_of, self._looks = settings.teams, {}
        known = self._looks.get((team.id, account.name))
        if known is None:
            known = self._looks[team.id, account.name] = _look(settings, team, account)
        return known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchanges.of(scope)
        taking = _Taking(self, exchange, scope)

        async def reserved() -> Message:
            message = await receive()
            if not message["more_body"]:
                await taking.reserve()
            return message

        try:
            if exchange.endpoint == "edits":
                await taking.admit()
            await self.app(scope, reserved, send)
        finally:
            taking.release()


@dataclass(frozen=True, slots=True)
class _Look:
    """Charges of all that might be ordered, each once; each order's, by their places; whose states are told."""

    charges: Sequence[Charge]
    orders: Sequence[Sequence[int]]
    told: Sequence[int]


def _look(settings: Settings, team: Team, account: Account) -> _Look:
    place: dict[tuple[int, int], int] = {}
    asked: list[Charge] = []
    orders: list[list[int]] = []
    for order in cheapest(settings, team, "edits"):
        cost = price(order, settings.models[order.model])
        taken = _charges(order, cost, settings=settings, team=team, account=account)
        known = [(id(charge.rule), charge.amount) for charge in taken]  # rules compare by ten fields
        asked += [charge for charge, name in zip(taken, known, strict=True) if name not in place]
        for name in known:
            place.setdefault(name, len(place))
        orders.append([place[name] for name in known])
    slots = {i for i, charge in enumerate(asked) if charge.rule.unit is Unit.CONCURRENT}
    # Of what might be ordered the cheapest speaks for all: where it does not fit, nothing does.
    return _Look(asked, orders, sorted(slots.union(*orders[:1])))


def _charges(order: Order, cost: int | None, *, settings: Settings, team: Team, account: Account) -> tuple[Charge, ...]:
    """By the team's rules, the organization's, and the account's cap over all hosts."""
    rules = (*team.rules, *settings.organization, _cap(account.name, account.max_concurrent))
    return charges(
        rules,
        endpoint=order.endpoint,
        model=order.model,
        size=order.size,
        quality=order.quality,
        n=order.n,
        cost=cost,
    )


class _Taking:
    """What one request takes: an account, slots, and the rest of its quota."""

    def __init__(self, step: Reserve, exchange: Exchange, scope: Scope) -> None:
        self.step, self.exchange, self.team = step, exchange, exchange.known()
        self._left: asyncio.Future[None] | None = scope.get("extensions", {}).get("gateway.left")

    async def admit(self) -> None:
        """Slots, and a look at all that might be ordered."""
        exchange = self.exchange

        async def ask(account: Account) -> Verdict:
            look = self.step.look(exchange.settings, self.team, account)
            verdict = await self.step.ledger.admit(exchange.id, self.team.id, look.charges, look.orders)
            return replace(verdict, states=tuple(verdict.states[i] for i in look.told))

        exchange.admitted = await self._take(ask) is not None

    async def reserve(self) -> None:
        """All that the order needs, in one step; the account is the admission's if there was one."""
        exchange = self.exchange
        order, model = exchange.ordered()

        async def ask(account: Account) -> Verdict:
            taken = _charges(order, price(order, model), settings=exchange.settings, team=self.team, account=account)
            return await self.step.ledger.reserve(exchange.id, taken, self._booking(account))

        verdict = await self._take(ask)
        exchange.reserved = verdict is not None
        if verdict is not None:
            self.step.decided(exchange, verdict)

    def release(self) -> None:
        if self.exchange.account is not None:
            self.step.accounts.give_back(self.exchange.account)
        self.step.lines.freed(self.team.id)

    def _booking(self, account: Account) -> Booking:
        order, _ = self.exchange.ordered()
        return Booking(
            team=self.team.id,
            zone=self.team.zone,
            key=self.exchange.key.id if self.exchange.key is not None else "",
            account=account.name,
            endpoint=order.endpoint,
            model=order.model,
            size=order.size,
            quality=order.quality,
            images=order.n,
            cost=self.exchange.cost,
            repeated=None if self.exchange.header(b"idempotency-key") is not None else self.exchange.repeated,
        )

    async def _take(self, ask: Ask) -> Verdict | None:
        """The verdict that admits. None: the store is away and the config lets requests pass unmetered."""
        try:
            verdict = await self._in_turn(ask)
        except StoreUnavailable:
            if self.exchange.settings.store.when_down == "deny":
                raise
            self.exchange.unmetered = True
            self._go_by(self._accounts()[0])
            return None
        self.exchange.unmetered = False  # an upload that was let in while the store was away is metered all the same
        if not verdict.admitted:
            self.step.decided(self.exchange, verdict)
            raise quota_error(verdict, team=self.team.id, contact=self.team.contact)
        return verdict

    async def _in_turn(self, ask: Ask) -> Verdict:
        """Ask at once if nobody waits before us; else, and while only slots lack, when our turn has come."""
        lines, team, endpoint = self.step.lines, self.team.id, self.exchange.endpoint
        patience = self._patience()
        verdict = None
        # An admitted edit has its slot: whoever waits in the line may be waiting for that one.
        if not patience or self.exchange.admitted or lines.is_empty(team, endpoint):
            verdict = await self._ask(ask)
            if verdict.admitted or not (patience := self._patience(verdict)):
                return verdict
        ticket = lines.join(team, endpoint)
        began, queued = time.monotonic(), self.exchange.queue_seconds
        if self._left is not None:
            self._left.add_done_callback(ticket.wake)
        try:
            while True:
                left = max(0.0, patience - (time.monotonic() - began))
                await ticket.wait(min(_LOOK, left) if lines.is_first(team, endpoint, ticket) else left)
                self.exchange.queue_seconds = queued + time.monotonic() - began
                if self._left is not None and self._left.done():
                    raise ClientGone("The client left while its request waited for a slot.")
                over = patience <= time.monotonic() - began
                if over or lines.is_first(team, endpoint, ticket):
                    verdict = await self._ask(ask)
                    if over or verdict.admitted or not (patience := self._patience(verdict)):
                        return verdict
        finally:
            if self._left is not None:
                self._left.remove_done_callback(ticket.wake)
            lines.leave(team, endpoint, ticket)

    async def _ask(self, ask: Ask) -> Verdict:
        """By the first account that has room; where none has, the last one's refusal stands."""
        for account in self._accounts():
            verdict = await ask(account)
            self.exchange.verdict = verdict
            if verdict.admitted:
                self._go_by(account)
            if verdict.admitted or any(not _is_account(state.rule) for state in verdict.refusals):
                break
        return verdict

    def _accounts(self) -> Sequence[Account]:
        if self.exchange.account is not None:
            return (self.exchange.account,)
        return self.step.accounts.by_preference(self.exchange.settings.upstream.accounts)

    def _go_by(self, account: Account) -> None:
        if self.exchange.account is None:
            self.exchange.account = account
            self.step.accounts.take(account)

    def _patience(self, verdict: Verdict | None = None) -> float:
        """Seconds that this request may wait: the shortest that the rules say which lack a slot, 0 if a slot would not
        help. Before any verdict, and where only the accounts are full, the longest of all rules that bind it.
        """
        if verdict is not None:
            if any(state.rule.unit is not Unit.CONCURRENT for state in verdict.refusals):
                return 0.0
            if waits := [state.rule.wait for state in verdict.refusals if not _is_account(state.rule)]:
                return min(waits)
        waits = [
            rule.wait
            for rule in (*self.team.rules, *self.exchange.settings.organization)
            if rule.unit is Unit.CONCURRENT
            and rule.mode == "enforce"
            and (rule.endpoints is None or self.exchange.endpoint in rule.endpoints)
        ]
        return max(waits, default=0.0)


@lru_cache(maxsize=64)
def _cap(account: str, limit: int) -> Rule:
    return Rule(_ACCOUNT + account, "account", Unit.CONCURRENT, None, limit)


def _is_account(rule: Rule) -> bool:
    return rule.scope.startswith(_ACCOUNT)
