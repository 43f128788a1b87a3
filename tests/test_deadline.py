"""A limit on waiting that begins anew with each piece."""

import asyncio
import gc
import time
import weakref
from functools import partial

from gateway.deadline import Deadline

LIMIT = 0.05  # seconds
LONG = 60.0
EARLY = 0.01  # seconds by which the loop's clock may be behind


def test_a_wait_that_lasts_is_told_once() -> None:
    """What is waited for too long is told once and when its own time is over, be the timer from an earlier wait."""

    async def play() -> tuple[list[float], float]:
        told: list[float] = []
        first = asyncio.Event()

        def tell() -> None:
            told.append(time.monotonic())
            first.set()

        deadline = Deadline(tell)
        deadline.begin(LIMIT)
        deadline.end()
        await asyncio.sleep(LIMIT / 2)
        began = time.monotonic()
        deadline.begin(LIMIT)
        async with asyncio.timeout(LONG):
            await first.wait()
        await asyncio.sleep(2 * LIMIT)
        return told, began

    told, began = asyncio.run(play())
    assert len(told) == 1
    assert told[0] - began >= LIMIT - EARLY


def test_nothing_is_overdue_that_is_not_waited_for() -> None:
    """A wait that has ended, one that has moved the limit on, and one that was closed are never told."""

    async def play() -> list[str]:
        told: list[str] = []
        ended, moved, closed = (Deadline(partial(told.append, name)) for name in ("ended", "moved", "closed"))
        for deadline in (ended, moved, closed):
            deadline.begin(LIMIT)
        ended.end()
        moved.end()
        moved.begin(LONG)
        closed.close()
        await asyncio.sleep(3 * LIMIT)
        moved.close()
        return told

    assert asyncio.run(play()) == []


def test_a_closed_one_holds_nobody() -> None:
    """Who owns a deadline and is told by it is gone with its last user, without the garbage collector's help."""

    class Owner:
        def __init__(self) -> None:
            self.deadline = Deadline(self.told)

        def told(self) -> None:
            raise AssertionError("nothing was overdue")

    async def play(*, close: bool) -> bool:
        owner = Owner()
        owner.deadline.begin(LONG)
        owner.deadline.end()
        if close:
            owner.deadline.close()
        gone = weakref.ref(owner)
        del owner
        return gone() is None

    gc.disable()
    try:
        assert asyncio.run(play(close=True))
        assert not asyncio.run(play(close=False))
    finally:
        gc.enable()
