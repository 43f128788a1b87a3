"""An answer leaves with the bytes that uvicorn itself would write, but in one write with what follows its head."""

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.cycle import take_over

PLAIN = [(b"content-type", b"application/json"), (b"content-length", b"2")]
DATE = [(b"date", b"Mon, 23 Nov 2026 12:00:00 GMT")]

#: Bytes that no name or value may have, in either.
UNFIT = [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b", b"a\x7fb", b"a\x1bb"]


class Wire(asyncio.Transport):
    """What was written, one entry for each write, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.writes.append(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def resume_reading(self) -> None: ...


def answered(
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: list[bytes],
    *,
    ours: bool,
    method: str = "POST",
    keep_alive: bool = True,
) -> tuple[list[bytes], bool]:
    """The writes of an answer and whether the connection was closed behind it."""
    wire = Wire()

    async def answer() -> None:
        logger = logging.getLogger("unused")
        cycle = RequestResponseCycle(
            scope={"type": "http", "method": method},  # type: ignore[typeddict-item]  # all that it looks at
            transport=wire,
            flow=FlowControl(wire),
            logger=logger,
            access_logger=logger,
            access_log=False,
            default_headers=DATE,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=lambda: None,
        )
        if ours:
            take_over(cycle)
        await cycle.send({"type": "http.response.start", "status": status, "headers": headers})
        for i, piece in enumerate(body):
            await cycle.send({"type": "http.response.body", "body": piece, "more_body": i + 1 < len(body)})

    asyncio.run(answer())
    return wire.writes, wire.closed


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, PLAIN, [b"{}"]),
        (200, [*PLAIN, (b"x-note", "é".encode("latin-1")), (b"x-empty", b"")], [b"{", b"}"]),
        (200, [*PLAIN, (b"connection", b"close")], [b"{}"]),
        (200, [*PLAIN, (b"connection", b"keep-alive")], [b"{}"]),
        (200, [(b"content-type", b"text/plain")], [b"a", b"bc", b""]),
        (200, [(b"transfer-encoding", b"chunked")], [b"abc"]),
        (204, [], [b""]),
        (304, [], [b""]),
        (429, [*PLAIN, (b"retry-after", b"30")], [b"{}"]),
        (500, [], [b""]),
    ],
)
@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_an_answer_has_the_bytes_of_uvicorns(
    status: int, headers: list[tuple[bytes, bytes]], body: list[bytes], method: str, keep_alive: bool
) -> None:
    """Head, framing and end are the same, whatever the answer says of its own length and its connection."""
    theirs, their_end = answered(status, headers, body, ours=False, method=method, keep_alive=keep_alive)
    mine, my_end = answered(status, headers, body, ours=True, method=method, keep_alive=keep_alive)
    assert b"".join(mine) == b"".join(theirs)
    assert my_end == their_end
    if method == "POST":
        assert len(mine) <= max(1, len(theirs) - 1)  # the head goes with what follows it


@pytest.mark.parametrize("unfit", UNFIT, ids=repr)
def test_no_header_can_begin_another(unfit: bytes) -> None:
    """A byte that would end a line or hide in it is refused, as uvicorn does, and nothing of it is written."""
    for ours in (True, False):
        with pytest.raises(RuntimeError, match="header"):
            answered(200, [*PLAIN, (b"x-note", unfit)], [b"{}"], ours=ours)


def test_the_comparison_sees_another_head() -> None:
    """The control: answers that differ in one header have other bytes."""
    mine, _ = answered(200, PLAIN, [b"{}"], ours=True)
    other, _ = answered(200, [*PLAIN, (b"x-note", b"a")], [b"{}"], ours=False)
    assert b"".join(mine) != b"".join(other)
