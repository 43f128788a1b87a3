"""Short runs of the fuzzers; `python -m tests.fuzz` is the long one."""

from collections.abc import Callable

import pytest

from tests.fuzz import campaign
from tests.fuzz.front import KINDS
from tests.fuzz.readers import SEEDS, read_json

#: Damaged requests, and seconds for each reader.
SOME, MANY, SECONDS = 400, 4000, 5


@pytest.mark.parametrize("cases", [SOME, pytest.param(MANY, marks=pytest.mark.slow)])
def test_no_damage_makes_a_fault_or_a_hang(cases: int) -> None:
    """Whatever chance does to requests, their answers are whole and no 5xx, no connection hangs, and what was made is
    charged.
    """
    report = campaign.attacked(cases=cases, seed=cases)
    assert report.tried == cases
    assert (report.faults, report.hangs) == ([], [])
    for kind in KINDS:
        assert report.refusals[kind] > report.kinds[kind] / 8, kind
    assert report.answers[200] > cases / 100
    assert report.made == report.charged > 0


@pytest.mark.slow
@pytest.mark.parametrize("reader", SEEDS, ids=lambda reader: reader.__name__)
def test_no_bytes_break_a_readers_promise(reader: Callable[[bytes], bool]) -> None:
    """Bytes led by the reader's own code are taken as every other reader would, or refused with a 4xx."""
    led = campaign.led(reader, SEEDS[reader], seconds=SECONDS, seed=1)
    assert led.failure is None
    assert led.tried > led.taken > 0


@pytest.mark.slow
def test_a_broken_promise_is_found() -> None:
    """Of a reader that takes what it should not, the bytes are found that show it, though they stand in no seed."""
    led = campaign.led(takes_nothing, [b'{"prompt":"a cat","n":11}'], seconds=60, seed=1)
    assert led.failure is not None
    assert "AssertionError" in led.failure
    assert "prompt" in led.failure


def takes_nothing(data: bytes) -> bool:
    """Wrong on purpose: there are bodies that are taken."""
    assert not read_json(data)
    return False
