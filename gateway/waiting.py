"""Lines of requests that wait for a slot: within a worker, first come is first served.

Only the first of a line asks the store again: when a request of the same team ends in this worker, and every so
often, for slots come free on other workers too.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Ticket:
    """A place in a line. called: set when it may be worth asking."""

    called: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self, _: object = None) -> None:
        self.called.set()

    async def wait(self, limit: float) -> None:
        """Until it is called, `limit` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self.called.wait()
        self.called.clear()


@dataclass(slots=True)
class Lines:
    """By (team, endpoint): a rule may bind one endpoint alone, and then the other need not wait behind it."""

    _lines: dict[tuple[str, str], deque[Ticket]] = field(default_factory=dict)

    def is_empty(self, team: str, endpoint: str) -> bool:
        return (team, endpoint) not in self._lines

    def join(self, team: str, endpoint: str) -> Ticket:
        ticket = Ticket()
        self._lines.setdefault((team, endpoint), deque()).append(ticket)
        return ticket

    def is_first(self, team: str, endpoint: str, ticket: Ticket) -> bool:
        return self._lines[team, endpoint][0] is ticket

    def leave(self, team: str, endpoint: str, ticket: Ticket) -> None:
        """Whether served or not; the next one is called."""
        line = self._lines[team, endpoint]
        line.remove(ticket)
        if line:
            line[0].called.set()
        else:
            del self._lines[team, endpoint]

    def freed(self, team: str) -> None:
        """A request of this team has ended here."""
        for (waiting, _), line in self._lines.items():
            if waiting == team:
                line[0].called.set()
