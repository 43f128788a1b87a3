"""The search for a delimiter finds what `bytes.find` finds."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.search import find

FEW = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"a", b"\0"]), max_size=60).map(b"".join)

MUCH = bytes(range(128, 256)) * 64


@given(data=FEW, part=FEW.filter(bool), start=st.integers(0, 70))
def test_it_is_bytes_find(data: bytes, part: bytes, start: int) -> None:
    """For data and parts with many near misses, NUL bytes among them, the place is the one that Python's own gives."""
    assert find(data, part, start) == data.find(part, start)
    assert find(MUCH + data, part, start) == (MUCH + data).find(part, start)
    assert find(MUCH + part, part) == len(MUCH)
