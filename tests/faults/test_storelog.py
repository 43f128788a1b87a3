"""The reading of the store's own files: against what a real server writes, and what Lua's packer packs."""

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.faults import storelog
from tests.faults.history import Charge, Record
from tests.faults.stores import Store

#: Packs as the product's scripts do, in another namespace than the one that is read.
WRITE = """
local record = {state = 'reserved', labels = 'k|a|m|s|q|e', images = 2, cost = 70000, slots = {'free'},
  charges = {{k = 'day', w = 'cal', at = 1795334400000, unit = 'images', amount = 2}}}
redis.call('HSET', KEYS[1], 'day', cmsgpack.pack({1795334400000, 1795420800000, 2}))
redis.call('HSET', KEYS[1], 'minute', cmsgpack.pack({[1795380600] = 3.25, [1795380601] = -1}))
redis.call('HSET', KEYS[2], 'r', cmsgpack.pack(record))
redis.call('HINCRBY', KEYS[3], 'label', 5)
"""


def test_what_a_script_wrote_is_one_step(tmp_path: Path) -> None:
    """Counters, record and booking of one script stand in one step, those of the next command in another."""
    store = Store(tmp_path / "data", fsync="always")
    store.start()
    try:
        store.ask("EVAL", WRITE, "3", "{n}:counters", "{n}:records", "{n}:u:design:2026-11-22")
        store.ask("HDEL", "{n}:records", "r")
        store.ask("HSET", "{other}:counters", "day", "7")
        with store.client() as client:
            left = storelog.left(client, "n")
        store.ask("FLUSHALL")
    finally:
        store.kill()
    steps = storelog.steps(store.folder, "n")
    assert [step.lost for step in steps] == [False] * (len(steps) - 1) + [True]
    first, second, *rest = [step for step in steps if step.counters or step.records]
    charge = Charge("day", "cal", 1_795_334_400_000, "images", 2)
    record = Record("reserved", ("k", "a", "m", "s", "q", "e"), 2, 70_000, ("free",), (charge,))
    counters = {"day": {1_795_334_400_000: 2}, "minute": {1_795_380_600: 3.25, 1_795_380_601: -1}}
    assert (first.records, dict(first.counters)) == ([("r", record)], counters)
    assert first.bookings == [("design:2026-11-22", "label", 5)]
    assert second.records == [("r", None)]
    assert rest == []
    assert (left.counters, left.usage) == (counters, {"design:2026-11-22": {"label": 5}})


@pytest.mark.parametrize(
    ("packed", "value"),
    [
        (b"\x7f", 127),
        (b"\xff", -1),
        (b"\xcc\xff", 255),
        (b"\xcf" + struct.pack(">Q", 9_000_000_000_000_000), 9_000_000_000_000_000),
        (b"\xd1\xff\x00", -256),
        (b"\xcb" + struct.pack(">d", 0.5), 0.5),
        (b"\xc0", None),
        (b"\xa2ab", "ab"),
        (b"\xd9\x02ab", "ab"),
        (b"\x93\x01\x02\x03", [1, 2, 3]),
        (b"\xdc\x00\x01\x05", [5]),
        (b"\x81\xa1a\x90", {"a": []}),
        (b"\xde\x00\x01\x01\x02", {1: 2}),
    ],
)
def test_messagepack_is_read(packed: bytes, value: Any) -> None:
    """Each form of the specification that a script may write, to its last byte."""
    assert storelog.unpack(packed) == (value, len(packed))


def test_a_file_that_ends_in_the_middle_of_a_command_is_read_up_to_it() -> None:
    """What a killed server had only half written was acknowledged to nobody."""
    whole = b"*2\r\n$4\r\nHDEL\r\n$1\r\nk\r\n"
    for end in range(len(whole)):
        assert list(storelog.commands(whole + whole[:end])) == [[b"HDEL", b"k"]]


def test_a_hole_between_commands_is_passed_over() -> None:
    """What a full disk left of a write, once the server has cut it back, says nothing; what follows it does."""
    whole = b"*2\r\n$4\r\nHDEL\r\n$1\r\nk\r\n"
    assert list(storelog.commands(whole + bytes(500) + whole + bytes(3))) == [[b"HDEL", b"k"]] * 2
