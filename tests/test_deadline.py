"""A limit on waiting that begins anew with each piece."""

import asyncio
import gc
import socket
import time
import weakref
from functools import partial

import uvloop

from gateway.deadline import HELD_UP, Alarm, Deadline

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


async def _held_up(*, say: bytes, busy: bool = False) -> tuple[list[str], float]:
    """A loop that is held up past an alarm of `LIMIT`, which something that came meanwhile would cancel. What
    happened, and the seconds until then. busy: each turn of the loop takes longer than HELD_UP from then on.
    """
    loop = asyncio.get_running_loop()
    happened: list[str] = []
    over = asyncio.Event()

    def told(what: str) -> None:
        happened.append(what)
        over.set()

    def takes_long() -> None:
        time.sleep(2 * HELD_UP)
        if not over.is_set():
            loop.call_soon(takes_long)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        alarm = Alarm(loop, LIMIT, partial(told, "rang"))

        def heard() -> None:
            loop.remove_reader(ours)
            alarm.cancel()
            told("heard")

        loop.add_reader(ours, heard)
        began = time.monotonic()
        theirs.send(say)
        time.sleep(LIMIT + 3 * HELD_UP)  # noqa: ASYNC251  the loop is to stand still
        if busy:
            loop.call_soon(takes_long)
        async with asyncio.timeout(LONG):
            await over.wait()
        took = time.monotonic() - began
        await asyncio.sleep(3 * HELD_UP)
        loop.remove_reader(ours)
    return happened, took


def test_what_came_while_the_loop_was_held_up_is_taken_before_it_is_overdue() -> None:
    """On both kinds of loop: a timer that is late lets the loop look at its sockets, and a silence ends all the same,
    once.
    """
    for run in (asyncio.run, uvloop.run):
        assert run(_held_up(say=b"here"))[0] == ["heard"]
        happened, took = run(_held_up(say=b""))
        assert happened == ["rang"]
        assert took >= LIMIT + 4 * HELD_UP - EARLY


def test_a_loop_that_is_always_late_ends_a_silence_too() -> None:
    """The look is given once: where every turn takes longer than it, nothing would ever be overdue otherwise."""
    assert asyncio.run(_held_up(say=b"", busy=True))[0] == ["rang"]


def test_an_alarm_that_was_cancelled_does_not_ring() -> None:
    """Neither before its time nor in the moment that a late one leaves for a look."""

    async def play(*, late: bool) -> list[str]:
        told: list[str] = []
        alarm = Alarm(asyncio.get_running_loop(), LIMIT, partial(told.append, "rang"))
        if late:
            time.sleep(LIMIT + 3 * HELD_UP)  # noqa: ASYNC251  the loop is to stand still
            for _ in range(2):  # turns: one to see that it is due, one for it to see that it is late
                await asyncio.sleep(0)
        alarm.cancel()
        await asyncio.sleep(LIMIT + 2 * HELD_UP)
        return told

    assert asyncio.run(play(late=False)) == asyncio.run(play(late=True)) == []


def test_an_alarm_that_has_rung_holds_nobody() -> None:
    """Whom it told is free to go, although who set it keeps it."""

    class Holder:
        def __init__(self) -> None:
            self.alarm = Alarm(asyncio.get_running_loop(), LIMIT, self.ring)

        def ring(self) -> None:
            """Told."""

    async def play(*, late: bool) -> bool:
        holder = Holder()
        gone = weakref.ref(holder)
        alarm = holder.alarm
        del holder
        if late:
            time.sleep(LIMIT + 3 * HELD_UP)  # noqa: ASYNC251  the loop is to stand still
        await asyncio.sleep(LIMIT + 3 * HELD_UP)
        return gone() is None and alarm is not None

    gc.disable()  # a circle would have to wait for the collector
    try:
        assert asyncio.run(play(late=False))
        assert asyncio.run(play(late=True))
    finally:
        gc.enable()
