"""``python -m tests.fuzz [--seconds N] [--cases N] [--seed S]``: all readers and the socket, with figures.

Exit status 1 when a reader broke a promise, an answer blamed the gateway or was cut, a connection hung, or anything was
made that was not charged.
"""

import argparse
import sys

from tests.fuzz import campaign
from tests.fuzz.readers import SEEDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--cases", type=int, default=20_000, help="damaged requests on the socket")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    failures = 0
    for reader, seeds in SEEDS.items():
        led = campaign.led(reader, seeds, seconds=asked.seconds, seed=asked.seed)
        failures += led.failure is not None
        print(f"{reader.__name__:18} {led.tried} tried, {led.tried - led.taken} refused with a 4xx, {led.taken} taken")
        print(f"{'':18} {led.failure or 'no promise broken, no hang'}", flush=True)
    report = campaign.attacked(cases=asked.cases, seed=asked.seed)
    answers = ", ".join(f"{number} x {status}" for status, number in sorted(report.answers.items()))
    print(f"{'socket':18} {report.tried} tried, {report.answers.total()} answers ({answers})")
    for kind, tried in report.kinds.items():
        print(f"{'':18} {kind:10} {tried} tried, {report.refusals[kind]} x 4xx")
    print(f"{'':18} 4xx {report.refused}, faults {len(report.faults)}, hangs {len(report.hangs)}")
    print(f"{'':18} images made {report.made}, charged {report.charged}; worker's memory {report.grown:+.1f} MB")
    for each in (report.faults + report.hangs)[:20]:
        print(f"  {each}")
    return 1 if failures or report.faults or report.hangs or report.made != report.charged else 0


if __name__ == "__main__":
    sys.exit(main())
