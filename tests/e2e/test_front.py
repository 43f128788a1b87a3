"""The front door over a socket: halves of connections, upgrades, methods, paths, hosts and who is believed."""

import json
import socket
from collections.abc import Sequence

import pytest

from tests.e2e import wire
from tests.e2e.watching import Watched

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
