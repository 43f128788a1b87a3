"""That quotas hold, shown: `python -m tests.faults --minutes 10 --seed 7`.

Two gateway hosts with four workers each before one store, 25 clients, and whatever can be killed, frozen, cut, filled,
set or taken over, in trial after trial, each checked by three independent logs (checker). Then the same clients before
gateways that are wrong on purpose (variants), each of which must be noticed. One scoreboard at the end; exit 1 if
anything in it is not as it must be.

A trial waits as long as the contract's own clocks take, about 75 s after its last kill; the next one runs meanwhile.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.faults import scoreboard, trial
from tests.faults.history import EMPTIED
from tests.faults.scoreboard import Control
from tests.faults.trial import Outcome, Plan
from tests.faults.variants import STEPPED_CLOCK, VARIANTS

ORDERING = 45.0  # seconds of a trial in which there are clients and faults

TOLD = 20  # violations that are printed; --json has all

CONTROLS = 5  # trials of a variant at most

#: The kinds of trial, in turn.
KINDS: list[dict[str, Any]] = [
    {},
    {"fsync": "always"},
    {"stores": 3},
    {"last": "freeze worker past a lease"},
    {"variant": STEPPED_CLOCK},
    {"last": "freeze store past a lease"},
    {"harmless": True, "last": EMPTIED},
]


def main() -> None:
    options = _options()
    began = time.monotonic()
    outcomes = asyncio.run(_trials(options.seed, options.minutes * 60))
    controls = asyncio.run(controlled(str(options.seed)))
    said = scoreboard.lines(outcomes, controls)
    seconds = time.monotonic() - began
    found = scoreboard.violations(outcomes)
    for violation in found[:TOLD]:
        print(violation)
    if len(found) > TOLD:
        print(f"… and {len(found) - TOLD} more")
    for each in controls:
        print(f"{each.variant}: must be {each.expected}, named {dict(each.named)}", file=sys.stderr)
    title = f"python -m tests.faults --minutes {options.minutes:g} --seed {options.seed} ({seconds:.0f} s)"
    Console(width=140).print(scoreboard.table(title, said))
    if options.json is not None:
        told = scoreboard.as_json(options.seed, seconds, said, outcomes)
        options.json.write_text(json.dumps(told, indent=1))
    sys.exit(1 if any(line.good is False for line in said) else 0)


async def _trials(seed: int, seconds: float) -> list[Outcome]:
    """Clients order in one trial while the one before waits for its clocks."""
    ends = time.monotonic() + seconds
    tasks: list[asyncio.Task[Outcome]] = []
    async with asyncio.TaskGroup() as group:
        while not tasks or time.monotonic() < ends:
            kind = KINDS[len(tasks) % len(KINDS)]
            quiet = asyncio.Event()
            left = max(5.0, min(ORDERING, ends - time.monotonic()))
            plan = Plan(f"{seed}.{len(tasks)}", left, **kind)
            tasks.append(group.create_task(trial.run(plan, quiet)))
            await quiet.wait()
            print(f"trial {plan.seed} ({kind}): clients have gone", file=sys.stderr, flush=True)
    return [task.result() for task in tasks]


async def controlled(seed: str) -> list[Control]:
    """Every variant, two at a time."""
    room = asyncio.Semaphore(2)

    async def one(variant: str) -> Control:
        async with room:
            return await control(variant, seed=seed)

    return await asyncio.gather(*(one(variant) for variant in VARIANTS))


async def control(variant: str, *, seed: str) -> Control:
    """The clients of every trial before one gateway of this variant, with harmless faults only.

    What is wrong shows only where a fault meets an order in the right moment, so a trial in which none did is followed
    by another.
    """
    for turn in range(CONTROLS):
        plan = Plan(f"{seed}.{turn}", trial.CONTROL, hosts=1, workers=2, harmless=True, variant=variant)
        outcome = await trial.run(plan, asyncio.Event())
        found = Control(variant, VARIANTS[variant].invariant, outcome.verdict.by_invariant)
        if found.caught:
            break
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of trials (default 10); the variants come after")
    parser.add_argument("--seed", type=int, default=7, help="of orders and faults (default 7)")
    parser.add_argument("--json", type=Path, help="a file for the scoreboard and the violations")
    return parser.parse_args()


if __name__ == "__main__":
    main()
