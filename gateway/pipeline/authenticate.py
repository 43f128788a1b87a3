"""Authenticate: whose request it is and whether that team may ask here at all. Decided from the head alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core import keys
from gateway.core.catalog import Key, Settings
from gateway.core.errors import EndpointNotAllowed, Overloaded, TeamSuspended
from gateway.exchange import Exchange
from gateway.tokens import Tokens

_REFUSED = "The key is missing, unknown or no longer valid. Send it as 'Authorization: Bearer <key>'."


@dataclass(slots=True)
class Room:
    """How many image requests this worker has in flight, whichever endpoint they came by."""

    inflight: int = 0


class Authenticate:
    """clock: unix seconds, for expiry."""

    def __init__(self, app: ASGIApp, *, room: Room, tokens: Tokens, clock: Callable[[], float] = time.time) -> None:
        self.app = app
        self.room = room
        self.tokens = tokens
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchanges.of(scope)
        now = self.clock()
        secret = keys.from_headers(exchange.headers, message=_REFUSED)
        if _may_be_token(secret, exchange.settings):
            key = await self.tokens.identify(secret, exchange.settings, now, message=_REFUSED)
        else:
            key = keys.find(secret, exchange.settings.keys, now, message=_REFUSED)
        _recognize(exchange, key)
        if exchange.endpoint == "other":
            await self.app(scope, receive, send)
            return
        if self.room.inflight >= exchange.settings.limits.max_inflight_per_worker:
            raise Overloaded("The gateway has as many requests in flight as it may hold. Try again shortly.")
        self.room.inflight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.room.inflight -= 1


def _may_be_token(secret: str, settings: Settings) -> bool:
    """Whether it looks like a JWT and is none of the keys, which may look like anything."""
    return bool(settings.jwt_issuers) and secret.count(".") == 2 and keys.digest(secret) not in settings.keys


def _recognize(exchange: Exchange, key: Key) -> None:
    team = exchange.settings.teams[key.team]
    exchange.key, exchange.team = key, team
    if team.suspended is not None:
        raise TeamSuspended(f"Team {team.id} is suspended: {team.suspended}.")
    if exchange.endpoint != "other" and team.endpoints is not None and exchange.endpoint not in team.endpoints:
        allowed = ", ".join(sorted(team.endpoints))
        raise EndpointNotAllowed(f"Team {team.id} may not use {exchange.endpoint}; it may use: {allowed}.")
