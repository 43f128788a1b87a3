"""The secrets of a run, each one that occurs nowhere else, and the scanner that finds them however they are written."""

import base64
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from gateway.core import keys

#: Characters of a secret's beginning or end that nobody may show either: they make the rest easier to guess.
PIECE = 12


@dataclass(frozen=True, slots=True)
class Place:
    """Something that was written or sent. belongs: the secrets that are meant to stand there."""

    name: str
    data: bytes
    belongs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, order=True)
class Leak:
    secret: str
    place: str


def made() -> dict[str, str]:
    """A value for each kind of secret there is, by name."""
    return {
        "team key": keys.make(os.urandom(keys.RANDOM_BYTES)),
        "expired key": keys.make(os.urandom(keys.RANDOM_BYTES)),
        "unknown key": keys.make(os.urandom(keys.RANDOM_BYTES)),
        "upstream key": f"sk-{secrets.token_urlsafe(24)}",
        "spare upstream key": secrets.token_hex(20),  # looks like nothing special
        "pasted upstream key": f"sk-{secrets.token_urlsafe(24)}",
        **{name: secrets.token_urlsafe(24) for name in _PLAIN},
    }


_PLAIN = (
    "store password",
    "former store password",
    "sentinel password",
    "admin token",
    "wrong admin token",
    "JWT secret",
    "JWT claim",
    "URL signature",
    "prompt",
    "refused prompt",
    "user field",
    "file bytes",
    "refused file bytes",
    "file name",
    "idempotency key",
    "query string",
    "path",
    "header value",
    "cookie",
    "wrong value",
    "broken body",
    "upstream's own",
)


def leaks(places: Iterable[Place], canaries: Mapping[str, str]) -> set[Leak]:
    """Every secret that stands, whole, in part or in another writing, where it does not belong."""
    wanted = {name: tuple(writings(value)) for name, value in canaries.items()}
    found = set()
    for place in places:
        data = place.data.lower()
        for name, forms in wanted.items():
            if name not in place.belongs and any(form.lower() in data for form in forms):
                found.add(Leak(name, place.name))
    return found


def writings(secret: str) -> Iterator[bytes]:
    """Byte strings of which one stands wherever the secret, its first or its last characters do."""
    raw = secret.encode()
    for piece in (raw[:PIECE], raw[-PIECE:]):
        yield piece
        yield piece.hex().encode()
    yield quote(secret).encode()
    for offset in range(3):  # base64 of a text that has it somewhere: what is left of it at each of the three steps
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(bytes(offset) + raw)
            yield whole[4 if offset else 0 : len(whole) // 4 * 4 - 4]


def parts_of_token(token: str) -> dict[str, str]:
    """Claims and signature of a JWT; its header is everybody's."""
    _, claims, signature = token.split(".")
    return {"JWT's claims": claims[24:], "JWT's signature": signature}
