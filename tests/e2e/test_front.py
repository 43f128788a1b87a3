"""The front door over a socket: halves of connections, upgrades, methods, paths, hosts and who is believed."""

import json
import re
import socket
from collections.abc import Sequence

import pytest

from tests.e2e import wire
from tests.e2e.watching import Watched
from tests.support.simulated import API_KEY

#: What Java's HttpClient sends with the first request on a connection.
JAVA = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)


def get(path: str, key: str | None, *lines: str, method: str = "GET") -> bytes:
    return wire.head(path, *lines, key=key, method=method, content_type=None)


def heard_of_half(url: str, request: bytes) -> list[wire.Answer]:
    """All answers to a client that ends its half of the connection with its last byte, up to the connection's end."""
    answers = []
    with wire.connected(url) as line:
        line.send(request)
        line.socket.shutdown(socket.SHUT_WR)
        while not line.at_end():
            answers.append(line.read())
    return answers


# Halves of connections


@pytest.mark.parametrize("how", ["generation", "edit", "models", "health", "no key", "wrong", "long answer"])
def test_who_has_sent_all_and_says_so_is_answered(how: str, roomy: Watched) -> None:
    """A client that ends its half behind its request, as `nc -N` does, reads its answer, and then the end."""
    key = roomy.key("plain")
    requests = {
        "generation": (200, wire.generation(key)),
        "edit": (200, wire.edit(key, wire.text("prompt", "x"), wire.image(wire.png()))),
        "models": (200, get("/v1/models", key)),
        "health": (200, get("/healthz", None)),
        "no key": (401, wire.generation(None)),
        "wrong": (400, wire.generation(key, n=0)),
        "long answer": (200, wire.generation(key, response_format="b64_json")),
    }
    status, request = requests[how]
    if how == "long answer":
        roomy.simulator.script({"pad": 1024 * 1024})
    (answer,) = heard_of_half(roomy.url, request)
    assert answer.status == status
    assert how != "long answer" or len(answer.body) > 1024 * 1024


def test_all_that_was_sent_before_the_half_ended_is_answered(roomy: Watched) -> None:
    """Three requests written at once, and then the end of the client's half: three answers, in their order."""
    key = roomy.key("plain")
    answers = heard_of_half(roomy.url, wire.generation(key, n=2) + get("/v1/models", key) + wire.generation(key, n=3))
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [len(answers[i].json()["data"]) for i in (0, 2)] == [2, 3]
    assert answers[-1].header("connection") == "close"


@pytest.mark.parametrize("missing", [1, 10, 30])
def test_half_a_request_and_no_more_is_nobodys(missing: int, roomy: Watched) -> None:
    """A request whose rest will never come ends with its connection, and nothing goes up."""
    assert heard_of_half(roomy.url, wire.generation(roomy.key("plain"))[:-missing]) == []
    roomy.counters()
    assert roomy.simulator.record.totals.complete == 0


# Methods and upgrades


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/readyz/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_a_health_check_is_a_get(method: str, path: str, roomy: Watched) -> None:
    """With another method it is told which ones there are, by anyone, in the one shape of errors."""
    answer = wire.ask(roomy.url, get(path, None, method=method))
    assert (answer.status, answer.error["code"], answer.header("allow")) == (405, "method_not_allowed", "GET, HEAD")


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/readyz?verbose"])
def test_a_health_check_has_the_headers_of_all_answers(path: str, roomy: Watched) -> None:
    """On both ports: an id of its own, and nobody keeps the answer."""
    urls = (roomy.url, roomy.gateway.admin_url)
    answers = [wire.ask(url, get(path, None)) for url in urls]
    assert [(answer.status, answer.header("cache-control")) for answer in answers] == [(200, "no-store")] * 2
    ids = {answer.header("x-request-id") or "" for answer in answers}
    assert len([each for each in ids if re.fullmatch("req_[0-9a-f]{24}", each)]) == 2


