"""Requests within requests: whatever a head says of its body's length, no second request comes out of that body."""

import contextlib
import re
from collections.abc import Iterator
from itertools import product

import pytest

from tests.e2e import wire
from tests.e2e.watching import Watched
from tests.support import packages

#: Ways to write the one header or the other that some reader passes over and another one obeys.
ENCODINGS = (
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: CHUNKED",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: \x00chunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunkedx",
    b"Transfer-Encoding: 'chunked'",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding\r\n: chunked",
    b" Transfer-Encoding: chunked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer-Encoding\x00: chunked",
    b"Transfer-\xc3\x8bncoding: chunked",
    b"Transfer-Encoding: chunk\r\n ed",
)
LENGTHS = (
    b"Content-Length: %d",
    b"Content-Length: +%d",
    b"Content-Length: 0\r\nContent-Length: %d",
    b"Content-Length: %d\r\nContent-Length: 0",
    b"Content-Length: %d, 0",
    b"Content-Length: 0x%d",
    b"Content-Length : %d",
    b"Content_Length: %d",
    b"Content-Length: %d\x0b",
    b"Content-Length: -%d",
    b"Content-Length:\r\n %d",
)
STARTS = (b"POST /v1/images/generations", b"GET /healthz", b"POST /healthz", b"GET /v1/models", b"GET /nothing")


@pytest.fixture
def unmoved(roomy: Watched) -> Iterator[Watched]:
    """The roomy gateway, none of whose requests has reached the upstream whole by the end."""
    yield roomy
    roomy.counters()
    assert roomy.simulator.record.totals.complete == 0


def heard(url: str, request: bytes) -> list[int]:
    """The statuses of all answers until the connection's end."""
    data = b""
    with wire.connected(url) as line, contextlib.suppress(OSError):
        line.send(request)
        line.socket.shutdown(1)
        while piece := line.socket.recv(65536):
            data += piece
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", data)]


def gadget(start: bytes, lines: tuple[bytes, ...], body: bytes, key: str) -> bytes:
    own = (start + b" HTTP/1.1", b"Host: gateway.test", b"Content-Type: application/json")
    return b"\r\n".join((*own, b"Authorization: Bearer " + key.encode(), *lines, b"", body))


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.decode())
def test_no_second_request_comes_out_of_a_body(start: bytes, unmoved: Watched) -> None:
    """A request in the body of one whose length could be read in two ways is never carried out."""
    key = unmoved.key("plain")
    hidden = wire.generation(key, prompt="smuggled")
    ended = b"0\r\n\r\n" + hidden  # for who believes in chunks, the body ends before it
    line = b"%x\r\n" % len(hidden)
    chunk = line + hidden + b"\r\n0\r\n\r\n"  # for who believes in the length, the body ends behind this line
    tried = 0
    for encoding, turned in product(ENCODINGS, (False, True)):
        for body, length in ((ended, len(ended)), (chunk, len(line))):
            lines = (b"Content-Length: %d" % length, encoding)
            answers = heard(unmoved.url, gadget(start, lines[::-1] if turned else lines, body, key))
            assert answers == [400], lines
            tried += 1
    for told in LENGTHS[1:]:
        assert heard(unmoved.url, gadget(start, (told % len(hidden),), hidden, key)) == [400], told
        tried += 1
    assert tried == 4 * len(ENCODINGS) + len(LENGTHS) - 1


@pytest.mark.slow
def test_the_corpus_of_another_server(roomy: Watched) -> None:
    """Of the requests that gunicorn must refuse none but the listed, each with its reason, is taken for one here."""
    exceptions = {
        "006": "their limit on a line; ours is on the head as a whole",
        "007": "their limit on a header",
        "008": "their limit on a header",
        "011": "their configured number of headers",
        "012": "their configured size of a header",
        "limit_header_default_01": "their limit on a header",
        "041": "two Content-Types: of no meaning where nothing of the head goes up",
        "rfc9110_trailer_forbidden_host_01": "a trailer, which decides nothing here: it is passed over",
        "rfc9112_chunked_missing_final_crlf_01": "answered before the body's end, and the connection closed",
        "rfc9112_leading_crlf_02": "empty lines before a request, which RFC 9112, 2.2 says to pass over",
        "rfc9112_target_asterisk_non_options_01": "a path like any other, at which there is nothing",
        "rfc9112_target_non_ascii_01": "refused by its path, with a 404",
        "rfc9112_target_nul_01": "refused by its path, with a 404",
    }
    corpus = sorted((packages.sources("gunicorn==27.0.1") / "tests/requests/invalid").glob("*.http"))
    assert len(corpus) >= 81
    first = {path.stem: next(iter(heard(roomy.url, _decoded(path.read_bytes()))), None) for path in corpus}
    taken = {name for name, status in first.items() if status not in (None, 400, 408)}
    assert taken <= exceptions.keys()
    assert 200 not in first.values()


@pytest.mark.slow
def test_what_another_server_must_take(roomy: Watched) -> None:
    """Of the requests that gunicorn must take none but the listed, each with its reason, is refused as no clear one."""
    strict = {
        "008": "a GET with a body",
        "013": "blanks within a chunk's line, which readers see differently",
        "018": "its second request has no Host",
        "020": "a GET with a body",
        "025": "another coding beside chunked",
        "025_line": "another coding beside chunked",
        "028": "a blank before a header's colon",
        "029": "another coding beside chunked",
        "030": "another coding beside chunked",
        "031": "no method of HTTP's",
        "031compat": "no method of HTTP's",
        "031compat2": "no method of HTTP's",
        "040": "names with underscores, which some readers take for others",
        "040_compat": "names with underscores",
        "compat_obs_fold": "a folded line, which RFC 9112, 5.2 lets a server refuse",
        "compat_obs_fold_huge": "folded lines",
        "pp_01": "the PROXY protocol, which is not spoken here",
        "pp_02": "the PROXY protocol",
        "pp_04": "the PROXY protocol",
        "pp_05": "the PROXY protocol",
        "rfc9110_body_framing_get_cl_nonzero_01": "a GET with a body",
        "rfc9110_field_value_obs_text_01": "bytes that no ASCII reader has letters for",
        "rfc9112_smuggle_gzip_chunked_01": "another coding beside chunked",
        "rfc9112_smuggle_te_identity_chunked_01": "another coding beside chunked",
        "rfc9112_target_authority_connect_01": "CONNECT: no proxy is here",
        "rfc9112_target_authority_ipv6_01": "CONNECT",
    }
    corpus = sorted((packages.sources("gunicorn==27.0.1") / "tests/requests/valid").glob("*.http"))
    assert len(corpus) >= 62
    refused = {path.stem for path in corpus if 400 in heard(roomy.url, _with_host(_decoded(path.read_bytes())))}
    assert refused <= strict.keys()


def _with_host(request: bytes) -> bytes:
    """Many of those are older than the rule that a request has one."""
    if b"\r\nhost:" in request.lower():
        return request
    return request.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\nHost: x\r\n", 1)


def _decoded(text: bytes) -> bytes:
    r"""What a file of the corpus stands for: its line breaks are written out as \r\n, the real ones are none."""
    escapes = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\x00"}
    return re.sub(
        rb"\\(?:x([0-9a-fA-F]{2})|([rnt0]))",
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else escapes[found[2]],
        text.replace(b"\n", b""),
    )
