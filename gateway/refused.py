"""Refused: what was refused to a team, kept in the store for `gateway why`.

It is written a moment after the answer, many at once, so that no answer waits for it; where the store is away it is
lost. Nothing of a body, a header or a secret is among it, nor the answer's sentence, which may repeat what was sent.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from gateway.core.errors import StoreUnavailable
from gateway.exchange import Exchange

#: What the gateway itself refuses; what the upstream refuses stands in its answer.
OUTCOMES = frozenset({"refused_quota", "refused_policy", "refused_invalid", "refused_auth", "overloaded"})

TOGETHER = 0.2  #: seconds in which refusals gather before they are written
MOST = 200  #: of a team in that time: the store keeps no more

Keep = Callable[[Mapping[str, Sequence[tuple[float, str]]]], Awaitable[None]]


class Refused:
    """One worker's. keep: puts (unix seconds, text) of each team into the store. clock: the store's, unix seconds."""

    def __init__(self, keep: Keep, clock: Callable[[], float]) -> None:
        self._keep, self._clock = keep, clock
        self._gathered: dict[str, deque[tuple[float, str]]] = {}
        self._some = asyncio.Event()

    def note(self, exchange: Exchange) -> None:
        """A request has ended; what was no refusal to a known team is passed over."""
        if exchange.outcome not in OUTCOMES:
            return
        team = exchange.whose
        if team not in exchange.settings.teams:
            return
        at = self._clock()
        text = json.dumps({"at": at, **_facts(exchange)}, separators=(",", ":"))
        self._gathered.setdefault(team, deque(maxlen=MOST)).append((at, text))
        self._some.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(TOGETHER)
            await self.write()

    async def write(self) -> None:
        """Put what has gathered into the store."""
        self._some.clear()
        gathered, self._gathered = self._gathered, {}
        if not gathered:
            return
        try:
            await self._keep({team: list(refusals) for team, refusals in gathered.items()})
        except StoreUnavailable:
            return


def _facts(exchange: Exchange) -> dict[str, object]:
    named, error = exchange.named, exchange.error
    facts: dict[str, object] = {
        "id": exchange.id,
        "team": exchange.whose,
        "key": exchange.key.id if exchange.key is not None else None,
        "endpoint": exchange.endpoint,
        "model": named.model,
        "size": named.size,
        "quality": named.quality,
        "n": named.n,
        "status": exchange.status,
        "code": error.code if error is not None else None,
        "reason": getattr(error, "reason", None),
        "rules": error.extra.get("quota") if error is not None else None,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}
