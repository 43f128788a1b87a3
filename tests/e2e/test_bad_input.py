"""What clients should not send and do: a clear answer, nothing charged, nothing passed on, and no fault of ours."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.core import keys
from gateway.simulator.script import Behaviour
from tests.e2e import wire
from tests.e2e.rows import PROMPT
from tests.e2e.watching import Series, Watched, changes, series
from tests.simulator.pictures import png
from tests.support.simulated import API_KEY
from tests.support.site import wait_until

SMALL = png()
PICTURE = wire.image(SMALL)
WORDS = wire.text("prompt", PROMPT)

GIF = b"GIF89a" + bytes(200)
JPEG = b"\xff\xd8\xff\xe0" + bytes(200)


@pytest.fixture
def unharmed(roomy: Watched) -> Iterator[Watched]:
    """The roomy gateway, which at the end has charged nobody, and has sent no whole request up."""
    before = roomy.used("plain")
    yield roomy
    assert roomy.used("plain") == before
    assert roomy.simulator.record.totals.complete == 0


def bad(body: bytes, code: str, param: str | None, *, status: int = 400, id: str = "") -> object:  # noqa: A002  pytest's own word
    return pytest.param(body, status, code, param, id=id or body[:40].decode("latin-1"))


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        bad(b"", "invalid_value", None, id="empty"),
        bad(b"{", "invalid_value", None),
        bad(b"[]", "invalid_value", None),
        bad(b"null", "invalid_value", None),
        bad(b'{"prompt": "x"} {}', "invalid_value", None),
        bad(b'\xef\xbb\xbf{"prompt": "x"}', "invalid_value", None, id="byte order mark"),
        bad('{"prompt": "x"}'.encode("utf-16"), "invalid_value", None, id="UTF-16"),
        bad(b'{"prompt": "\xff"}', "invalid_value", None, id="no UTF-8"),
        bad(b'{"prompt": "\\ud800"}', "invalid_value", "prompt", id="half a surrogate pair"),
        bad(b'{"prompt": "x", "n": NaN}', "invalid_value", None),
        bad(b'{"prompt": "x", "user": ' + b"[" * 400 + b"]" * 400 + b"}", "invalid_value", None, id="deep"),
        bad(b'{"prompt": "x", "n": 1, "n": 10}', "duplicate_parameter", "n"),
        bad(b'{"prompt": "x", "n": 1, "N": 10}', "duplicate_parameter", "N"),
        bad(
            '{"prompt": "x", "size": "1024x1024", "\u017fize": "1792x1024"}'.encode(),
            "duplicate_parameter",
            "\u017fize",
            id="long s",
        ),
        bad(b'{"prompt": "x", "N": 10}', "unknown_parameter", "N"),
        bad(b'{"prompt": "x", "n": "1"}', "invalid_value", "n"),
        bad(b'{"prompt": "x", "n": 1.0}', "invalid_value", "n"),
        bad(b'{"prompt": "x", "n": true}', "invalid_value", "n"),
        bad(b'{"prompt": "x", "n": -1}', "invalid_value", "n"),
        bad(b'{"prompt": "x", "n": 11}', "invalid_value", "n"),
        bad(b'{"prompt": "x", "n": ' + b"9" * 5000 + b"}", "invalid_value", None, id="n of 5000 digits"),
        bad(b'{"prompt": "x", "size": "1024X1024"}', "invalid_value", "size"),
        bad(b'{"prompt": "x", "size": "256x256"}', "invalid_value", "size"),
        bad(b'{"prompt": "x", "quality": "HD"}', "invalid_value", "quality"),
        bad(b'{"prompt": "x", "style": "loud"}', "invalid_value", "style"),
        bad(b'{"prompt": "x", "response_format": "png"}', "invalid_value", "response_format"),
        bad(b'{"prompt": "x", "user": 1}', "invalid_value", "user"),
        bad(b'{"prompt": "x", "stream": true}', "unknown_parameter", "stream"),
        bad(b'{"prompt": ""}', "invalid_value", "prompt"),
        bad(b'{"prompt": " \\n"}', "invalid_value", "prompt"),
        bad(b'{"prompt": ["x"]}', "invalid_value", "prompt"),
        bad(b'{"prompt": null}', "missing_required_parameter", "prompt"),
        bad(json.dumps({"prompt": "x" * 32_001}).encode(), "invalid_value", "prompt", id="32001 characters"),
        bad(b'{"prompt": "x", "model": ""}', "model_not_found", "model", status=404),
        bad(b'{"prompt": "x", "model": 3}', "invalid_value", "model"),
    ],
)
def test_a_generation_that_is_wrong(body: bytes, status: int, code: str, param: str | None, unharmed: Watched) -> None:
    """A body that two readers could take for different orders, or for none, is refused with the field's name."""
    answer = wire.ask(unharmed.url, wire.generation_of(body, unharmed.key("plain")))
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    assert answer.error["message"]
    assert answer.header("x-request-id")


