"""Quantiles of a histogram's buckets, estimated as Prometheus does: evenly spread within a bucket."""

from collections.abc import Mapping
from math import inf


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The value that `share` (0 to 1) of the observations lie below; None where there are none.

    buckets: upper bound -> observations in that bucket alone. What lies beyond the last finite bound is told as that.
    """
    rank = share * sum(buckets.values())
    below, seen = 0.0, 0.0
    for bound in sorted(buckets):
        number = buckets[bound]
        if number and seen + number >= rank:
            return below if bound == inf else below + (bound - below) * (rank - seen) / number
        seen += number
        below = bound
    return None
