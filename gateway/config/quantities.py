"""Counts, money, durations and sizes as a config file holds them: how each is written, read and refused.

Unquoted numbers arrive as `Number`, which keeps their spelling: money never passes through a binary float, and
``1.000`` is refused rather than read as 1. Every parser raises `ValueError` with a sentence that says what is wrong
and what to write instead. The types at the end are what the model's fields are made of.
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from gateway.config.problems import shown
from gateway.core.quota import MICRO

#: Above this a count or a sum in micro-dollars could no longer be exact in the store's Lua, whose numbers are
#: doubles (exact to 2**53).
MOST = 1_000_000_000
_WHOLE = re.compile(r"0|[1-9][0-9]*")
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:[.,_' ][0-9]{3})+")
_DOLLARS = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]{1,6})?")
_DURATION = re.compile(r"([0-9]+)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_BYTES = re.compile(r"([0-9]+)(KB|MB|GB)")
_FACTOR = {"KB": 1024, "MB": 1024**2, "GB": 1024**3}
_PERCENT = re.compile(r"([1-9][0-9]?|100)%")


class Number(str):
    """An unquoted number exactly as the file spells it (``0.040``, ``1e3``, ``1_000``); so it shows in messages."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _whole_meant(text: str) -> int | None:
    """Return the whole number somebody probably meant by `text`, for a suggestion."""
    if _GROUPED.fullmatch(text):
        return int(re.sub(r"[^0-9]", "", text))
    try:
        number = Decimal(text.replace("_", ""))
    except InvalidOperation:
        return None
    # The exponent is looked at first: int() of 1e999999999 would fill the memory.
    return int(number) if number.is_finite() and abs(number.adjusted()) < 15 and number == int(number) else None


def count(value: object) -> int:
    """Read a whole number, 1 at least, written in plain digits. An `int` is a default of ours."""
    if type(value) is int:
        return value
    if isinstance(value, Number) and _WHOLE.fullmatch(value):
        number = int(value) if len(value) <= len(str(MOST)) else MOST + 1
        if not 1 <= number <= MOST:
            raise ValueError(f"must be from 1 to {MOST}, got {shown(value)}")
        return number
    meant = _whole_meant(value) if isinstance(value, str) else None
    advice = f": write {meant}" if meant is not None and 1 <= meant <= MOST else ""
    got = shown(value)
    if isinstance(value, str) and not isinstance(value, Number) and _WHOLE.fullmatch(value):
        got += " in quotes"
    raise ValueError(f"expected a whole number of 1 or more in plain digits, got {got}{advice}")


def money(value: object) -> int:
    """Read US dollars, with at most 6 decimals, into integer micro-dollars; the arithmetic is decimal throughout."""
    if isinstance(value, Number) and _DOLLARS.fullmatch(value):
        dollars = Decimal(value)
        if dollars > MOST:
            raise ValueError(f"must be at most {MOST} dollars")
        return int(dollars.scaleb(6))
    if isinstance(value, Number) and re.fullmatch(r"[0-9]+\.[0-9]{7,}", value):
        raise ValueError("expected US dollars with at most 6 decimals (micro-dollars), got more")
    if isinstance(value, Number) and value.startswith("-"):
        raise ValueError("expected US dollars of 0 or more, got a negative number")
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}\b)", "", value.strip("$ ")) if isinstance(value, str) else ""
    advice = f": write {text}" if _DOLLARS.fullmatch(text) else ""
    if isinstance(value, Number) and not advice:
        meant = _whole_meant(value)
        advice = f": write {meant}" if meant is not None and meant <= MOST else ""
    raise ValueError(f"expected US dollars as a plain decimal number like 0.040, got {shown(value)}{advice}")


def budget(value: object) -> int:
    """Read what a rule allows in US dollars: more than 0, as counts are."""
    micro = money(value)
    if micro == 0:
        raise ValueError("must be more than 0; to forbid all, use suspended")
    return micro


def dollars(micro: int) -> str:
    """Write micro-dollars as a person does: at least two decimals, no more than it takes."""
    whole, part = divmod(micro, MICRO)
    return f"{whole}.{f'{part:06d}'.rstrip('0').ljust(2, '0')}"


def duration(value: object) -> float:
    """Read ``5s``, ``2m``, ``1h`` or ``500ms`` into seconds; not zero."""
    text = value if isinstance(value, str) else ""
    if match := _DURATION.fullmatch(text):
        seconds = int(match[1][:12]) * _SECONDS[match[2]]
        if not 0 < seconds <= 366 * 86400:
            raise ValueError("must be longer than 0 and no longer than a year")
        return float(seconds)
    advice = ""
    if isinstance(value, Number) and _WHOLE.fullmatch(value):
        advice = f": write {value}s" if len(value) < 8 else ""
    elif match := re.fullmatch(r"([0-9]{1,3})d(ays?)?", text):
        advice = f": write {int(match[1]) * 24}h"
    elif match := re.fullmatch(r"([0-9]{1,6}) ?(s|sec|m|min|h|hr)[a-z]*", text, re.IGNORECASE):
        advice = f": write {int(match[1])}{match[2][0].lower()}"
    raise ValueError(f"expected a duration like 5s, 2m, 1h or 500ms, got {shown(value)}{advice}")


def byte_size(value: object) -> int:
    """Read ``512KB``, ``4MB`` or ``1GB`` into bytes; a KB is 1024."""
    text = value if isinstance(value, str) else ""
    if match := _BYTES.fullmatch(text):
        size = int(match[1][:12]) * _FACTOR[match[2]]
        if not 0 < size <= 1024**4:
            raise ValueError("must be more than 0 and no more than 1024GB")
        return size
    advice = ""
    if match := re.fullmatch(r"([0-9]{1,9}) ?([kmg])(i?b)?", text, re.IGNORECASE):
        advice = f": write {match[1]}{match[2].upper()}B"
    raise ValueError(f"expected a size like 512KB, 4MB or 1GB, got {shown(value)}{advice}")


def percent(value: object) -> int:
    """Read ``50%``."""
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        return int(match[1])
    advice = f": write {value}%" if isinstance(value, Number) and re.fullmatch("[1-9][0-9]?|100", value) else ""
    raise ValueError(f"expected a percentage from 1% to 100%, got {shown(value)}{advice}")


Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, PlainValidator(count), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST})]
Money = Annotated[int, PlainValidator(money), WithJsonSchema({"type": "number", "minimum": 0})]
Budget = Annotated[int, PlainValidator(budget), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
Duration = Annotated[
    float, PlainValidator(duration), WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$"})
]
ByteSize = Annotated[
    int, PlainValidator(byte_size), WithJsonSchema({"type": "string", "pattern": f"^{_BYTES.pattern}$"})
]
Percent = Annotated[
    int, PlainValidator(percent), WithJsonSchema({"type": "string", "pattern": f"^({_PERCENT.pattern})$"})
]
