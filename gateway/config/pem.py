"""What a public key in PEM is (RFC 7468): its type, and the algorithms of tokens that go with it (RFC 7518, 3.1).

Read here, and not by the library that verifies: a key that can never verify anything is then told when the file is
checked and not by 401s, and `gateway check` starts as fast as ever. Whether a point lies on its curve is left to that
library.
"""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.config.problems import listed

NO_PUBLIC_KEY = (
    "this PEM text is no public key; copy it whole, from -----BEGIN PUBLIC KEY----- to -----END PUBLIC KEY-----"
)
MIN_RSA = 2048  #: bits (RFC 7518, 3.3)

_PEM = re.compile(r"-----BEGIN ((?:RSA )?PUBLIC KEY)-----\s+([0-9A-Za-z+/=\s]+)-----END \1-----\s*")

_INTEGER, _BITS, _OID, _SEQUENCE = 0x02, 0x03, 0x06, 0x30  # tags of DER (X.690, 8)

_RSA, _EC, _ED25519 = (bytes.fromhex(oid) for oid in ("2a864886f70d010101", "2a8648ce3d0201", "2b6570"))

#: Curve by its OID: name, bytes of a coordinate, algorithm.
_CURVES = {
    bytes.fromhex("2a8648ce3d030107"): ("P-256", 32, "ES256"),
    bytes.fromhex("2b81040022"): ("P-384", 48, "ES384"),
    bytes.fromhex("2b81040023"): ("P-521", 66, "ES512"),
}


@dataclass(frozen=True, slots=True)
class PublicKeyKind:
    """name: for people. algorithms: those whose signatures the key can verify."""

    name: str
    algorithms: tuple[str, ...]


class _Unfit(Exception):
    """A public key, but none for tokens. The message is for the file's author."""


def public_key_kind(text: str) -> PublicKeyKind:
    """Which public key this is. Raises ValueError, in words for the file's author, where it can verify no token."""
    if not (match := _PEM.fullmatch(text)):
        raise ValueError(NO_PUBLIC_KEY)
    try:
        der = base64.b64decode("".join(match[2].split()), validate=True)
        return _rsa(der) if match[1].startswith("RSA") else _of_any_type(der)
    except _Unfit as exc:
        raise ValueError(str(exc)) from None
    except (ValueError, IndexError):
        raise ValueError(NO_PUBLIC_KEY) from None


def misfit(text: str, algorithms: Iterable[str]) -> str | None:
    """Why tokens with these algorithms cannot be verified with that key; None where they can. text: a good one."""
    kind = public_key_kind(text)
    for algorithm in algorithms:
        if algorithm not in kind.algorithms:
            return f"this key is {kind.name}, which does not go with {algorithm}; expected {listed(kind.algorithms)}"
    return None


def _of_any_type(der: bytes) -> PublicKeyKind:
    """A SubjectPublicKeyInfo (RFC 5280, 4.1)."""
    ((whole, info),) = _items(der)
    (about, algorithm), (bits, key) = _items(info)
    (oid, type_), *parameters = _items(algorithm)
    if (whole, about, oid, bits, key[:1]) != (_SEQUENCE, _SEQUENCE, _OID, _BITS, b"\0"):
        raise ValueError("another structure")
    if type_ == _RSA:
        return _rsa(key[1:])
    if type_ == _ED25519 and len(key) == 33:
        return PublicKeyKind("Ed25519", ("EdDSA",))
    if type_ == _EC and parameters and parameters[0][1] in _CURVES:
        name, size, fitting = _CURVES[parameters[0][1]]
        if (key[1], len(key)) in {(4, 2 * size + 2), (2, size + 2), (3, size + 2)}:
            return PublicKeyKind(name, (fitting,))
    raise _Unfit("this public key is of a type that is not taken; expected RSA, P-256, P-384, P-521 or Ed25519")


def _rsa(der: bytes) -> PublicKeyKind:
    """An RSAPublicKey (RFC 8017, A.1.1)."""
    ((whole, numbers),) = _items(der)
    (first, modulus), (second, _) = _items(numbers)
    if (whole, first, second) != (_SEQUENCE, _INTEGER, _INTEGER):
        raise ValueError("another structure")
    bits = int.from_bytes(modulus).bit_length()
    if bits < MIN_RSA:
        raise _Unfit(f"this RSA key has {bits} bits; tokens need {MIN_RSA} at least")
    return PublicKeyKind(f"RSA of {bits} bits", ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))


def _items(der: bytes) -> list[tuple[int, bytes]]:
    """The tags and contents that the bytes are made of, to their end. Raises ValueError or IndexError."""
    found = []
    while der:
        tag, length, start = der[0], der[1], 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(der[2:start])
        content = der[start : start + length]
        if len(content) != length:
            raise ValueError("cut")
        found.append((tag, content))
        der = der[start + length :]
    return found
