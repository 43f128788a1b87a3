"""The short form of `python -m tests.faults`: one trial, and every wrong variant, with fixed seeds."""

import asyncio
from dataclasses import dataclass, replace

import pytest

from tests.faults import scoreboard, trial
from tests.faults.__main__ import controlled
from tests.faults.history import EMPTIED
from tests.faults.scoreboard import Control
from tests.faults.trial import SLOTS_FREE, Outcome, Plan
from tests.faults.variants import VARIANTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEED = "7"
ORDERING = 20.0  # seconds; about 80 more pass until the last charge is presumed


@dataclass(frozen=True, slots=True)
class Short:
    trial: Outcome
    right: Outcome
    emptied: Outcome
    controls: dict[str, Control]


@pytest.fixture(scope="module")
def short() -> Short:
    """All of it in one go, for most of the trial is waiting for clocks."""

    async def run() -> Short:
        quiet = asyncio.Event()
        waiting = asyncio.create_task(trial.run(Plan(SEED, ORDERING, stores=2), quiet))
        await quiet.wait()
        small = Plan(SEED, trial.CONTROL, hosts=1, workers=2, harmless=True)
        right, emptied = await asyncio.gather(
            *(trial.run(plan, asyncio.Event()) for plan in (small, replace(small, last=EMPTIED)))
        )
        controls = {each.variant: each for each in await controlled(SEED)}
        return Short(await waiting, right, emptied, controls)

    return asyncio.run(run())


@pytest.fixture
def outcome(short: Short) -> Outcome:
    return short.trial


def test_nothing_is_over_lost_or_doubled(outcome: Outcome) -> None:
    """Through kills, freezes, resets and a failover no invariant is violated by any of the three logs."""
    assert [str(violation) for violation in outcome.verdict.violations] == []


def test_the_trial_was_one(outcome: Outcome) -> None:
    """There were faults of every group, a failover, a limit reached to its last image, and charges left to presume."""
    names = {fault.name for fault in outcome.faults}
    assert {"failover", "kill host"} < names
    assert len(names) > 5
    assert outcome.store_cuts + outcome.upstream_cuts > 0
    assert outcome.verdict.tightest == 1.0
    assert outcome.verdict.made > 100


def test_slots_come_free_after_the_last_kill(outcome: Outcome) -> None:
    """Another host frees what a killed one held within 35 s, though nobody told it."""
    assert outcome.freed is not None
    assert outcome.freed <= SLOTS_FREE


def test_the_scoreboard_agrees(outcome: Outcome) -> None:
    """What is printed of this trial calls nothing violated, and its figures are those of the verdict."""
    said = {line.name: line for line in scoreboard.lines([outcome], [])}
    assert [name for name, line in said.items() if line.good is False] == []
    reserved = outcome.verdict.reserved
    assert said["reservations ended exactly once (I2)"].value == f"{reserved} of {reserved}"


def test_a_right_gateway_passes_where_the_wrong_ones_fail(short: Short) -> None:
    """The trial of the variants, with the gateway as it is: nothing is violated."""
    assert [str(violation) for violation in short.right.verdict.violations] == []


def test_what_a_store_forgets_is_told(short: Short) -> None:
    """A store is emptied among orders: that is noticed, and those under way stand in the log, image by image."""
    outcome = short.emptied
    assert [str(violation) for violation in outcome.verdict.violations] == []
    assert outcome.history.noticed == 1
    assert outcome.history.told


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_wrong_variant_is_noticed(short: Short, variant: str) -> None:
    """The check is no formality: a gateway that is wrong in one place is told by the right invariant."""
    found = short.controls[variant]
    assert found.caught, f"must be {found.expected}, named {dict(found.named)}"
