"""What is owed after an outcome, and what an upstream's answer means. Pure tables: contract 4.3 and 5.3.

An order is reserved whole and ends once:

    k images came                -> k charged, the rest refunded      COMMITTED
    definitely nothing was made  -> refunded                          REFUNDED
    nobody can know              -> charged and flagged               PRESUMED

Only images and money are refunded. A request counts as a request once anything was sent.
"""

from dataclasses import dataclass
from enum import StrEnum

from gateway.core.errors import (
    GatewayError,
    OutcomeUnknown,
    UpstreamAccountExhausted,
    UpstreamAuthFailed,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRefused,
)


class End(StrEnum):
    COMMITTED = "committed"
    REFUNDED = "refunded"
    PRESUMED = "presumed"


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a reservation ends: the final amounts. cost: micro-dollars; requests: 0 gives the request back too.

    cut: the order (idempotency.repeated), where its answer was cut off on its way to the client.
    """

    end: End
    images: int
    cost: int
    requests: int
    cut: str = ""


def committed(*, ordered: int, cost: int, made: int) -> Settlement:
    """`made` of `ordered` images came. More than ordered is charged as ordered: a charge never grows."""
    charged = min(made, ordered)
    if charged == 0:
        return Settlement(End.REFUNDED, 0, 0, 1)
    return Settlement(End.COMMITTED, charged, cost * charged // ordered, 1)


def refunded(*, sent: bool) -> Settlement:
    """Nothing was made. sent: whether any byte of the request went up, for then it stays a request."""
    return Settlement(End.REFUNDED, 0, 0, 1 if sent else 0)


def presumed(*, ordered: int, cost: int, cut: str = "") -> Settlement:
    """Whether it was made cannot be known: charged in full, and flagged as unknown."""
    return Settlement(End.PRESUMED, ordered, cost, 1, cut)


#: Statuses whose request the upstream judged and declined; its own words help the team.
_REFUSED = frozenset({400, 404, 413, 415, 422})

#: Statuses by which the origin itself says that it did not do it.
_GAVE_UP = frozenset({500, 501, 503})

#: What in a 429 speaks of the account's balance instead of its rate: codes, and phrases of its message.
_BILLING_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"})
_BILLING_PHRASES = (
    "insufficient_quota",
    "exceeded your current quota",
    "insufficient balance",
    "insufficient credit",
    "out of credit",
    "no credit",
    "credit balance",
    "billing",
)


def error_for(status: int, *, code: str | None = None, message: str = "") -> type[GatewayError] | None:
    """The error that an upstream status means, None for a 2xx. code, message: as the upstream's body had them.

    The table is total: any number ends in one row.
    """
    if 200 <= status < 300:
        return None
    if status in (401, 403):
        return UpstreamAuthFailed
    if status in _REFUSED:
        return UpstreamRefused
    if status == 402:
        return UpstreamAccountExhausted
    if status == 429:
        said = message.lower()
        billing = code in _BILLING_CODES or any(phrase in said for phrase in _BILLING_PHRASES)
        return UpstreamAccountExhausted if billing else UpstreamRateLimited
    # Of the 5xx three say that the origin itself gave up; behind any other it may have worked on.
    definite = status < 500 or status in _GAVE_UP
    return UpstreamFailed if definite else OutcomeUnknown
