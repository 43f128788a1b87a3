"""The whole socket under bytes that nobody thought of: requests that chance has damaged."""

import contextlib
import re
import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e import wire
from tests.e2e.watching import Watched

#: What chance puts in: bytes that mean something to some reader of a head or a body.
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\x00", b"\xff", b" ", b":", b"chunked", b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n", b"0\r\n\r\n", b"--frontier", b"--frontier--\r\n", b'"', b"{", b"}", b"HTTP/1.1",
    b"HTTP/1.0", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"%00", b"/", b"?", b"#", b"http://x/",
    b"\x7f", b'"n":10,',
)  # fmt: skip

#: Where, how many bytes go, and what comes in their place.
DAMAGE = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.one_of(st.sampled_from(TOKENS), st.binary(max_size=6))),
    min_size=1,
    max_size=5,
)


def damaged(request: bytes, damage: list[tuple[float, int, bytes]]) -> bytes:
    for where, taken, put in damage:
        at = int(where * len(request))
        request = request[:at] + put + request[at + taken :]
    return request


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=DAMAGE, kind=st.integers(0, 3))
def test_no_damage_makes_a_fault_or_a_hang(roomy: Watched, damage: list[tuple[float, int, bytes]], kind: int) -> None:
    """Whatever chance does to a request, its answers are no 5xx and its connection ends when its client's half does."""
    key = roomy.key("plain")
    whole = (
        wire.generation(key),
        wire.edit(key, wire.text("prompt", "x"), wire.image(wire.png(side=1))),
        wire.edit_head(key, length=None) + b"".join(wire.chunks(wire.form(wire.text("prompt", "x")), size=50)),
        wire.head("/v1/usage", key=key, method="GET", content_type=None),
    )[kind]
    data = b""
    # The connection may be closed in the midst of what is refused.
    with wire.connected(roomy.url) as line, contextlib.suppress(ConnectionError):
        line.send(damaged(whole, damage))
        line.socket.shutdown(socket.SHUT_WR)
        while piece := line.socket.recv(65536):
            data += piece
    statuses = [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d+) ", data, re.MULTILINE)]
    assert all(status < 500 for status in statuses), statuses
