"""What an upstream's refusal becomes for the team: contract 4.3, the rows that begin with "upstream"."""

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime

from gateway.core.answers import upstream_error
from gateway.core.errors import (
    GatewayError,
    OutcomeUnknown,
    UpstreamAccountExhausted,
    UpstreamAuthFailed,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamUnreachable,
)
from gateway.core.quota import MICRO
from gateway.core.refusals import dollars, retry_headers
from gateway.core.secret import Secret
from gateway.core.settlement import Settlement, error_for

_UNKNOWN = (
    "The image service gave no readable answer after it had the whole request, so the images may have been made "
    "and are charged. Do not send the request again without checking."
)

_SECONDS = re.compile(r"[0-9]{1,9}")


def unknown() -> OutcomeUnknown:
    """The outcome of a released request that nobody can know. `tell_charge` adds what it came to."""
    return OutcomeUnknown(_UNKNOWN)


def repeated(request_id: str, *, seconds: int) -> OutcomeUnknown:
    """The answer to an order that was just made, charged, and cut off on its way: it is not made once more unasked.

    seconds: for which that holds.
    """
    return OutcomeUnknown(
        f"The answer to this same order was cut off a moment ago (request {request_id}); it was charged then. So that "
        f"nobody buys it twice by repeating, it is not made again within {seconds} s, unless it is sent with a new "
        "Idempotency-Key.",
        extra={"charged": {"images": 0, "usd": 0.0}},
    )


def tell_charge(error: OutcomeUnknown, end: Settlement) -> None:
    error.extra["charged"] = {"images": end.images, "usd": end.cost / MICRO}
    error.headers["x-gateway-cost-usd"] = dollars(end.cost)


def premature() -> UpstreamFailed:
    """A 2xx to a request whose closing bytes have not gone up: no images can be meant by it."""
    return UpstreamFailed("The image service answered before it had the whole request, so it made nothing.")


def refusal(
    status: int, body: bytes, *, released: bool, retry_after: str | None, now: float, account_key: Secret
) -> GatewayError:
    """The error for a status that is no 2xx.

    body: its first 64 KB; released: the closing bytes went up, without which nothing can have been made; now: unix
    seconds; account_key: must not be let through.
    """
    words = upstream_error(body, status, secrets=(account_key,))
    found = error_for(status, code=words.code, message=words.message)
    if found is UpstreamRefused:
        kind = words.type or "invalid_request_error"
        return UpstreamRefused(words.message, status=status, kind=kind, code=words.code, param=words.param)
    if found is UpstreamRateLimited:
        seconds = _seconds(retry_after or "", now)
        headers = retry_headers(seconds) if seconds is not None else {}
        return UpstreamRateLimited("The image service takes no more requests right now.", headers=headers)
    if found is UpstreamAuthFailed:
        return UpstreamAuthFailed("The image service does not accept the gateway's own key.")
    if found is UpstreamAccountExhausted:
        return UpstreamAccountExhausted("The gateway's account at the image service has no credit left.")
    if found is OutcomeUnknown and not released:
        return UpstreamUnreachable(
            f"The image service answered {status} before the request was complete. Nothing was made; "
            "sending it again is safe."
        )
    if found is OutcomeUnknown:
        return unknown()
    return UpstreamFailed(f"The image service answered {status} and made nothing.")


def _seconds(retry_after: str, now: float) -> int | None:
    """A Retry-After in either of its forms (RFC 9110, 10.2.3), not beyond what nine digits say; None if it is neither.

    A date stands as seconds then: clients read those more surely, and their clocks may differ.
    """
    if _SECONDS.fullmatch(retry_after):
        return int(retry_after)
    try:
        at = parsedate_to_datetime(retry_after)
        seconds = math.ceil(at.replace(tzinfo=at.tzinfo or UTC).timestamp() - now)
    except (ValueError, OverflowError):
        return None
    return max(1, seconds) if seconds < 10**9 else None
