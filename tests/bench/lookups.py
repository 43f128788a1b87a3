"""Whether the time of a refusal tells anything of a key: `python -m tests.bench.lookups`.

Asked over the socket, in turn, on one connection: a secret that differs from a team's key in the last character of its
randomness, the same once more as a control, one that shares nothing with any key, and a key that has expired. Printed
is by how much the median of each differs from the first one's, with an interval by bootstrap. What a secret tells is
what stands out of the control's.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Sequence

from gateway.core import keys
from tests.bench.report import console
from tests.e2e import wire
from tests.support.running import base_config, running_gateway

_RESAMPLED = 1000
_OUTSIDE = 0.01  #: of the guesses, which the interval leaves out


def difference(some: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """By how much the median of `some` is above that of `others`: the lowest, the best and the highest guess."""
    chance = random.Random(0)

    def again(values: Sequence[float]) -> float:
        return statistics.median(chance.choices(values, k=len(values)))

    guesses = sorted(again(some) - again(others) for _ in range(_RESAMPLED))
    left_out = int(_RESAMPLED * _OUTSIDE / 2)
    return guesses[left_out], statistics.median(some) - statistics.median(others), guesses[-1 - left_out]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="of each secret")
    timed = _timed(parser.parse_args().samples)
    near = timed.pop("near")
    for name, values in timed.items():
        low, middle, high = (1e6 * each for each in difference(values, near))
        console().print(f"{name}: {middle:+.1f} us ({low:+.1f} to {high:+.1f}) of {1e6 * statistics.median(near):.0f}")


def _timed(samples: int) -> dict[str, list[float]]:
    """Seconds to each refusal, by what was sent."""
    secret = os.urandom(keys.RANDOM_BYTES - 1)
    ours, near = keys.make(secret + b"\0"), keys.make(secret + b"\1")
    expired, unknown = (keys.make(os.urandom(keys.RANDOM_BYTES)) for _ in range(2))
    config = base_config(upstream="http://127.0.0.1:9/v1")
    config["teams"]["free"]["keys"] = [
        {"id": "ours", "sha256": keys.digest(ours).hex()},
        {"id": "expired", "sha256": keys.digest(expired).hex(), "expires": "2020-01-01"},
    ]
    asked = {"near": near, "control": near, "unknown": unknown, "expired": expired}
    timed: dict[str, list[float]] = {name: [] for name in asked}
    with running_gateway(config=config) as gateway, wire.connected(gateway.url) as connection:
        for i in range(samples + 1):
            for name in random.sample(list(asked), len(asked)):
                head = wire.head("/v1/models", key=asked[name], method="GET", content_type=None)
                began = time.perf_counter()
                connection.send(head)
                answer = connection.read()
                if answer.status != 401:
                    raise SystemExit(f"{name}: answered {answer.status}")
                if i:  # the first of each finds nothing warm
                    timed[name].append(time.perf_counter() - began)
    return timed


if __name__ == "__main__":
    main()
