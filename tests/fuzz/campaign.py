"""Runs of both kinds, with what came of them."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.conftest import JWT_SECRET
from tests.fuzz import front, guided, readers
from tests.support import packages
from tests.support.running import running_gateway
from tests.support.simulated import running_simulator

#: Seconds in which one body must be read; all take well under a millisecond.
_HANGS = 10


@dataclass(frozen=True, slots=True)
class Led:
    """tried, taken: bodies. failure: what broke a promise, with the end of what atheris said; None if nothing did."""

    tried: int
    taken: int
    failure: str | None


def led(reader: Callable[[bytes], bool], seeds: Sequence[bytes], *, seconds: int, seed: int) -> Led:
    """One reader under atheris, in a process of its own."""
    environ = {**os.environ, "PYTHONPATH": str(packages.atheris())}
    with tempfile.TemporaryDirectory(prefix="gateway-fuzz-") as name:
        counts, corpus, found = (Path(name) / part for part in ("counts", "corpus", "found"))
        counts.write_bytes(bytes(guided.COUNTS.size))
        corpus.mkdir()
        found.mkdir()
        for number, body in enumerate(seeds):
            (corpus / str(number)).write_bytes(body)
        ended = subprocess.run(
            [
                *(sys.executable, "-m", guided.__name__, f"{reader.__module__}:{reader.__name__}", str(counts)),
                *(f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={_HANGS}"),
                *(f"-max_len={readers.LONGEST}", f"-artifact_prefix={found}/", str(corpus)),
            ],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + 60,
            check=False,
        )
        tried, taken = guided.COUNTS.unpack(counts.read_bytes())
        failure = None
        if ended.returncode != 0:
            bodies = [file.read_bytes() for file in found.iterdir()]
            failure = f"{ended.returncode} {bodies} {ended.stdout[-2000:].decode(errors='replace')}"
        return Led(tried, taken, failure)


def attacked(*, cases: int, seed: int) -> front.Report:
    """A gateway of its own, and what became of so many damaged requests."""
    environ = {"TEST_JWT_SECRET": JWT_SECRET}
    with (
        running_simulator() as simulator,
        running_gateway(config=front.config(simulator.base_url), environ=environ) as gateway,
    ):
        report = asyncio.run(front.attack(gateway, simulator, cases=cases, seed=seed))
        if "Traceback" in gateway.log_text():
            report.faults.append(gateway.log_text()[-4000:])
        return report
