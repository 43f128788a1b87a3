"""What the pipeline asks of a ledger. Each call raises StoreUnavailable within a second when the store is away."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.quota import Charge, Rule, RuleState, Verdict
from gateway.core.settlement import Settlement


@dataclass(slots=True)  # not frozen: that takes three times as long, and each request makes one
class Booking:
    """Whose order it is and how it stands in the usage ledger. cost: micro-dollars; zone: IANA, its days.

    repeated: tells what a repetition of the order has in common with it (idempotency.repeated); asked for while there
    are cut answers that somebody may be repeating. None where an Idempotency-Key sees to that.
    """

    team: str
    zone: str
    key: str
    account: str
    endpoint: str
    model: str
    size: str
    quality: str
    images: int
    cost: int
    repeated: Callable[[], str] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an Idempotency-Key stands for. state: free, claimed (by this call), running, done or freed.

    print: fingerprint of the order that took it; status, body, headers (a JSON object): how that ended, body empty
    where it was not kept; reservation: the state of its reservation, empty if there is none.
    """

    state: str
    print: str
    status: int
    body: str
    headers: str
    reservation: str


class Ledger(Protocol):
    """Every call names a reservation by its id, and the same call again changes nothing."""

    async def admit(self, rid: str, team: str, charges: Sequence[Charge], orders: Sequence[Sequence[int]]) -> Verdict:
        """Take the slots among `charges` and look whether one of `orders` (indices into it) would fit."""

    async def reserve(self, rid: str, charges: Sequence[Charge], booking: Booking) -> Verdict:
        """Take all of `charges` or none. Raises OutcomeUnknown where an answer to the same order was just cut off."""

    async def settle(self, rid: str, settlement: Settlement) -> bool:
        """End it; False if it had ended before. Never raises: an end that cannot be delivered now is kept for later."""

    async def states(self, rules: Sequence[Rule]) -> list[RuleState]:
        """Each rule as it stands."""

    async def usage(self, teams: Sequence[tuple[str, str]]) -> dict[str, dict[str, dict[str, int]]]:
        """For (team, zone): team -> "day" and "month" (the present ones) -> usage field -> number."""

    async def remember(self, act: str, key: str, **facts: object) -> Remembered:
        """recall, claim, conclude or free an Idempotency-Key (``team:digest``); facts as remember.lua takes them."""
