"""What the ledger keeps in mind of calls that a store did not answer, with a real Valkey that is held still."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
import uvloop

from gateway.core.errors import StoreUnavailable
from gateway.core.quota import Charge, Per, Rule, Unit
from gateway.ledger.base import Booking
from gateway.ledger.embedded import EmbeddedStore
from gateway.ledger.redis import DECISION, RedisLedger
from gateway.ledger.servers import Address

IMAGES = Rule(scope="team", name="images-day", unit=Unit.IMAGES, per=Per.DAY, limit=10)
SLOTS = Rule(scope="team", name="concurrent", unit=Unit.CONCURRENT, per=None, limit=1)
WARNED = Rule(scope="team", name="images-day", unit=Unit.IMAGES, per=Per.DAY, limit=10, warn_at=(50,))
CHARGES = (Charge(IMAGES, 1), Charge(SLOTS, 1))
BOOKING = Booking("team", "UTC", "key", "main", "edits", "model", "1024x1024", "standard", 1, 40_000)


def _ledger(store: EmbeddedStore) -> RedisLedger:
    return RedisLedger(
        Address(store.url), namespace="test", deadline=60, patience=60, observe=lambda *_: None, presumed=lambda _: None
    )


def test_an_admission_that_got_lost_is_taken_back_and_nothing_after_it(tmp_path: Path) -> None:
    """While an unanswered admission is still to be taken back its id gets no quota that would be taken back with it."""
    with EmbeddedStore(tmp_path / "data") as store:
        asyncio.run(_lost_admission(store))


async def _lost_admission(store: EmbeddedStore) -> None:
    ledger = _ledger(store)
    try:
        await _lose_admission(ledger, store)
    finally:
        await ledger.close()


async def _lose_admission(ledger: RedisLedger, store: EmbeddedStore) -> None:
    await ledger._beat([])
    assert store.pid is not None
    os.kill(store.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            await ledger.admit("lost", "team", CHARGES, [[0, 1]])
        with pytest.raises(StoreUnavailable):
            await ledger.admit("unasked", "team", CHARGES, [[0, 1]])
    finally:
        os.kill(store.pid, signal.SIGCONT)
    await ledger._beat([])
    assert ledger.up
    # The store has carried the first admission out meanwhile: it holds the slot until it is taken back.
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await ledger.reserve("lost", CHARGES, BOOKING)
        await ledger._deliver()
    assert [state.used for state in await ledger.states([IMAGES, SLOTS])] == [0, 0]
    # The second was never asked, so nothing is owed under its id, and its order is decided like any other.
    assert (await ledger.reserve("unasked", CHARGES, BOOKING)).admitted
    await ledger._deliver()
    assert [state.used for state in await ledger.states([IMAGES, SLOTS])] == [1, 1]


def test_a_threshold_shows_though_the_order_that_passed_it_got_lost(tmp_path: Path) -> None:
    """The state of a rule, from which the metric is made, tells a threshold by what is used, not by who was told."""
    with EmbeddedStore(tmp_path / "data") as store:
        asyncio.run(_lost_warning(store))


async def _lost_warning(store: EmbeddedStore) -> None:
    ledger = _ledger(store)
    try:
        await ledger._beat([])
        assert (await ledger.reserve("before", (Charge(WARNED, 4),), BOOKING)).admitted
        assert store.pid is not None
        os.kill(store.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable):
                await ledger.reserve("lost", (Charge(WARNED, 2),), BOOKING)
        finally:
            os.kill(store.pid, signal.SIGCONT)
        await ledger._beat([])
        await ledger._deliver()
        (state,) = await ledger.states([WARNED])
        assert (state.used, state.has_passed(50)) == (4, False)
        assert (await ledger.reserve("after", (Charge(WARNED, 2),), BOOKING)).admitted
        (state,) = await ledger.states([WARNED])
        assert (state.used, state.has_passed(50)) == (6, True)
    finally:
        await ledger.close()


@pytest.mark.parametrize("turns", [1, 3, 6])
def test_a_worker_that_stood_still_does_not_take_the_store_for_away(tmp_path: Path, turns: int) -> None:
    """An answer that came while the worker's own loop was held up counts, however late the worker looks.

    turns: of the loop until it stands still: before anything is done, while a connection is made, when the call is out.
    """
    with EmbeddedStore(tmp_path / "data") as store:
        uvloop.run(_stand_still(store, turns))  # the workers' loop, which runs timers before it looks at sockets


async def _stand_still(store: EmbeddedStore, turns: int) -> None:
    ledger = _ledger(store)
    try:
        call = asyncio.create_task(ledger._beat([]))
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(DECISION + 0.1)  # noqa: ASYNC251  this is what is tested
        await call
        assert ledger.up
    finally:
        await ledger.close()
