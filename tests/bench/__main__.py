"""How fast the gateway is, beside others, in one run: `python -m tests.bench`.

One worker on a core of its own; load, upstream and store on another. In each round every load is put on one variant
after the other, so that what disturbs the machine disturbs all; ratios are of the same round. Beside ours: no gateway
at all, nginx as a plain reverse proxy (without buffers for edits), LiteLLM's proxy, and that with a key's limit, which
it counts in a store as ours does. What cannot be had here is left out with a word.

Needs gcc; wrk and nginx (Debian packages of these names) if they are there; pip installs LiteLLM once, into a folder
of the system's temporary directory. About thirteen minutes; `--rounds 1 --seconds 1` is a look in three.

It asserts nothing of speed: absolute figures mean little on a shared machine. It fails when an answer is wrong.
"""

import argparse
import contextlib
import itertools
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench import memory, report
from tests.bench.client import has_wrk
from tests.bench.measure import Bench, Results, dump
from tests.bench.processes import LOAD_CORE, MEASURED_CORE
from tests.bench.scenarios import SCENARIOS, Scenario
from tests.bench.upstream import Upstream, running_upstream
from tests.bench.variants import PEERS, Missing, Variant, direct, ours

_KINDS = ("generations", "edits", "answers", "memory")


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, {LOAD_CORE})
    console = report.console()
    wanted = [scenario for scenario in SCENARIOS if scenario.name in options.only]
    results: Results = {}
    grown: list[memory.Memory] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name, running_upstream(Path(name)) as upstream:
        if wanted:
            with contextlib.ExitStack() as stack:
                variants = _variants(stack, upstream)
                _say_where(variants)
                _measure(Bench(upstream, Path(name), options.seconds), wanted, variants, options, results)
            for scenario in wanted:
                names = [variant.name for variant in variants if scenario.name in variant.ports]
                console.print(report.table(scenario, options.connections, names, results))
        if "memory" in options.only:
            grown = list(memory.measure(upstream))
            console.print(report.memory_table(grown))
    for line in report.targets(results, grown):
        console.print(line)
    if options.json is not None:
        options.json.write_text(dump(results))


def _variants(stack: contextlib.ExitStack, upstream: Upstream) -> list[Variant]:
    """All that can run here, started and at rest."""
    variants = [direct(upstream), stack.enter_context(ours(upstream))]
    for peer in PEERS:
        try:
            variants.append(stack.enter_context(peer(upstream)))
        except Missing as exc:
            print(f"left out: {exc}", file=sys.stderr)
    for variant in variants:
        variant.settle()
        variant.rest()
    return variants


def _measure(
    bench: Bench,
    wanted: Sequence[Scenario],
    variants: Sequence[Variant],
    options: argparse.Namespace,
    results: Results,
) -> None:
    """Each round begins with another variant, so that none always follows the same one."""
    for turn in range(options.rounds):
        first = turn % len(variants)
        for scenario, connections in itertools.product(wanted, options.connections):
            for variant in (*variants[first:], *variants[:first]):
                if scenario.name not in variant.ports:
                    continue
                sample = bench.measure(scenario, variant, connections)
                results.setdefault((scenario.title, connections, variant.name), []).append(sample)
                done = f"round {turn + 1}: {scenario.title}, {connections}: {variant.name} {sample.rate:.0f}"
                print(done, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of each load (default 3)")
    parser.add_argument("--only", type=_kinds, default=_KINDS, help=f"of {','.join(_KINDS)} (default all)")
    parser.add_argument("--connections", type=_counts, default=[1, 16, 64], help="default 1,16,64")
    parser.add_argument("--json", type=Path, help="a file for the samples of all rounds, one JSON object a line")
    return parser.parse_args()


def _kinds(text: str) -> Sequence[str]:
    found = text.split(",")
    if not set(found) <= set(_KINDS):
        raise argparse.ArgumentTypeError(f"one or more of {', '.join(_KINDS)}, with commas")
    return found


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


def _say_where(variants: Sequence[Variant]) -> None:
    load = " ".join(f"{figure:.2f}" for figure in os.getloadavg())
    facts = ", ".join(variant.facts for variant in variants if variant.facts)
    alone = "" if LOAD_CORE != MEASURED_CORE else " (one core for all: only ratios of CPU mean something)"
    print(
        f"Python {platform.python_version()}; load {load}; load, upstream and store on core {LOAD_CORE}, "
        f"measured on core {MEASURED_CORE}{alone}; {'wrk' if has_wrk() else 'own client'} for generations; {facts}",
        flush=True,
    )


if __name__ == "__main__":
    main()