def test_an_upgrade_is_passed_over(roomy: Watched) -> None:
    """Who would rather speak HTTP/2 or WebSocket, as Java's client offers each time, is answered in HTTP/1.1."""
    key = roomy.key("plain")
    requests = [
        wire.generation(key, *JAVA),
        wire.edit(key, wire.text("prompt", "x"), wire.image(wire.png()), lines=JAVA),
        get("/v1/models", key, *JAVA),
        get("/healthz", None, *JAVA),
        get("/v1/models", key, "Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    ]
    for request in requests:
        answer = wire.ask(roomy.url, request)
        assert (answer.status, answer.header("connection"), answer.header("upgrade")) == (200, "close", None), request


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
@pytest.mark.parametrize("first", ["GET", "POST"])
def test_nothing_is_read_behind_an_upgrade(first: str, protocol: str, roomy: Watched) -> None:
    """A proxy that takes the answer for a new protocol passes on unseen what follows: it is not carried out."""
    key = roomy.key("plain")
    lines = ("Connection: Upgrade, X", f"Upgrade: {protocol}")
    one = wire.generation(key, *lines) if first == "POST" else get("/v1/models", key, *lines)
    (answer,) = heard_of_half(roomy.url, one + wire.generation(key, n=5))
    assert answer.status == 200
    with wire.connected(roomy.url) as line:
        line.send(one)
        assert line.read().status == 200
        line.send_some(wire.generation(key, n=5))
        assert line.at_end()
    roomy.counters()
    assert roomy.simulator.record.totals.images_made == (2 if first == "POST" else 0)


# Trailers


def trailed(key: str | None, *trailers: str) -> bytes:
    """A generation in chunks, with these lines behind its last one."""
    head = wire.head(wire.GENERATIONS, "Transfer-Encoding: chunked", f"Trailer: {', '.join(trailers)}", key=key)
    body = b"".join(wire.chunks(b'{"prompt": "x"}'))[:-2]
    return head + body + "".join(f"{line}\r\n" for line in trailers).encode() + b"\r\n"


def test_a_trailer_decides_nothing(roomy: Watched) -> None:
    """What a head would have said is nothing behind a body: no key, no repetition, no length, no second meaning."""
    key = roomy.key("plain")
    assert wire.ask(roomy.url, trailed(None, f"Authorization: Bearer {key}")).status == 401
    for _ in range(2):
        answer = wire.ask(roomy.url, trailed(key, "Idempotency-Key: one", "Content-Type: text/html", "Host: x"))
        assert (answer.status, answer.header("idempotent-replayed")) == (200, None)
    for line in ("Content-Length: 3", "Transfer-Encoding: chunked"):
        assert wire.ask(roomy.url, trailed(key, line)).status == 400
    assert roomy.simulator.record.totals.images_made == 2


@pytest.mark.parametrize("lines", [(), JAVA], ids=["plain", "upgrade"])
def test_trailers_are_bounded(lines: Sequence[str], roomy: Watched) -> None:
    """Trailers without end are no request any more once they are larger than a head may be."""
    head = wire.head(wire.GENERATIONS, "Transfer-Encoding: chunked", *lines, key=roomy.key("plain"))
    body = b"".join(wire.chunks(b'{"prompt": "x"}'))[:-2]
    answer = wire.ask(roomy.url, head + body, *[b"X-More: " + b"a" * 1000 + b"\r\n"] * 10_000)
    assert (answer.status, answer.header("connection")) == (400, "close")
    roomy.counters()
    assert roomy.simulator.record.totals.complete == 0


# Paths and hosts


PATHS = (
    "/v1//images/generations", "//v1/images/generations", "///v1/images/generations", "/v1/images//generations",
    "/v1/images/generations//", "/./v1/images/generations", "/v1/./images/generations", "/v1/images/./generations",
    "/v1/images/generations/.", "/v1/images/generations/..", "/v1/x/../images/generations", "/../v1/images/generations",
    "/v1/../v1/images/generations", "/%2e/v1/images/generations", "/v1/%2e%2e/v1/images/generations",
    "/v1%2fimages%2fgenerations", "/v1/images%2fgenerations", "/v1/images%2Fgenerations", "/v1/images%252fgenerations",
    "/v1/images/generation%73", "/%761/images/generations", "/v1/images/%67enerations", "/v1/images/generations%2f",
    "/v1/images/generations%20", "/v1/images/generations%00", "/v1/images/generations%0d%0a", "/v1/images/generations;",
    "/v1/images/generations;a=b", "/v1;x/images/generations", "/v1/images;/generations", "/v1\\images\\generations",
    "/v1/images\\generations", "/V1/images/generations", "/v1/Images/generations", "/v1/images/GENERATIONS",
    "/v1/images/generations.json", "/v1/images/generations,", "/v1/images/generations:", "/v1/images/generations&n=1",
    "/v1/images/generations%3fn=1", "/v1/images/generations%23", "/v1/v1/images/generations", "/v2/images/generations",
    "/api/v1/images/generations", "/v1/images", "/v1/images/", "/v1/images/variations", "/v1/images/generations/x",
    "/v1/images/generations/../edits", "/healthz/../v1/images/generations", "/v1/images/generations/healthz",
    "/images//generations", "/images/generations//", "*", "/*", "/v1/*", "/openai/v1/images/generations",
    "/v1/images/generat%C4%B1ons", "/v1/images/generations%E2%80%A6", "/v1/images/generations%ff",
)  # fmt: skip

HOSTS = (
    "gateway.test", "127.0.0.1", "[::1]:8080", "api.3xcoder.com", "gateway.test/v1/images/generations",
    "gateway.test/healthz?", "x@gateway.test", "gateway.test:99999999", "gateway.test#", "..", "",
)  # fmt: skip


def test_only_the_documented_paths_are_there(roomy: Watched) -> None:
    """Sixty other spellings of a path lead nowhere, under whatever name of a host; nothing of any goes up."""
    key = roomy.key("plain")
    tried = 0
    for path in PATHS:
        for host in HOSTS:
            request = wire.generation(key).replace(wire.GENERATIONS.encode(), path.encode(), 1)
            answer = wire.ask(roomy.url, request.replace(b"gateway.test", host.encode(), 1))
            assert answer.status in (400, 404), (path, host, answer.status)
            tried += 1
    assert tried >= 600
    roomy.counters()
    assert roomy.simulator.record.totals.connections_opened == 0


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_decides_nothing(host: str, roomy: Watched) -> None:
    """Whatever name a client has for the gateway: an order is the path's, and goes to the configured upstream."""
    key = roomy.key("plain")
    request = wire.generation(key).replace(b"gateway.test", host.encode(), 1)
    assert wire.ask(roomy.url, request).status == 200
    (received,) = roomy.simulator.record.requests
    assert received.header("host") == [roomy.simulator.origin.removeprefix("http://")]
    health = wire.ask(roomy.url, get("/nothing", key).replace(b"gateway.test", host.encode(), 1))
    assert health.status == 404


def test_a_target_with_a_host_is_its_path(roomy: Watched) -> None:
    """The absolute form, which a server must take (RFC 9112, 3.2.2), leads nowhere else: nobody's forward proxy."""
    key = roomy.key("plain")
    targets = {
        "http://gateway.test/v1/images/generations": 200,
        "https://api.3xcoder.com/v1/images/generations": 200,
        "http://127.0.0.1:1/v1/models": 405,
        "http://api.3xcoder.com/": 404,
        "ftp://x@gateway.test:21/healthz/": 405,
    }
    for target, status in targets.items():
        request = wire.generation(key).replace(wire.GENERATIONS.encode(), target.encode(), 1)
        assert wire.ask(roomy.url, request).status == status, target
    roomy.counters()
    assert [request.target for request in roomy.simulator.record.requests] == [wire.GENERATIONS] * 2


# The admin port


@pytest.mark.parametrize(
    "lines",
    [
        ("Host: other.test",),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 5",),
        ("X_Real_Ip: 1",),
        ("X-Name: \xe9",),
    ],
    ids=lambda lines: lines[0],
)
def test_the_admin_port_reads_as_strictly(lines: Sequence[str], roomy: Watched) -> None:
    """A head that two readers could take for different requests gets a 400 there too, and the connection's end."""
    for path in ("/metrics", "/healthz", "/readyz", "/"):
        with wire.connected(roomy.gateway.admin_url) as line:
            line.send(get(path, None, *lines) + b"01234" + get("/metrics", None))
            answer = line.read()
            assert (answer.status, answer.header("connection")) == (400, "close")
            assert json.loads(answer.body)["error"]["code"] == "invalid_value"
            assert line.at_end()


# Who is believed, and what else a head may ask for


def test_what_connection_names_is_not_taken_away(roomy: Watched) -> None:
    """`Connection` may name any header: of the client's none goes up anyway, and the gateway's own stay."""
    key = roomy.key("plain")
    named = "authorization, content-length, content-type, host, accept, user-agent, transfer-encoding, x-request-id"
    for lines in ((f"Connection: {named}",), ("Connection: keep-alive", f"Connection: {named}", "Keep-Alive: 9")):
        assert wire.ask(roomy.url, wire.generation(key, *lines)).status == 200
        edit = wire.edit(key, wire.text("prompt", "x"), wire.image(wire.png()), lines=lines)
        assert wire.ask(roomy.url, edit).status == 200
    for request in roomy.simulator.record.requests:
        assert request.header("authorization") == [f"Bearer {API_KEY}"]
        assert request.header("connection") == request.header("keep-alive") == []


#: Headers by which clients say where they come from, or what else than this path and method they mean.
CLAIMS = (
    "X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 127.0.0.1", "Forwarded: for=203.0.113.9;host=other.test",
    "X-Real-IP: 203.0.113.9", "X-Client-IP: 203.0.113.9", "X-Forwarded-Host: other.test", "X-Forwarded-Proto: https",
    "X-Forwarded-Port: 1", "X-Forwarded-Prefix: /healthz", "X-Original-URL: /healthz", "X-Rewrite-URL: /healthz",
    "X-HTTP-Method-Override: GET", "X-HTTP-Method: DELETE", "X-Method-Override: GET", "Proxy-Connection: close",
    "Proxy-Authorization: Basic eDp5", "Range: bytes=0-1", "If-None-Match: *", "If-Modified-Since: x", "TE: gzip",
    "Expect: 200-ok", "Accept-Encoding: gzip, br", "Accept: text/html", "Max-Forwards: 0", "Via: 1.1 x",
)  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS)
def test_no_claim_makes_it_another_request(claim: str, roomy: Watched) -> None:
    """Whatever else a stranger's head says, the order is this path's and method's, and comes from its socket."""
    answer = wire.ask(roomy.url, wire.generation(roomy.key("plain"), claim))
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert roomy.request_line(answer.header("x-request-id") or "")["client_ip"] == "127.0.0.1"
    assert roomy.simulator.record.totals.images_made == 1


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "PROPFIND", "PURGE", "LINK", "M-SEARCH", "QUERY", "GET"])
@pytest.mark.parametrize("path", [wire.GENERATIONS, wire.EDITS])
def test_an_order_is_a_post(method: str, path: str, roomy: Watched) -> None:
    """Any other method is refused, and TRACE sends nothing back of what it was sent."""
    answer = wire.ask(roomy.url, get(path, roomy.key("plain"), "X-Canary: canary", method=method))
    if answer.status != 400:  # for what the parser does not know
        assert (answer.status, answer.error["code"], answer.header("allow")) == (405, "method_not_allowed", "POST")
    assert b"canary" not in answer.body


