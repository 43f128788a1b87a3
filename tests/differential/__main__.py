"""``python -m tests.differential [--cases N] [--seed S]``: everything the oracle has, with figures.

Exit status 1 when any reader saw another order than the one that was charged, anything but a 4xx refused a body, or a
form was read otherwise where it was cut in two.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from random import Random

from tests.differential import bodies, oracle, places, readings, suites
from tests.differential.oracle import Report
from tests.support import packages
from tests.support.running import running_gateway


def bodies_of_a_run(*, cases: int, seed: int, further: tuple[bodies.Body, ...] = ()) -> Iterator[bodies.Body]:
    """Everything that is fixed, whole and again in chunks, then so many mutations."""
    cuts, random = bodies.Cuts(), Random(seed)
    mutations = (bodies.mutated(random, further) for _ in iter(int, 1))
    fixed = (*bodies.plain(), *bodies.crafted(), *further)
    chunked = (bodies.in_chunks(body, random) for body in fixed if body.data and not body.head)
    return chain(fixed, chunked, cuts.ended(), cuts.chunked(), islice(mutations, cases))


def try_all(tried: Iterator[bodies.Body], *, node: Path) -> Report:
    """node: the folder with Node's readers."""

    async def run() -> Report:
        async with oracle.upstream() as server:
            with ExitStack() as held:
                gateway = held.enter_context(running_gateway(config=oracle.config(f"{server.url}/v1")))
                programs = [
                    held.enter_context(readings.running([str(packages.go_readers())])),
                    held.enter_context(readings.running(["node", "readers.mjs"], cwd=node)),
                ]
                return await oracle.Oracle(gateway, server, programs).run(tried)

    return asyncio.run(run())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="mutated bodies, beside all fixed ones")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        node = packages.node_folder(Path(name), packages.READERS)
        further = suites.all_suites(node)
        report = try_all(bodies_of_a_run(cases=asked.cases, seed=asked.seed, further=further), node=node)
    cuts, changed = places.cut_everywhere((*bodies.plain(), *bodies.crafted(), *further))
    told(report, seconds=time.monotonic() - began)
    print(f"forms           cut at {cuts} places in all, {len(changed)} read otherwise for it")
    for each in changed[:20]:
        print(f"  {each}")
    return 1 if report.disagreements or report.faults or changed else 0


def told(report: Report, *, seconds: float) -> None:
    refused = ", ".join(f"{number} x {status}" for status, number in sorted(report.refused.items()))
    print(f"readers         {len(report.readers)}: {', '.join(sorted(report.readers))}")
    print(f"bodies tried    {report.tried} in {seconds:.0f} s")
    print(f"refused         {report.refused.total()} ({refused})")
    print(f"closed          {report.closed}, heads that frame no body")
    print(f"forwarded       {report.forwarded}, {report.images} images charged")
    print(f"disagreements   {len(report.disagreements)}")
    print(f"5xx, hangs, cut {len(report.faults)}")
    print(f"control         {report.control} bodies read differently without the gateway, {report.control_n} in n")
    for each in (report.disagreements + report.faults)[:20]:
        print(f"  {each}")


if __name__ == "__main__":
    sys.exit(main())
