"""The store's own record: every write in its order, read from its append-only file, and what stands there at the end.

Nothing of the product is used: commands (RESP), the packed values (MessagePack, https://msgpack.org, as Lua's cmsgpack
writes it) and the names of the keys are read by this file's own code.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from tests.faults.history import Charge, Counter, Left, Record, Step

_SIZES = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_SIZES |= {0xCA: ">f", 0xCB: ">d", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_SIZES |= {0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"}


def steps(folder: Path, namespace: str) -> list[Step]:
    """All that was written in `namespace`, by the server whose directory this is. Its file was never rewritten."""
    files = sorted((folder / "appendonlydir").glob("*.aof"), key=lambda path: int(path.name.split(".")[2]))
    found: list[Step] = []
    for path in files:
        found += _steps(path.read_bytes(), f"{{{namespace}}}:")
    return found


def left(client: "redis.Redis", namespace: str) -> Left:
    """What stands there now. client: does not decode."""
    prefix = f"{{{namespace}}}:"
    counters: Any = client.hgetall(prefix + "counters")
    usage: Any = {key: client.hgetall(key) for key in client.keys(prefix + "u:*:*")}
    return Left(
        counters={name.decode(): _counter(value) for name, value in counters.items()},
        open=_members(client, prefix + "open"),
        leases=_members(client, prefix + "leases"),
        usage={
            key.decode().removeprefix(prefix + "u:"): {name.decode(): int(value) for name, value in table.items()}
            for key, table in usage.items()
        },
    )


def _members(client: "redis.Redis", key: str) -> frozenset[str]:
    members: Any = client.zrange(key, 0, -1)
    return frozenset(member.decode() for member in members)


def _steps(data: bytes, prefix: str) -> Iterator[Step]:
    """What stands between MULTI and EXEC is one script's; a command that stands alone is all that one wrote."""
    step: Step | None = None
    for command in commands(data):
        verb = command[0].upper()
        if verb == b"MULTI":
            step = Step()
        elif verb == b"EXEC" and step is not None:
            yield step
            step = None
        elif step is not None:
            _note(step, verb, command, prefix)
        else:
            alone = Step()
            _note(alone, verb, command, prefix)
            yield alone


def _note(step: Step, verb: bytes, command: Sequence[bytes], prefix: str) -> None:
    key = command[1].decode() if len(command) > 1 else ""
    name = key.removeprefix(prefix)
    pairs = list(zip(command[2::2], command[3::2], strict=False))
    if verb == b"FLUSHALL":
        step.lost = True
    elif name == "records" and verb == b"HSET":
        step.records += [(rid.decode(), _record(value)) for rid, value in pairs]
    elif name == "records" and verb == b"HDEL":
        step.records += [(rid.decode(), None) for rid in command[2:]]
    elif name == "counters" and verb == b"HSET":
        step.counters += [(counter.decode(), _counter(value)) for counter, value in pairs]
    elif name.startswith("u:") and verb == b"HINCRBY":
        step.bookings.append((name.removeprefix("u:"), command[2].decode(), int(command[3])))


def _record(value: bytes) -> Record:
    fields, _ = unpack(value)
    return Record(
        state=fields["state"],
        labels=tuple(fields["labels"].split("|")) if fields.get("labels") else (),
        images=int(fields.get("images", 0)),
        cost=int(fields.get("cost", 0)),
        slots=tuple(fields["slots"]),
        charges=tuple(
            Charge(charge["k"], charge["w"], int(charge["at"]), charge["unit"], int(charge["amount"]))
            for charge in fields["charges"]
        ),
    )


def _counter(value: bytes) -> Counter:
    if value.lstrip(b"-").isdigit():
        return int(value)
    kept, _ = unpack(value)
    if isinstance(kept, list):  # start, end, used
        return {int(kept[0]): int(kept[2])}
    return {int(at): used for at, used in kept.items()}


def commands(data: bytes) -> Iterator[list[bytes]]:
    """RESP arrays of bulk strings, with the file's comments between them; a last one that is cut short is left out.

    NULs between two are passed over: a hole, where a full disk has stopped a write and the server cut it back.
    """
    at = 0
    while at < len(data):
        if data[at] == 0:
            at += len(data) - at - len(data[at:].lstrip(b"\0"))
            continue
        line, at = _line(data, at)
        if line.startswith(b"#"):
            continue
        if not line:
            return
        words: list[bytes] = []
        for _ in range(int(line[1:])):
            length, at = _line(data, at)
            if not length:
                return
            end = at + int(length[1:])
            words.append(data[at:end])
            at = end + 2
        if at > len(data):
            return
        yield words


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\r\n", at)
    return (data[at:end], end + 2) if end >= 0 else (b"", len(data))


def unpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    """The MessagePack value that begins at `at`, and where it ends."""
    head, at = data[at], at + 1
    if head < 0x80 or head >= 0xE0:
        return (head if head < 0x80 else head - 0x100), at
    if head in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[head], at
    number: Any = head & (0x1F if 0xA0 <= head < 0xC0 else 0x0F)
    if head >= 0xC0:
        form = _SIZES[head]
        (number,) = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
    if 0xCA <= head <= 0xD3:
        return number, at
    if 0xA0 <= head < 0xC0 or head in (0xD9, 0xDA, 0xDB):
        return data[at : at + number].decode(), at + number
    items = []
    is_map = head < 0x90 or head in (0xDE, 0xDF)
    for _ in range(number * 2 if is_map else number):
        item, at = unpack(data, at)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if is_map else items), at