def form(*parts: wire.Part, code: str, param: str | None = None, status: int = 400, id: str) -> object:  # noqa: A002
    return pytest.param(wire.form(*parts), status, code, param, id=id)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        form(WORDS, code="missing_required_parameter", param="image", id="no image"),
        form(wire.image(SMALL, "mask"), WORDS, code="missing_required_parameter", param="image", id="mask alone"),
        form(PICTURE, code="missing_required_parameter", param="prompt", id="no prompt"),
        form(PICTURE, PICTURE, WORDS, code="duplicate_parameter", param="image", id="two images"),
        form(*[wire.image(SMALL, "image[]")] * 2, WORDS, code="invalid_value", param="image", id="two image[]"),
        form(PICTURE, wire.image(SMALL, "image[]"), WORDS, code="invalid_value", param="image", id="image and image[]"),
        form(wire.text("image", "x"), WORDS, code="invalid_value", param="image", id="image as text"),
        form(("prompt", "p.txt", b"x"), PICTURE, code="invalid_value", param="prompt", id="prompt as file"),
        form(wire.image(SMALL, "picture"), WORDS, code="unknown_parameter", param="picture", id="unknown file"),
        form(wire.image(GIF), WORDS, code="invalid_image", param="image", id="GIF named png"),
        form(wire.image(JPEG), WORDS, code="invalid_image", param="image", id="JPEG"),
        form(wire.image(b""), WORDS, code="invalid_image", param="image", id="empty image"),
        form(wire.image(SMALL[:20]), WORDS, code="invalid_image", param="image", id="20 bytes of a PNG"),
        form(
            wire.image(SMALL.replace(b"IHDR\0\0\0", b"IHDR\0\0\1")),
            WORDS,
            code="invalid_image",
            param="image",
            id="damaged",
        ),
        form(PICTURE, wire.image(GIF, "mask"), WORDS, code="invalid_image", param="mask", id="mask is a GIF"),
        form(
            PICTURE,
            wire.image(png((32, 64)), "mask"),
            WORDS,
            code="invalid_image",
            param="mask",
            id="mask of other size",
        ),
        form(
            wire.image(png((32, 64)), "mask"),
            PICTURE,
            WORDS,
            code="invalid_image",
            param="mask",
            id="such a mask first",
        ),
        form(
            wire.text("n", "1"), PICTURE, wire.text("n", "10"), WORDS, code="duplicate_parameter", param="n", id="two n"
        ),
        form(
            wire.text("n", "1"), wire.text("N", "10"), PICTURE, WORDS, code="duplicate_parameter", param="N", id="n, N"
        ),
        form(wire.text("n", "01"), PICTURE, WORDS, code="invalid_value", param="n", id="n 01"),
        form(wire.text("n", "1\r\n"), PICTURE, WORDS, code="invalid_value", param="n", id="n and a line"),
        form(wire.text("quality", "hd"), PICTURE, WORDS, code="invalid_value", param="quality", id="hd edit"),
        form(wire.text("style", "vivid"), PICTURE, WORDS, code="unknown_parameter", param="style", id="style"),
        form(PICTURE, ("prompt", None, b"\xff"), code="invalid_value", param="prompt", id="prompt no UTF-8"),
        form(PICTURE, wire.text("prompt", "x" * 130_000), code="invalid_value", param="prompt", id="long prompt"),
        form(
            wire.image(wire.png(length=4 * 1024 * 1024 + 1)),
            WORDS,
            status=413,
            code="request_too_large",
            param="image",
            id="one byte over 4 MB",
        ),
        form(wire.image(wire.png(length=11 * 1024 * 1024)), WORDS, status=413, code="request_too_large", id="11 MB"),
        pytest.param(wire.form(PICTURE, WORDS) + b"x", 400, "invalid_value", None, id="epilogue"),
        pytest.param(b"x" + wire.form(PICTURE, WORDS), 400, "invalid_value", None, id="preamble"),
        pytest.param(wire.form(PICTURE, WORDS)[:-20], 400, "invalid_value", None, id="no closing boundary"),
        pytest.param(wire.form(PICTURE, WORDS).replace(b"\r\n", b"\n"), 400, "invalid_value", None, id="bare LF"),
        pytest.param(b"", 400, "invalid_value", None, id="empty body"),
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_edit_that_is_wrong(  # noqa: PLR0917  the columns of the table above
    body: bytes, status: int, code: str, param: str | None, framing: str, unharmed: Watched
) -> None:
    """A form that is wrong anywhere is refused, and what of it went up already never becomes a whole request."""
    length = len(body) if framing == "length" else None
    pieces = [body] if framing == "length" else list(wire.chunks(body))
    if framing == "chunked" and len(body) > 8 * 1024 * 1024:
        param = "image"  # without its length it is the image that is found to be too large
    answer = wire.ask(unharmed.url, wire.edit_head(unharmed.key("plain"), length=length), *pieces)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)


