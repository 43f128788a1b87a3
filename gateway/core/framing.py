"""What must be right about a request's head before anything in it is believed (RFC 9110, RFC 9112).

The server's parser takes more than two parties could read alike. What it lets through and should not is refused
here, and the connection closes, for its next bytes cannot be trusted either.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from gateway.core.errors import MalformedRequest

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024

# Tokens of RFC 9110 5.6.2, lower case, without the underscore; between two of them a byte that no token has.
_NAMES = re.compile(rb"[!#$%&'*+\-.^`|~0-9a-z]+(?::[!#$%&'*+\-.^`|~0-9a-z]+)*+")
_VALUES = re.compile(rb"[\t\x20-\x7e]*")
_LENGTH = re.compile(rb"[0-9]{1,15}")


def check(*, headers: Sequence[tuple[bytes, bytes]], http_version: str, method: str) -> None:
    """Raise MalformedRequest for a head that another reader could take for something else.

    headers: as received, names in lower case.
    """
    if http_version not in ("1.0", "1.1"):
        raise MalformedRequest("This gateway speaks HTTP/1.1.")
    names = [name for name, _ in headers]
    joined, values = b":".join(names), b"".join([value for _, value in headers])
    if len(names) > MAX_HEADERS or len(joined) + len(values) >= MAX_HEADER_BYTES + len(names):
        raise MalformedRequest(f"The request has too many or too large headers; at most {MAX_HEADERS} of 32 KB in all.")
    one_each = joined.count(b":") == len(names) - 1
    if names and not (one_each and _NAMES.fullmatch(joined) and _VALUES.fullmatch(values)):
        raise MalformedRequest("A header has a name or a value with bytes that HTTP does not allow there.")
    hosts = names.count(b"host")
    if hosts != 1 and not (http_version == "1.0" and not hosts):
        raise MalformedRequest("A request has exactly one Host header.")
    if b"content-length" in names or b"transfer-encoding" in names:
        _check_length(headers, http_version, method)


def _check_length(headers: Sequence[tuple[bytes, bytes]], http_version: str, method: str) -> None:
    """Where the body ends must be said once and in one way (RFC 9112, 6)."""
    lengths = [value for name, value in headers if name == b"content-length"]
    encodings = [value for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) > 1 or len(encodings) > 1 or (lengths and encodings):
        raise MalformedRequest("A request has one Content-Length or one Transfer-Encoding, not several, not both.")
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise MalformedRequest("Content-Length is not a plain number.")
    if encodings and (encodings[0].lower() != b"chunked" or http_version == "1.0"):
        raise MalformedRequest("The only Transfer-Encoding is chunked, and only in HTTP/1.1.")
    if method in ("GET", "HEAD", "DELETE", "OPTIONS") and (encodings or (lengths and lengths[0].strip(b"0"))):
        raise MalformedRequest(f"A {method} request has no body here.")


def content_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """The announced length of the body in bytes, of a checked head."""
    for name, value in headers:
        if name == b"content-length":
            return int(value)
    return None


def client_address(
    peer: str, headers: Sequence[tuple[bytes, bytes]], trusted: Sequence[IPv4Network | IPv6Network]
) -> str:
    """The address the request came from: the right-most hop of X-Forwarded-For that is no trusted proxy.

    Only a trusted peer is believed at all; what is no address ends the walk.
    """
    if not trusted:
        return peer
    address = _address(peer)
    if address is None or not any(address in network for network in trusted):
        return peer
    hops = b",".join(value for name, value in headers if name == b"x-forwarded-for").split(b",")
    for hop in reversed(hops[-32:]):
        found = _address(hop.strip().decode("latin-1"))
        if found is None:
            break
        address = found
        if not any(found in network for network in trusted):
            break
    return str(address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
