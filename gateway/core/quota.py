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


_SHORTEST_FIRST = tuple(Per)

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
    narrow: bool = field(init=False, compare=False)  #: whether it binds some orders only

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
        object.__setattr__(self, "narrow", narrowing != "")

    def binds(self, *, endpoint: str, model: str, size: str, quality: str) -> bool:
        """Whether an order of these falls under the rule."""
        return (
            (self.models is None or model in self.models)
            and (self.sizes is None or size in self.sizes)
            and (self.qualities is None or quality in self.qualities)
            and (self.endpoints is None or endpoint in self.endpoints)
        )


# Of these a request makes as many as it has rules. Frozen ones would take three times as long to make.


@dataclass(slots=True)
class Charge:
    """What one request takes from one rule: images, requests, a slot, or micro-dollars."""

    rule: Rule
    amount: int


@dataclass(slots=True)
class RuleState:
    """A rule as the store saw it in one decision. Times are unix seconds.

    used: with this request's charge if it was admitted, without it if it was refused. limit: with grants.
    resets_at: when the window is empty again; None for `total` and `concurrent`. fits_at: for a refusal, when this
    request would fit; None if it never can, or nobody knows (`concurrent`).
    """

    rule: Rule
    amount: int
    used: int
    limit: int
    resets_at: float | None
    fits_at: float | None
    refused: bool

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)

    @property
    def never_fits(self) -> bool:
        """Even an empty window could not hold it."""
        return self.amount > self.limit

    def has_passed(self, percent: int) -> bool:
        """Whether what is used has come to `percent` of the limit."""
        return self.used > 0 and 100 * self.used >= percent * self.limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """The store's answer to one request. now: the store's clock, unix seconds.

    passed: thresholds (percent) of `warn_at` that this request was the first to pass in the rule's window.
    """

    admitted: bool
    now: float
    states: tuple[RuleState, ...]
    passed: tuple[tuple[RuleState, int], ...] = ()

    @property
    def refusals(self) -> tuple[RuleState, ...]:
        """The enforced rules that refuse, the one with the latest reset first: a rule that never resets leads."""
        refusing = [state for state in self.states if state.refused and state.rule.mode == "enforce"]
        return tuple(sorted(refusing, key=_reset_rank, reverse=True))

    @property
    def shadowed(self) -> tuple[RuleState, ...]:
        """The shadow rules that would have refused."""
        return tuple(state for state in self.states if state.refused and state.rule.mode == "shadow")


def _reset_rank(state: RuleState) -> tuple[float, int]:
    """Of rules that an order can never fit, the one with the longest window."""
    if state.rule.unit is Unit.CONCURRENT:
        return 0.0, 0
    fits = float("inf") if state.fits_at is None else state.fits_at
    return fits, _SHORTEST_FIRST.index(state.rule.per or Per.TOTAL)


def charges(
    rules: tuple[Rule, ...], *, endpoint: str, model: str, size: str, quality: str, n: int, cost: int | None
) -> tuple[Charge, ...]:
    """What an order of `n` images at `cost` micro-dollars takes from each rule that binds it.

    cost None (no price stands in the config) charges no `usd` rule: the config refuses a usd rule over an unpriced
    model, so this is reached only where no such rule binds.
    """
    amounts = {Unit.IMAGES: n, Unit.USD: cost or 0, Unit.REQUESTS: 1, Unit.CONCURRENT: 1}
    return tuple(
        Charge(rule, amounts[rule.unit])
        for rule in rules
        if not rule.narrow or rule.binds(endpoint=endpoint, model=model, size=size, quality=quality)
    )
