"""An upstream that means harm: only an answer or a clean refusal of its passes, and nothing is fetched for it."""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import wire
from tests.e2e.watching import Watched
from tests.support.simulated import API_KEY

#: All that an answer may have beside what an upstream says: contract 4.4, framing, and type.
OURS = {
    "date", "content-type", "content-length", "connection", "transfer-encoding", "x-request-id", "cache-control",
    "x-content-type-options", "x-gateway-team", "x-gateway-cost-usd", "x-should-retry", "retry-after",
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset", "rule")
      for unit in ("images", "requests", "usd")),
}  # fmt: skip

HEADERS = {
    "set-cookie": "canary=1; Domain=example.com",
    "server": "canary",
    "via": "1.1 canary",
    "x-powered-by": "canary",
    "location": "http://canary.example/",
    "refresh": "0; url=http://canary.example/",
    "link": "<http://canary.example/>; rel=preload",
    "content-security-policy": "canary",
    "access-control-allow-origin": "*",
    "access-control-allow-credentials": "true",
    "strict-transport-security": "max-age=99999999",
    "clear-site-data": '"*"',
    "alt-svc": 'h3="canary.example:443"',
    "content-disposition": "attachment; filename=canary.html",
    "content-encoding": "identity",
    "cache-control": "public, max-age=99999999",
    "age": "1",
    "etag": '"canary"',
    "www-authenticate": "Basic realm=canary",
    "proxy-authenticate": "Basic realm=canary",
    "keep-alive": "timeout=99999",
    "upgrade": "h2c",
    "trailer": "canary",
    "x-request-id": "canary",
    "x-should-retry": "canary",
    "x-gateway-cost-usd": "0",
    "x-ratelimit-limit-requests": "canary",
    "openai-organization": "canary",
}

STATUSES = (200, 201, 204, 205, 206, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 407, 409, 413, 418, 422, 429,
            451, 500, 501, 502, 503, 504, 511, 520, 599)  # fmt: skip

SCRIPT = "<script>alert('canary')</script>"


def clean(answer: wire.Answer) -> None:
    """Its headers are the gateway's own, and are what the gateway says."""
    names = [name for name, _ in answer.headers]
    assert set(names) <= OURS
    assert len(names) == len(set(names))
    assert "canary" not in repr(answer.headers)
    assert (answer.header("cache-control"), answer.header("content-type")) == ("no-store", "application/json")
    assert answer.header("x-content-type-options") == "nosniff"


@pytest.mark.parametrize("endpoint", ["generations", "edits"])
@pytest.mark.parametrize("long", [False, True])
def test_no_header_of_its_comes_down(endpoint: str, long: bool, roomy: Watched) -> None:
    """Of a good answer's head nothing passes; the images do, whole."""
    key = roomy.key("plain")
    roomy.simulator.script({"headers": HEADERS, "pad": 200_000 if long else 0})
    edit = wire.edit(key, wire.text("prompt", "x"), wire.image(wire.png()))
    answer = wire.ask(roomy.url, wire.generation(key) if endpoint == "generations" else edit)
    assert answer.status == 200
    assert len(answer.json()["data"]) == 1
    assert (len(answer.body) > 200_000) is long
    clean(answer)


def test_no_head_of_its_stands_before_ours(roomy: Watched) -> None:
    """A long body that begins as an interim answer does stands behind the gateway's head like any other."""
    body = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nset-cookie: canary=1\r\n\r\n" + 2_000_000 * "x"
    roomy.simulator.script({"status": 200, "body": body})
    host, _, port = roomy.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(wire.generation(roomy.key("plain"), prompt="an order of its own, for its answer is cut"))
        assert line.recv(4096).startswith(b"HTTP/1.1 200 ")
        with contextlib.suppress(ConnectionResetError):
            while line.recv(65_536):
                pass


