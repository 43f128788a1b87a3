"""Rules of quotas: what they count, over which window, and which orders they bind. No I/O and no clock.

A rule says: of `unit`, at most `limit` in each `per`, counted on `counter`. The counter is what is stored; limit,
name, mode and warn_at are no part of it, so changing them keeps what was used. Money is integer micro-dollars.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

MICRO = 1_000_000  #: micro-dollars in a dollar

ORGANIZATION = "organization"  #: the scope of rules over all teams together


class Unit(StrEnum):
    IMAGES = "images"
    USD = "usd"
    REQUESTS = "requests"
    CONCURRENT = "concurrent"


class Per(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


Mode = Literal["enforce", "shadow"]


@dataclass(frozen=True, slots=True)
class Grant:
    """A temporary extra on a rule's limit: `amount` in the rule's unit until `until` (unix seconds, exclusive)."""

    amount: int
    until: float | None


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a quota list, resolved.

    scope: a team's id or `organization`. per: None for `concurrent` alone. limit: images, requests, requests in
    flight, or micro-dollars. zone: IANA name that calendar windows follow. models, sizes, qualities, endpoints:
    None binds all. warn_at: percent of the limit. wait: seconds a `concurrent` rule holds a request.
    """

    scope: str
    name: str
    unit: Unit
    per: Per | None
    limit: int
    zone: str = "UTC"
    mode: Mode = "enforce"
    models: frozenset[str] | None = None
    sizes: frozenset[str] | None = None
    qualities: frozenset[str] | None = None
    endpoints: frozenset[str] | None = None
    warn_at: tuple[int, ...] = ()
    wait: float = 0.0
    grants: tuple[Grant, ...] = ()
    counter: str = field(init=False)

    def __post_init__(self) -> None:
        narrowing = "".join(
            f"|{letter}={','.join(sorted(values))}"
            for letter, values in (
                ("m", self.models),
                ("s", self.sizes),
                ("q", self.qualities),
                ("e", self.endpoints),
            )
            if values is not None
        )
        # A sliding window has no calendar, so a zone would only split one counter in two.
        calendar = self.per in (Per.DAY, Per.WEEK, Per.MONTH)
        zone = self.zone if calendar else "-"
        object.__setattr__(self, "counter", f"{self.scope}|{self.unit}|{self.per or 'now'}|{zone}{narrowing}")

    def binds(self, *, endpoint: str, model: str, size: str, quality: str) -> bool:
        """Whether an order of these falls under the rule."""
        return (
            (self.models is None or model in self.models)
            and (self.sizes is None or size in self.sizes)
            and (self.qualities is None or quality in self.qualities)
            and (self.endpoints is None or endpoint in self.endpoints)
        )
