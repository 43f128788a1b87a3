"""Which of several keys at the upstream a request goes by: the least busy one that has not just failed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.core.catalog import Account

#: Seconds that an account is left alone after it could not be reached or would not have us.
SET_ASIDE = 30.0

#: Answers that are about the account and not about the request.
_NOT_HAVING_US = frozenset({"401", "402", "403", "connect_error"})


@dataclass(slots=True)
class Accounts:
    """One worker's view. changed(name, inflight) is told of each change; clock: seconds, monotonic."""

    changed: Callable[[str, int], None]
    clock: Callable[[], float] = time.monotonic
    inflight: dict[str, int] = field(default_factory=dict)
    _aside: dict[str, float] = field(default_factory=dict)

    def by_preference(self, accounts: Sequence[Account]) -> list[Account]:
        """All of them: those in good standing first, the least busy of them first."""
        now = self.clock()
        return sorted(accounts, key=lambda a: (self._aside.get(a.name, 0.0) > now, self.inflight.get(a.name, 0)))

    def take(self, account: Account) -> None:
        self._add(account.name, 1)

    def give_back(self, account: Account) -> None:
        self._add(account.name, -1)

    def heard(self, account: Account, status: str) -> None:
        """How an account answered: an exact status, or timeout, cut, connect_error."""
        if status in _NOT_HAVING_US:
            self.set_aside(account)
        elif account.name in self._aside:
            del self._aside[account.name]

    def set_aside(self, account: Account) -> None:
        """Leave it alone for a while, as far as there are others: what it said is about itself."""
        self._aside[account.name] = self.clock() + SET_ASIDE

    def _add(self, name: str, change: int) -> None:
        number = self.inflight[name] = self.inflight.get(name, 0) + change
        self.changed(name, number)