@pytest.mark.parametrize("status", STATUSES)
def test_no_page_of_its_comes_down(status: int, roomy: Watched) -> None:
    """Whatever its status, of HTML with our key in it nothing passes: the answer is one error in the one shape."""
    body = f"<!doctype html><title>{API_KEY}</title>{SCRIPT}" if status not in (204, 205) else ""
    headers = {**HEADERS, "content-type": "text/html; charset=utf-7"}
    roomy.simulator.script({"status": status, "headers": headers, "body": body})
    answer = wire.ask(roomy.url, wire.generation(roomy.key("plain")))
    assert answer.status >= 400
    assert set(answer.error) >= {"message", "type", "param", "code"}
    for word in (b"canary", b"script", API_KEY.encode()):
        assert word not in answer.body
    clean(answer)


@pytest.mark.parametrize(
    "error",
    [
        {"message": f"{SCRIPT}\r\nSet-Cookie: a=b\r\n\x1b[31m\u202e{API_KEY}", "code": "x\r\ny: z", "param": SCRIPT},
        {"message": f"Bearer {API_KEY} https://x.test/?sig=canary " + "long " * 10_000, "type": ["a"], "code": {}},
        {"message": "\x00\u2028\u2029\ufeff\ud800", "code": 3, "param": None},
    ],
)
def test_its_words_are_words(error: dict[str, Any], roomy: Watched) -> None:
    """What it says of a refused order is a bounded line of printable text in JSON, without keys and signatures."""
    roomy.simulator.script({"status": 400, "body": json.dumps({"error": error}), "headers": HEADERS})
    answer = wire.ask(roomy.url, wire.generation(roomy.key("plain")))
    assert answer.status == 400
    message = answer.error["message"]
    assert message.isprintable()
    assert len(message) <= 500
    assert answer.error["code"] is None
    assert API_KEY not in answer.body.decode()
    assert b"sig=canary" not in answer.body
    clean(answer)
    line = roomy.request_line(answer.header("x-request-id") or "")
    assert "\n" not in json.dumps(line)


def test_a_compressed_answer_is_not_unpacked(roomy: Watched) -> None:
    """It was asked for plain bytes; others are no answer that can be counted, whatever they would grow to."""
    roomy.simulator.script(
        {"status": 200, "body": "\x1f\x8b\x08" + "a" * 1000, "headers": {"content-encoding": "gzip"}}
    )
    answer = wire.ask(roomy.url, wire.generation(roomy.key("plain")))
    assert (answer.status, answer.error["code"]) == (424, "upstream_outcome_unknown")
    (request,) = roomy.simulator.record.requests
    assert request.header("accept-encoding") == ["identity"]


class Trap:
    """A listener that nothing should come to."""

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._listener = listener

    def caught(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self._listener.accept()
            return True
        return False


@pytest.fixture
def trap() -> Iterator[Trap]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield Trap(listener)


def test_nothing_is_fetched(trap: Trap, roomy: Watched) -> None:
    """Neither the URLs of images, nor those of redirects, nor those in an order are ever asked for, however spelt."""
    key = roomy.key("plain")
    hosts = ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "0")
    urls = [f"{scheme}://{host}:{trap.port}/x" for scheme in ("http", "https", "ftp", "gopher") for host in hosts]
    for url in urls:
        answer = {"created": 1, "data": [{"url": url, "revised_prompt": url}]}
        roomy.simulator.script(
            {
                "status": 200,
                "body": answer,
                "headers": {"location": url, "refresh": f"0; url={url}", "link": f"<{url}>"},
            },
            *({"status": status, "body": "", "headers": {"location": url}} for status in (301, 302, 307, 308)),
        )
        first, *others = [wire.ask(roomy.url, wire.generation(key, prompt=url, user=url)) for _ in range(5)]
        assert (first.status, first.json()) == (200, answer)
        assert [other.status for other in others] == [502] * 4
    named = wire.image(wire.png(), file=urls[0])
    assert wire.ask(roomy.url, wire.edit(key, wire.text("prompt", urls[0]), named)).status == 200
    assert wire.ask(roomy.url, wire.edit(key, wire.text("prompt", "x"), wire.text("image", urls[0]))).status == 400
    assert not trap.caught()