def test_no_other_origin_is_let_in(roomy: Watched) -> None:
    """A browser's page gets no leave to read an answer or to send a key: not one header of CORS, on no answer."""
    key = roomy.key("plain")
    origin = ("Origin: https://evil.example", "Access-Control-Request-Method: POST")
    asked = (*origin, "Access-Control-Request-Headers: authorization, content-type", "Sec-Fetch-Mode: cors")
    statuses = {}
    for path in (wire.GENERATIONS, wire.EDITS, "/v1/models", "/v1/usage", "/openapi.json", "/healthz", "/nothing"):
        for method in ("OPTIONS", "GET"):
            for url in (roomy.url, roomy.gateway.admin_url):
                answer = wire.ask(url, get(path, key, *asked, method=method))
                assert not [name for name, _ in answer.headers if name.startswith("access-control-")]
                statuses[path, method, url == roomy.url] = answer.status
    assert {status for (_, method, _), status in statuses.items() if method == "OPTIONS"} <= {404, 405}
    assert wire.ask(roomy.url, wire.generation(key, *origin)).status == 200


def test_no_answer_is_kept_or_guessed_at(roomy: Watched) -> None:
    """Every answer of the gateway's may be stored by nobody and is of the type that it says."""
    key = roomy.key("plain")
    requests = [
        *(get(path, key) for path in ("/v1/models", "/v1/models/dall-e-3", "/v1/usage", "/openapi.json", "/nothing")),
        wire.generation(key),
        wire.generation(key, n=0),
        wire.generation(None),
        wire.edit(key, wire.text("prompt", "x"), wire.image(wire.png())),
        get(wire.EDITS, key),
        wire.generation(key, "X_Odd: 1"),
    ]
    for request in requests:
        answer = wire.ask(roomy.url, request)
        assert (answer.header("cache-control"), answer.header("x-content-type-options")) == ("no-store", "nosniff")
    broken = wire.ask(roomy.url, b"no HTTP\r\n\r\n")
    assert broken.header("cache-control") == "no-store"