Made = Callable[[str], bytes]


def _head(*lines: str, path: str = wire.GENERATIONS, **more: str) -> Made:
    return lambda key: wire.head(path, *lines, key=key, **more) + b'{"prompt": "x"}'


def _changed(old: str, new: str) -> Made:
    """A good generation with one thing about its head changed."""
    return lambda key: wire.generation(key).replace(old.encode("latin-1"), new.encode("latin-1"), 1)


def _gzipped(key: str) -> bytes:
    body = gzip.compress(b'{"prompt": "x"}')
    return wire.head(wire.GENERATIONS, f"Content-Length: {len(body)}", "Content-Encoding: gzip", key=key) + body


HEADS: dict[str, tuple[int, str, Made]] = {
    "gzip": (415, "unsupported_media_type", _gzipped),
    "identity, gzip": (415, "unsupported_media_type", _changed("Host:", "Content-Encoding: identity, gzip\r\nHost:")),
    "form to generations": (
        415,
        "unsupported_media_type",
        _head("Content-Length: 15", content_type="multipart/form-data; boundary=x"),
    ),
    "urlencoded": (
        415,
        "unsupported_media_type",
        _head("Content-Length: 15", content_type="application/x-www-form-urlencoded"),
    ),
    "UTF-16 by its type": (
        415,
        "unsupported_media_type",
        _head("Content-Length: 15", content_type="application/json; charset=utf-16"),
    ),
    "two types": (400, "invalid_value", _changed("Host:", "Content-Type: multipart/form-data; boundary=x\r\nHost:")),
    "two encodings": (
        400,
        "invalid_value",
        _changed("Host:", "Content-Encoding: identity\r\nContent-Encoding: gzip\r\nHost:"),
    ),
    "no type": (415, "unsupported_media_type", _changed("Content-Type: application/json\r\n", "")),
    "JSON to edits": (415, "unsupported_media_type", _head("Content-Length: 15", path=wire.EDITS)),
    "no boundary": (
        400,
        "invalid_value",
        _head("Content-Length: 15", path=wire.EDITS, content_type="multipart/form-data"),
    ),
    "two boundaries": (
        400,
        "invalid_value",
        _head("Content-Length: 15", path=wire.EDITS, content_type="multipart/form-data; boundary=a; boundary=b"),
    ),
    "PUT": (405, "method_not_allowed", _changed("POST", "PUT")),
    "DELETE with a body": (400, "invalid_value", _changed("POST", "DELETE")),
    "PATCH": (405, "method_not_allowed", _changed("POST", "PATCH")),
    "two keys that differ": (400, "invalid_value", _changed("Host:", f"api-key: {'k' * 40}\r\nHost:")),
    "two Authorization": (400, "invalid_value", _changed("Host:", f"Authorization: Bearer {'k' * 40}\r\nHost:")),
    "no Host": (400, "invalid_value", _changed("Host: gateway.test\r\n", "")),
    "two Hosts": (400, "invalid_value", _changed("Host:", "Host: other.test\r\nHost:")),
    "two lengths": (400, "invalid_value", _changed("Host:", "Content-Length: 5\r\nHost:")),
    "length and chunked": (400, "invalid_value", _changed("Host:", "Transfer-Encoding: chunked\r\nHost:")),
    "length with a sign": (400, "invalid_value", _changed("Content-Length: ", "Content-Length: +")),
    "gzip, chunked": (
        400,
        "invalid_value",
        _head("Transfer-Encoding: gzip, chunked"),
    ),
    "chunked in HTTP/1.0": (
        400,
        "invalid_value",
        lambda key: wire.head(wire.GENERATIONS, "Transfer-Encoding: chunked", key=key).replace(
            b"HTTP/1.1", b"HTTP/1.0"
        ),
    ),
    "health with another method": (405, "method_not_allowed", _changed(f"POST {wire.GENERATIONS}", "POST /healthz")),
    "readiness with another method": (405, "method_not_allowed", _changed(f"POST {wire.GENERATIONS}", "PUT /readyz/")),
    "header with an underscore": (400, "invalid_value", _changed("Host:", "Content_Length: 5\r\nHost:")),
    "header with a byte over 127": (400, "invalid_value", _changed("Host:", "X-Name: \xe9\r\nHost:")),
    "folded header": (400, "invalid_value", _changed("Host:", "X-Name: a\r\n b\r\nHost:")),
    "120 headers": (400, "invalid_value", _changed("Host:", "X-Name: a\r\n" * 120 + "Host:")),
    "1000 headers": (400, "invalid_value", _changed("Host:", "X-Name: a\r\n" * 1000 + "Host:")),
    "40 KB of headers": (400, "invalid_value", _changed("Host:", f"X-Name: {'a' * 40_000}\r\nHost:")),
    "long path": (400, "invalid_value", _changed("/v1/", f"/{'a' * 70_000}/")),
    "no HTTP": (400, "invalid_value", lambda key: b"hello\r\n\r\n"),
    "HTTP/2": (400, "invalid_value", lambda key: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": (400, "invalid_value", lambda key: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)),
    "unknown URL": (404, "unknown_url", _changed("generations", "variations")),
    "two slashes": (404, "unknown_url", _changed("generations", "generations//")),
    "dots": (404, "unknown_url", _changed("/v1/images", "/v1/x/../images")),
    "other version": (404, "unknown_url", _changed("/v1/", "/v2/")),
    "health with a slash": (404, "unknown_url", _changed(wire.GENERATIONS, "/healthz//")),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_is_wrong(name: str, unharmed: Watched) -> None:
    """Whatever is wrong about a head, the answer is one error in the one shape, with a request id."""
    status, code, made = HEADS[name]
    answer = wire.ask(unharmed.url, made(unharmed.key("plain")))
    assert (answer.status, answer.error["code"]) == (status, code), answer.error
    assert answer.error.keys() >= {"message", "type", "param", "code"}
    assert answer.header("x-request-id")
    assert answer.header("cache-control") == "no-store"


def test_what_is_right_passes(roomy: Watched) -> None:
    """The same requests without their mistake are taken: both names of a key, null and auto, odd but honest headers."""
    key = roomy.key("plain")
    good = [
        wire.generation(key, f"api-key: {key}", size="auto", quality=None, n=None, model=None),
        wire.generation(None, f"api-key: {key}", background="transparent", moderation="low"),
        wire.generation(key, "Content-Encoding: identity").replace(
            b"application/json", b"application/json; charset=UTF-8"
        ),
        wire.generation(key).replace(b"/v1/images/generations", b"/images/generations/"),
        wire.generation(key).replace(b"generations ", b"generations?api-version=2024-02-01 "),
        wire.edit(key, WORDS, wire.image(SMALL, "image[]"), wire.text("n", "1"), wire.image(SMALL, "mask")),
    ]
    for request in good:
        assert wire.ask(roomy.url, request).status == 200, request
    assert roomy.simulator.record.totals.images_made == len(good)


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/v1/models", "/models", "/v1/usage", "/usage"])
def test_a_slash_at_the_end_changes_nothing(path: str, roomy: Watched) -> None:
    """A path is the same with a slash behind it, and the answer is no redirect."""
    assert [roomy.get(path, "plain").status, roomy.get(f"{path}/", "plain").status] == [200, 200]


# Clients that leave


@dataclass(frozen=True, slots=True)
class Leaving:
    """How much of a request a client sends before it leaves, and whether something of it has gone up by then."""

    when: str
    sent: Callable[[str], bytes]
    endpoint: str
    begun: bool = False


BIG = wire.form(wire.image(wire.png(length=300_000)), WORDS, wire.text("n", "2"))
PNG_ENDS = BIG.index(b"IEND")
NAME_OF_N = BIG.index(b'name="n"')


def _edit(until: int) -> Callable[[str], bytes]:
    return lambda key: wire.edit_head(key, length=len(BIG)) + BIG[:until]


def _chunked(until: int) -> Callable[[str], bytes]:
    return lambda key: wire.edit_head(key, length=None) + b"".join(wire.chunks(BIG[:until], size=5000, last=False))


LEAVING = (
    Leaving("before a generation's body", lambda key: wire.generation(key)[:-26], "generations"),
    Leaving("within a generation's body", lambda key: wire.generation(key)[:-1], "generations"),
    Leaving("before an edit's body", _edit(0), "edits"),
    Leaving("in the first delimiter", _edit(5), "edits"),
    Leaving("in the head of the file", _edit(60), "edits"),
    Leaving("in the PNG's head", _edit(130), "edits"),
    Leaving("in the file", _edit(150_000), "edits", begun=True),
    Leaving("at the end of the file", _edit(PNG_ENDS + 8), "edits", begun=True),
    Leaving("in the name of a text", _edit(NAME_OF_N), "edits", begun=True),
    Leaving("in the closing delimiter", _edit(len(BIG) - 4), "edits", begun=True),
    Leaving("before the last byte", _edit(len(BIG) - 1), "edits", begun=True),
    Leaving("in the file, chunked", _chunked(150_000), "edits", begun=True),
    Leaving("before the last chunk", _chunked(len(BIG)), "edits", begun=True),
)


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("leaving", LEAVING, ids=lambda leaving: leaving.when.replace(" ", "-"))
def test_a_client_that_leaves_before_its_request_is_complete(leaving: Leaving, how: str, unharmed: Watched) -> None:
    """Whatever was missing, the upstream never gets a whole request, nothing is charged and no slot stays taken."""
    before = unharmed.counters()
    record = unharmed.simulator.record
    wait_until(lambda: not _kept(unharmed.simulator.port))  # so that the first bytes that go up open one
    with wire.connected(unharmed.url) as connection:
        connection.send(leaving.sent(unharmed.key("plain")))
        if leaving.begun:
            wait_until(lambda: record.totals.connections_opened == 1)
        else:
            wait_until(lambda: unharmed.metric("gateway_inflight_requests", endpoint=leaving.endpoint) == 1)
        connection.leave(how)
    if leaving.begun:
        record.wait_for(lambda totals: totals.incomplete == 1)
    assert changes(before, unharmed.counters()) == _gone(leaving.endpoint)
    assert record.totals.images_made == 0


def _kept(port: int) -> bool:
    """Whether anybody has a connection to that port of this host."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return any(remote.endswith(f":{port:04X}") and state == "01" for _, _, remote, state, *_ in lines)


def _gone(endpoint: str) -> dict[Series, float]:
    requests = {"team": "plain", "endpoint": endpoint, "model": "none", "outcome": "client_gone"}
    return {
        series("gateway_requests_total", **requests): 1,
        series("gateway_errors_total", team="plain", code="client_gone"): 1,
    }


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("endpoint", ["generations", "edits"])
def test_a_client_that_leaves_while_the_upstream_works(endpoint: str, how: str, roomy: Watched) -> None:
    """Once its request is complete a client's leaving cancels nothing: made once, charged once, and the slot freed."""
    before, used = roomy.counters(), roomy.used("plain")
    roomy.simulator.script(Behaviour(latency=0.3))
    key = roomy.key("plain")
    with wire.connected(roomy.url) as connection:
        connection.send(wire.generation(key, n=2) if endpoint == "generations" else wire.edit(key, PICTURE, WORDS))
        roomy.simulator.record.wait_for(lambda totals: totals.complete == 1)
        connection.leave(how)
    assert roomy.used("plain")["concurrent"] == 1
    made = 2 if endpoint == "generations" else 1
    changed = changes(before, roomy.counters())
    order = {"team": "plain", "endpoint": endpoint, "model": "dall-e-3"}
    assert changed[series("gateway_images_total", size="1024x1024", quality="standard", **order)] == made
    assert changed[series("gateway_requests_total", outcome="ok", **order)] == 1
    now = roomy.used("plain")
    assert {rule: round(now[rule] - used[rule], 6) for rule in now} == {
        "images-day": made,
        "usd-month": round(made * 0.04, 6),
        "requests-day": 1,
        "concurrent": 0,
    }
    assert roomy.simulator.record.totals.images_made == made
    assert roomy.simulator.record.totals.complete == 1


# Refused before the body


def _tired(watched: Watched) -> None:
    """The team `day` has made its one image."""
    if watched.used("day")["images-day"] == 0:
        assert wire.ask(watched.url, wire.generation(watched.key("day"))).status == 200


@pytest.mark.parametrize(
    ("team", "lines", "status"),
    [
        ("day", (), 429),
        ("nobody", (), 401),
        ("gone", (), 403),
        ("square", (), 403),
        ("plain", ("Content-Encoding: gzip",), 415),
    ],
)
def test_a_refused_upload_costs_no_bytes(team: str, lines: tuple[str, ...], status: int, roomy: Watched) -> None:
    """A client that waits for 100 Continue gets its refusal instead, and never sends the body."""
    _tired(roomy)
    roomy.simulator.record.clear()
    before = roomy.metric("gateway_upload_bytes_total", endpoint="edits")
    key = "k" * 40 if team == "nobody" else roomy.key(team)
    answer = wire.ask(roomy.url, wire.edit_head(key, "Expect: 100-continue", *lines, length=4_000_000))
    assert (answer.status, answer.interim) == (status, ())
    assert answer.header("connection") == "close"
    roomy.counters()
    assert roomy.metric("gateway_upload_bytes_total", endpoint="edits") == before
    assert roomy.simulator.record.totals.connections_opened == 0


def test_an_accepted_upload_is_asked_for(roomy: Watched) -> None:
    """A client that waits for 100 Continue gets one, once the head is found good, and then its image."""
    body = wire.form(PICTURE, WORDS)
    with wire.connected(roomy.url) as connection:
        connection.send(wire.edit_head(roomy.key("plain"), "Expect: 100-continue", length=len(body)))
        assert connection.interim() == b"HTTP/1.1 100 Continue"
        connection.send(body)
        assert connection.read().status == 200
    (request,) = roomy.simulator.record.requests
    assert request.header("expect") == []


@pytest.mark.parametrize("endpoint", ["generations", "edits"])
def test_a_refusal_is_read_by_a_client_that_first_sends_all(endpoint: str, roomy: Watched) -> None:
    """A client that writes four megabytes before it looks finds its 401 there, and not a broken connection."""
    length = 4 * 1024 * 1024
    head = wire.head(f"/v1/images/{endpoint}", f"Content-Length: {length}", key="k" * 40)
    with wire.connected(roomy.url) as connection:
        connection.send(head + bytes(length))
        assert connection.read().status == 401


def test_a_connection_goes_on_after_an_error(roomy: Watched) -> None:
    """After an error whose request was read whole, the same connection serves the next request."""
    key = roomy.key("plain")
    with wire.connected(roomy.url) as connection:
        for body, status in ((b'{"n": 1}', 400), (b'{"prompt": "x"}', 200), (b"[]", 400), (b'{"prompt": "y"}', 200)):
            connection.send(wire.generation_of(body, key))
            assert connection.read().status == status


# What must not pass


def test_the_upstream_gets_nothing_of_the_client_but_its_order(roomy: Watched) -> None:
    """Of the client's head nothing goes up: exactly the gateway's own headers, once each, whatever was sent."""
    key = roomy.key("plain")
    lines = (
        "Cookie: session=canary",
        "X-Forwarded-For: 10.9.8.7",
        "OpenAI-Organization: canary",
        "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "User-Agent: canary/1",
        "Accept: canary/json",
        "Accept-Encoding: gzip",
        "Accept-Language: de",
        f"api-key: {key}",
        "X-Stainless-Retry-Count: 1",
        "Connection: keep-alive, X-Hop",
        "X-Hop: canary",
        "TE: trailers",
    )
    assert wire.ask(roomy.url, wire.generation(key, *lines, "Idempotency-Key: canary-1", user="u")).status == 200
    assert (
        wire.ask(roomy.url, wire.edit(key, PICTURE, WORDS, lines=(*lines, "Idempotency-Key: canary-2"))).status == 200
    )
    generation, edit = roomy.simulator.record.requests
    common = ["host", "authorization", "accept", "accept-encoding", "user-agent", "content-type"]
    assert [name.lower() for name, _ in generation.headers] == [*common, "content-length"]
    assert [name.lower() for name, _ in edit.headers] == [*common, "transfer-encoding"]
    for request in (generation, edit):
        assert request.header("authorization") == [f"Bearer {API_KEY}"]
        assert request.header("accept") == ["application/json"]
        (agent,) = request.header("user-agent")
        assert agent.startswith("image-gateway/")
        told = repr(request)
        assert "canary" not in told
        assert key not in told
        assert wire.BOUNDARY not in repr(request.headers)
    assert generation.target == "/v1/images/generations"
    assert generation.fields == (
        ("model", "dall-e-3"),
        ("n", 1),
        ("size", "1024x1024"),
        ("quality", "standard"),
        ("prompt", "a lighthouse"),
        ("user", "u"),
    )
    assert edit.fields == (("model", "dall-e-3"), ("n", "1"), ("size", "1024x1024"), ("prompt", PROMPT))
    assert edit.part("image").filename == "image.png"


def test_nothing_of_it_stands_in_the_log(roomy: Watched) -> None:
    """No prompt, key, header, query or file name stands in the log, of good requests and of bad ones."""
    key, unknown = roomy.key("plain"), "igw_canary" + "0" * 33
    requests = [
        wire.generation(key, "X-Note: canary-header", prompt="canary-prompt", user="canary-user"),
        wire.generation(key, prompt="canary-prompt", canary_name="canary-value"),
        wire.generation(key, prompt="canary-prompt", size="canary-size"),
        wire.generation_of(b'{"prompt": "canary-prompt', key),
        wire.generation(unknown, prompt="canary-prompt"),
        wire.generation(key).replace(b"generations ", b"generations?key=canary-query "),
        wire.generation(key).replace(b"generations ", b"canary-path "),
        wire.generation(key, "Bad Header: canary-header"),
        wire.edit(key, wire.image(SMALL, file="canary-file.png"), wire.text("prompt", "canary-prompt")),
        wire.edit(key, wire.image(GIF + b"canary-bytes", file="canary-file.png"), WORDS),
    ]
    answers = [wire.ask(roomy.url, request) for request in requests]
    assert [answer.status for answer in answers] == [200, 400, 400, 400, 401, 200, 404, 400, 200, 400]
    for answer in (*answers[:7], *answers[8:]):
        roomy.request_line(answer.header("x-request-id") or "")
    log = roomy.gateway.log_text()
    for word in ("canary", PROMPT, key, unknown, API_KEY, "lighthouse", "Traceback"):
        assert word not in log, word
    assert roomy.lines(event="fault") == []


@pytest.mark.parametrize(
    "secret",
    [keys.make(os.urandom(keys.RANDOM_BYTES)), f"eyJhbGciOiJIUzI1NiJ9.{'eyJ0' * 9}.{'s' * 43}"],
    ids=["key", "token"],
)
def test_a_secret_in_the_wrong_place_is_not_said_again(secret: str, unharmed: Watched) -> None:
    """Who puts a key or a token where a path, a value, a name or a type belongs does not meet it in the error."""
    key = unharmed.key("plain")
    asked = {
        "path without a key": wire.head(f"/{secret}", key=None, method="GET"),
        "path": wire.head(f"/v1/models/{secret}", key=key, method="GET"),
        "model": wire.generation(key, model=secret),
        "size": wire.generation(key, size=secret),
        "n": wire.generation(key, n=secret),
        "name": wire.generation(key, **{secret: 1}),
        "name in a form": wire.edit(key, PICTURE, WORDS, wire.text(secret, "x")),
        "type": wire.head(wire.GENERATIONS, "Content-Length: 2", key=key, content_type=f"text/{secret}") + b"{}",
        "form's type": wire.head(wire.EDITS, "Content-Length: 2", key=key, content_type=f"text/{secret}") + b"{}",
    }
    for place, request in asked.items():
        answer = wire.ask(unharmed.url, request)
        assert 400 <= answer.status < 500, place
        assert secret[8:20].encode() not in answer.body, place
