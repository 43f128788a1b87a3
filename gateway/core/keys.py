"""Opaque keys: their form, their hash, how a request carries one and how it is found in the config.

A key that the gateway makes is ``igw_`` + 33 base62 characters of randomness + 6 base62 characters of their CRC-32
(IEEE 802.3, zero-padded): GitHub's shape, so that a secret scanner tells a real key from noise, and the metrics a
mistyped one. Any other secret of 32 to 512 characters works too, if its SHA-256 stands in the config:
a company may bring keys that it already has. A fast hash is enough for secrets that nobody can guess; a slow one
would be a way to keep the gateway busy.

No word of an error repeats what was sent, and the message is the caller's: the same one for every reason.
"""

import hashlib
import hmac
import re
import zlib
from collections.abc import Iterable, Mapping

from gateway.core.catalog import Key
from gateway.core.errors import AuthenticationFailed, ParameterError

PREFIX = "igw_"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

#: Characters of randomness and of checksum. 62**33 is 2**196.5; 62**6 exceeds 2**32, so every CRC-32 fits.
RANDOM_LENGTH = 33
CHECKSUM_LENGTH = 6

#: Bytes that `make` needs at least. 320 bits taken modulo 62**33 leave a bias below 2**-123, which is none.
RANDOM_BYTES = 40

#: Secrets that are not of our own form: shorter ones may be guessed, longer ones fit in no sensible header.
MIN_SECRET_LENGTH = 32
MAX_SECRET_LENGTH = 512

_KEY = re.compile(f"{PREFIX}([0-9A-Za-z]{{{RANDOM_LENGTH}}})([0-9A-Za-z]{{{CHECKSUM_LENGTH}}})")
_VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]+")


def make(random_bytes: bytes) -> str:
    """A new key of 43 characters, with 196 bits of entropy.

    random_bytes: at least RANDOM_BYTES from a cryptographic source; fewer raise ValueError.
    """
    if len(random_bytes) < RANDOM_BYTES:
        raise ValueError(f"a key needs {RANDOM_BYTES} random bytes, got {len(random_bytes)}")
    body = _base62(int.from_bytes(random_bytes) % len(ALPHABET) ** RANDOM_LENGTH, width=RANDOM_LENGTH)
    return PREFIX + body + _checksum(body)


def looks_like_key(text: str) -> bool:
    """Whether `text` has the form of a key that `make` made: prefix, length, alphabet and checksum."""
    match = _KEY.fullmatch(text)
    return match is not None and match[2] == _checksum(match[1])


def digest(secret: str) -> bytes:
    """SHA-256 of the secret's UTF-8, 32 bytes: what the config holds in hex, and the only form we keep."""
    return hashlib.sha256(secret.encode()).digest()


def find(secret: str, keys: Mapping[bytes, Key], now: float, *, message: str) -> Key:
    """The key that `secret` opens at `now` (unix seconds).

    keys: by digest. message: what the caller of the API reads, whichever the reason. Raises AuthenticationFailed
    with the reason malformed, unknown or expired.
    """
    if not MIN_SECRET_LENGTH <= len(secret) <= MAX_SECRET_LENGTH:
        raise AuthenticationFailed(message, reason="malformed" if secret.startswith(PREFIX) else "unknown")
    wanted = digest(secret)
    found = keys.get(wanted)
    # An unknown secret is compared too, so that it costs what a known one costs.
    same = hmac.compare_digest(wanted, bytes(len(wanted)) if found is None else found.digest)
    if found is None or not same:
        mistyped = secret.startswith(PREFIX) and not looks_like_key(secret)
        raise AuthenticationFailed(message, reason="malformed" if mistyped else "unknown")
    if found.expires is not None and now >= found.expires:
        raise AuthenticationFailed(message, reason="expired", team=found.team)
    return found


def from_headers(headers: Iterable[tuple[bytes, bytes]], *, message: str) -> str:
    """The credential of a request: a key or a JWT, of visible ASCII, not yet verified.

    From ``Authorization: Bearer X`` (RFC 6750, 2.1; the scheme in any case, RFC 9110, 11.1) or ``api-key: X``
    (Azure's form). headers: names in lower case, as in an ASGI scope. message: of the AuthenticationFailed that
    it raises with the reason missing or malformed. Two credentials that differ, or a repeated Authorization, raise
    ParameterError: no rule says which of them counts, so an intermediary may have read the other one.
    """
    authorizations: list[bytes] = []
    credentials: set[bytes] = set()
    for name, value in headers:
        if name == b"authorization":
            authorizations.append(value.strip(b" \t"))
        elif name == b"api-key":
            credentials.add(value.strip(b" \t"))
    if len(authorizations) > 1:
        raise ParameterError("The Authorization header was sent more than once.", param="Authorization")
    for authorization in authorizations:
        scheme, _, credential = authorization.partition(b" ")
        if scheme and scheme.lower() != b"bearer":
            raise AuthenticationFailed(message, reason="malformed")
        credentials.add(credential.lstrip(b" "))
    # A client with an empty key still sends the bare header: that says nothing, so it contradicts nothing.
    credentials.discard(b"")
    if len(credentials) > 1:
        raise ParameterError("The request carries two keys that differ. Send one.", param="Authorization")
    if not credentials:
        raise AuthenticationFailed(message, reason="missing")
    credential = credentials.pop()
    if not _VISIBLE_ASCII.fullmatch(credential):
        raise AuthenticationFailed(message, reason="malformed")
    return credential.decode("ascii")


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), width=CHECKSUM_LENGTH)


def _base62(number: int, *, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
