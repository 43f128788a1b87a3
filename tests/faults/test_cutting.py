"""The proxy that cuts: to the byte, in both directions, and to another server."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.cutting import Direction, Link
from tests.support.rawserver import RawServer, answering

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUEST = b"GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"


def through_a_link(use: Callable[[Link, RawServer], Awaitable[None]]) -> None:
    async def main() -> None:
        async with RawServer(answering(ANSWER)) as server, Link(server.port) as link:
            await use(link, server)

    asyncio.run(main())


async def ask(link: Link) -> bytes:
    """What came of the answer before the end, or all of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    got = b""
    try:
        writer.write(REQUEST)
        while len(got) < len(ANSWER) and (data := await reader.read(100)):
            got += data
    except ConnectionResetError:
        got += b"!"
    finally:
        writer.close()
    return got


@pytest.mark.parametrize("after", [0, 1, 17, len(ANSWER)])
def test_an_answer_is_cut_at_its_byte(after: int) -> None:
    """No more than the wanted bytes arrive and then a reset; the next connection is whole."""

    async def use(link: Link, server: RawServer) -> None:
        link.arm("down", after)
        got = await ask(link)
        assert ANSWER.startswith(got.removesuffix(b"!"))
        assert len(got.removesuffix(b"!")) <= after
        assert await ask(link) == ANSWER
        assert (link.cuts, server.executed) == (1, 2)

    through_a_link(use)


def test_a_request_that_is_cut_never_arrives_whole() -> None:
    """The server has not what it would act on, and the client hears of the reset."""

    async def use(link: Link, server: RawServer) -> None:
        link.arm("up", len(REQUEST) - 1)
        assert (await ask(link)).removesuffix(b"!") == b""
        assert server.executed == 0
        assert await ask(link) == ANSWER

    through_a_link(use)


@pytest.mark.parametrize("way", ["up", "down"])
def test_what_is_disarmed_does_not_cut(way: Direction) -> None:
    """A cut that has met nobody may be taken back."""

    async def use(link: Link, server: RawServer) -> None:
        link.arm(way, 3)
        link.disarm()
        assert await ask(link) == ANSWER
        assert link.cuts == 0

    through_a_link(use)


def test_a_closed_link_leads_elsewhere_when_it_is_opened() -> None:
    """Whoever comes while it is closed is reset; then the other server answers."""

    async def use(link: Link, server: RawServer) -> None:
        async with RawServer(answering(ANSWER)) as other:
            link.close()
            assert (await ask(link)).removesuffix(b"!") == b""
            link.open(other.port)
            assert await ask(link) == ANSWER
            assert (server.executed, other.executed) == (0, 1)

    through_a_link(use)
