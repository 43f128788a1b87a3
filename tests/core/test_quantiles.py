"""Quantiles of histograms, held against the very values that were put in."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.quantiles import quantile

BOUNDS = (0.1, 0.5, 1.0, 5.0, inf)


@pytest.mark.parametrize(
    ("buckets", "share", "value"),
    [
        ({1.0: 10}, 0.5, 0.5),
        ({1.0: 10, 2.0: 10}, 0.5, 1.0),
        ({1.0: 10, 2.0: 10}, 0.75, 1.5),
        ({1.0: 0, 2.0: 4}, 0.25, 1.25),
        ({1.0: 1, inf: 9}, 0.99, 1.0),
        ({}, 0.5, None),
        ({1.0: 0}, 0.5, None),
    ],
)
def test_values_are_spread_evenly_within_a_bucket(
    buckets: dict[float, float], share: float, value: float | None
) -> None:
    """Half of ten below one second is half a second; beyond the last bound its value is told; none of nothing."""
    assert quantile(buckets, share) == (None if value is None else pytest.approx(value))


@given(
    values=st.lists(st.floats(min_value=0.001, max_value=5.0), min_size=1, max_size=60),
    share=st.sampled_from([0.5, 0.95, 0.99]),
)
def test_it_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    """The estimate is never outside the bucket that holds the value of that rank."""
    buckets = dict.fromkeys(BOUNDS, 0.0)
    for value in values:
        buckets[min(bound for bound in BOUNDS if value <= bound)] += 1
    rank = max(0, -int(-(share * len(values)) // 1) - 1)
    true = sorted(values)[rank]
    found = quantile(buckets, share)
    assert found is not None
    upper = min(bound for bound in BOUNDS if true <= bound)
    lower = max((bound for bound in (0.0, *BOUNDS) if bound < upper), default=0.0)
    assert lower <= found <= upper * (1 + 1e-9)
