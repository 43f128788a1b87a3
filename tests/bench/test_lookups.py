"""The measure of what a refusal's time tells: that it sees what it is for."""

import random

from tests.bench.lookups import difference


def _times(seed: int, *, more: float = 0.0) -> list[float]:
    """2,000 times as a busy machine has them: half a millisecond, and now and then a lot more."""
    chance = random.Random(seed)
    return [0.0005 + more + chance.expovariate(1 / 0.0001) for _ in range(2000)]


def test_a_difference_of_fifty_microseconds_is_seen() -> None:
    """Where one secret takes 50 us longer, the interval holds that and not 0."""
    low, middle, high = difference(_times(1, more=50e-6), _times(2))
    assert 0 < low < middle < high
    assert low < 50e-6 < high


def test_no_difference_is_seen_where_there_is_none() -> None:
    """Of two secrets that take the same time the interval holds 0."""
    low, _, high = difference(_times(3), _times(4))
    assert low < 0 < high
