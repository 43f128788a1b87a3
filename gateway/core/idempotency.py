"""Idempotency-Key (IETF draft-ietf-httpapi-idempotency-key-header): which key, and which order it stands for."""

import hashlib
import json
import re
from collections.abc import Sequence

from gateway.core.errors import ParameterError
from gateway.core.orders import Order

_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


def key_of(headers: Sequence[tuple[bytes, bytes]], *, team: str) -> str | None:
    """``team:digest`` of the request's key, None if it has none. headers: names in lower case."""
    given = [value for name, value in headers if name == b"idempotency-key"]
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise ParameterError(
            "Idempotency-Key is one value of 1 to 255 visible ASCII characters.", param="Idempotency-Key"
        )
    return f"{team}:{hashlib.sha256(given[0]).hexdigest()}"


def fingerprint(order: Order, digests: Sequence[tuple[str, str]]) -> str:
    """What makes two orders the same: all that goes up, with the files' (name, SHA-256) for their bytes."""
    said = [order.endpoint, order.model, order.n, order.size, order.quality, list(order.fields), list(digests)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
