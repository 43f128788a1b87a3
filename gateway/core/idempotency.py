"""Idempotency-Key (IETF draft-ietf-httpapi-idempotency-key-header): which key, and which order it stands for.

Also which order it is without one: a client that repeats by itself what was cut off sends no key.
"""

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


class Ends:
    """A file by its length and its ends, with the interface of hashlib: most PNGs have the CRC of their data there.

    To hash all of a file would cost as much as to pass it on. Two files that are taken for one cost a team a minute.
    """

    _KEPT = 64  #: bytes at either end; a PNG's last are its data's CRC and the chunk IEND, if no text stands between

    def __init__(self) -> None:
        self._size, self._first, self._last = 0, b"", b""

    def update(self, data: bytes) -> None:
        if len(self._first) < self._KEPT:
            self._first = (self._first + data[: self._KEPT])[: self._KEPT]
        self._last = (self._last + data[-self._KEPT :])[-self._KEPT :]
        self._size += len(data)

    def hexdigest(self) -> str:
        return hashlib.sha256(b"%d:%b%b" % (self._size, self._first, self._last)).hexdigest()


def repeated(order: Order, digests: Sequence[tuple[str, str]], *, team: str, key: str) -> str:
    """What an order has in common with its repetition by the same client. key: the id of the credential."""
    return f"{team}:{key}:{fingerprint(order, digests)}"


def fingerprint(order: Order, digests: Sequence[tuple[str, str]]) -> str:
    """What makes two orders the same: all that goes up, with the files' (name, digest) for their bytes."""
    said = [order.endpoint, order.model, order.n, order.size, order.quality, list(order.fields), list(digests)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
