"""Heads that two readers could take for different requests are refused; who the client is behind proxies."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import MalformedRequest
from gateway.core.framing import MAX_HEADER_BYTES, MAX_HEADERS, check, client_address, content_length

HOST = (b"host", b"gateway")
CHUNKED = (b"transfer-encoding", b"chunked")


BAD_ENCODINGS = [b"gzip, chunked", b"identity", b"xchunked", b"chunked;a", b"chunked,", b" chunked", b""]
BAD_LENGTHS = [b"", b"+1", b"-1", b"1 ", b"0x1", b"1,1", b"1_0", b"1e1", b"9" * 16, b"\xd9\xa1"]
BAD_NAMES = [b"", b"x_y", b"x y", b"x:", b"x\x00", b"X", b"\xe4"]
BAD_VALUES = [b"\x00", b"a\rb", b"a\nb", b"\x7f", b"\xc3\xa4", b"\x1b[31m"]


def length(value: bytes) -> tuple[bytes, bytes]:
    return b"content-length", value


@pytest.mark.parametrize(
    ("headers", "version", "method"),
    [
        ([HOST], "1.1", "GET"),
        ([HOST, length(b"12")], "1.1", "POST"),
        ([HOST, CHUNKED], "1.1", "POST"),
        ([HOST, (b"transfer-encoding", b"Chunked")], "1.1", "POST"),
        ([HOST, length(b"0")], "1.1", "GET"),
        ([HOST, (b"connection", b"Upgrade, HTTP2-Settings"), (b"upgrade", b"h2c")], "1.1", "POST"),
        ([], "1.0", "GET"),
        ([length(b"3")], "1.0", "POST"),
        ([HOST, (b"x-a", b"a\tb"), (b"x-a", b"")], "1.1", "POST"),
        ([HOST, *[(b"x-%d" % i, b"") for i in range(MAX_HEADERS - 1)]], "1.1", "GET"),
        ([HOST, (b"x", b"a" * (MAX_HEADER_BYTES - 12))], "1.1", "GET"),
    ],
)
def test_heads_that_say_one_thing_pass(headers: list[tuple[bytes, bytes]], version: str, method: str) -> None:
    """One Host, one way to tell the body's length, tokens and printable values: no complaint."""
    check(headers=headers, http_version=version, method=method)


@pytest.mark.parametrize(
    ("headers", "version", "method"),
    [
        ([], "1.1", "GET"),
        ([HOST, HOST], "1.1", "GET"),
        ([HOST, (b"host", b"other")], "1.1", "GET"),
        ([HOST, HOST], "1.0", "GET"),
        ([HOST, length(b"1"), length(b"1")], "1.1", "POST"),
        ([HOST, length(b"1"), CHUNKED], "1.1", "POST"),
        ([HOST, CHUNKED, CHUNKED], "1.1", "POST"),
        *(([HOST, (b"transfer-encoding", value)], "1.1", "POST") for value in BAD_ENCODINGS),
        ([HOST, CHUNKED], "1.0", "POST"),
        *(([HOST, length(value)], "1.1", "POST") for value in BAD_LENGTHS),
        *(([HOST, length(b"1")], "1.1", method) for method in ("GET", "HEAD", "DELETE", "OPTIONS")),
        ([HOST, CHUNKED], "1.1", "GET"),
        *(([HOST, (name, b"x")], "1.1", "POST") for name in BAD_NAMES),
        *(([HOST, (b"x", value)], "1.1", "POST") for value in BAD_VALUES),
        ([HOST, *[(b"x-%d" % i, b"") for i in range(MAX_HEADERS)]], "1.1", "GET"),
        ([HOST, (b"x", b"a" * (MAX_HEADER_BYTES - 11))], "1.1", "GET"),
    ],
)
def test_heads_that_say_two_things_are_refused(headers: list[tuple[bytes, bytes]], version: str, method: str) -> None:
    """Each is a 400 after which the connection closes, for nothing behind it can be trusted."""
    with pytest.raises(MalformedRequest) as refused:
        check(headers=headers, http_version=version, method=method)
    assert refused.value.status == 400
    assert refused.value.close


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=5))
def test_what_passes_holds_no_byte_that_ends_a_line(headers: list[tuple[bytes, bytes]]) -> None:
    """Whatever bytes a head is made of, what is let through has neither CR, LF nor NUL in it."""
    try:
        check(headers=[HOST, *headers], http_version="1.1", method="POST")
    except MalformedRequest:
        return
    for name, value in headers:
        assert not set(b"\r\n\x00") & set(name + value)
        assert name


def test_the_length_of_a_checked_head() -> None:
    """The announced number, or None where the body is chunked or there is none."""
    assert content_length([HOST, length(b"0042")]) == 42
    assert content_length([HOST, CHUNKED]) is None


PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", [b"1.2.3.4"], "203.0.113.5"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", [b"6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", [b"6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
        ("10.0.0.1", [b"6.6.6.6", b"1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", [b"10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [b"1.2.3.4, nonsense"], "10.0.0.1"),
        ("10.0.0.1", [b"1.2.3.4, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b"1.2.3.4:5678"], "10.0.0.1"),
        ("fd00::1", [b"2001:db8::7"], "2001:db8::7"),
        ("testclient", [b"1.2.3.4"], "testclient"),
        ("10.0.0.1", [b", ".join([b"6.6.6.6", *[b"10.0.0.9"] * 1000])], "10.0.0.9"),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str, forwarded: list[bytes], address: str) -> None:
    """The right-most hop that is no trusted proxy; what a stranger writes is ignored, nonsense ends the walk."""
    headers = [HOST, *[(b"x-forwarded-for", value) for value in forwarded]]
    assert client_address(peer, headers, PROXIES) == address
