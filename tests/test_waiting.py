"""Lines of requests that wait: who is first, who is called, and that nothing is left of a line that has ended."""

import asyncio
from collections.abc import Awaitable, Callable

from gateway.waiting import Lines


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


def test_the_first_to_come_is_the_first() -> None:
    """In a line each is first when all before have left, in whatever order those leave."""
    lines = Lines()
    tickets = [lines.join("design", "edits") for _ in range(5)]

    def first() -> int:
        return [lines.is_first("design", "edits", ticket) for ticket in tickets].index(True)

    assert first() == 0
    for leaving, next_one in ((2, 0), (0, 1), (1, 3), (4, 3)):
        lines.leave("design", "edits", tickets[leaving])
        assert first() == next_one


def test_whoever_leaves_calls_the_next() -> None:
    """The one who becomes first, or was, is called; the others sleep on."""
    lines = Lines()
    one, two, three = (lines.join("design", "edits") for _ in range(3))
    lines.leave("design", "edits", one)
    assert (two.called.is_set(), three.called.is_set()) == (True, False)


def test_an_end_calls_the_first_of_each_line_of_its_team() -> None:
    """A request that ends may have freed a slot for either endpoint of its team, and for no other team."""
    lines = Lines()
    edits, generations = lines.join("design", "edits"), lines.join("design", "generations")
    behind, other = lines.join("design", "edits"), lines.join("research", "edits")
    lines.freed("design")
    lines.freed("nobody")
    assert [ticket.called.is_set() for ticket in (edits, generations, behind, other)] == [True, True, False, False]


def test_nothing_is_left_of_lines_that_have_ended() -> None:
    """When all have left a line it takes no memory, and whoever comes next finds it empty."""
    lines = Lines()
    tickets = [(f"team-{i % 50}", lines.join(f"team-{i % 50}", "edits")) for i in range(500)]
    assert not lines.is_empty("team-7", "edits")
    assert lines.is_empty("team-7", "generations")
    for team, ticket in reversed(tickets):
        lines.leave(team, "edits", ticket)
    assert lines.is_empty("team-7", "edits")
    assert lines == Lines()


def test_a_ticket_waits_until_it_is_called_and_no_longer_than_said() -> None:
    """A call ends the waiting at once, also one from before it began, and each call ends one."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        ticket = Lines().join("design", "edits")
        ticket.wake()
        began = loop.time()
        await ticket.wait(5)
        assert loop.time() - began < 1
        waiting = asyncio.create_task(ticket.wait(5))
        await asyncio.sleep(0)
        assert not waiting.done()
        ticket.wake()
        await waiting
        assert loop.time() - began < 1
        began = loop.time()
        await ticket.wait(0.05)
        assert 0.04 < loop.time() - began < 2

    run(test)
