"""When keys were last used, for `gateway keys list`: told to the store now and then, never on a request's path."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from gateway.core.errors import StoreUnavailable
from gateway.exchange import Exchange

EVERY = 60.0  #: seconds between two tellings: of a busy key the store hears once in it from each worker

Keep = Callable[[Mapping[str, float]], Awaitable[None]]


class LastUse:
    """One worker's. keep: puts the unix seconds of each ``team|key`` into the store. clock: the store's."""

    def __init__(self, keep: Keep, clock: Callable[[], float]) -> None:
        self._keep, self._clock = keep, clock
        self._used: dict[str, float] = {}

    def note(self, exchange: Exchange) -> None:
        """A request has ended; one without a key that was accepted is passed over."""
        if exchange.key is not None:
            self._used[f"{exchange.key.team}|{exchange.key.id}"] = self._clock()

    async def run(self) -> None:
        """Write until cancelled; a key's first use soon, so that who tries one sees it."""
        while True:
            await asyncio.sleep(1.0)
            if self._used:
                await self.write()
                await asyncio.sleep(EVERY)

    async def write(self) -> None:
        """Tell the store what was used; while it is away, that waits for the next time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._keep(used)
        except StoreUnavailable:
            self._used = {**used, **self._used}
