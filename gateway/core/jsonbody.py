"""Strict JSON (RFC 8259) for request bodies: one text, one meaning, whoever reads it.

Refused beside what no JSON reader takes: a byte order mark, UTF-16 and UTF-32, NaN and Infinity (also by overflow, as
``1e999``), names that occur twice or differ only by case or Unicode form, lone surrogates, deep nesting, endless
integers. What is accepted is re-encoded before it goes up, so no other parser ever sees the client's bytes.
"""

import json
import re
from math import isinf

from gateway.core.errors import DuplicateParameter, ParameterError, UnknownParameter
from gateway.core.parameters import LONGEST_NAME, folded, named, shown

MAX_DEPTH = 16  #: the API's own bodies have depth 1; the rest is room for a parameter that is an object

# A string whose closing quote is missing matches to the end: else each quote after it would be scanned from anew.
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def decode(raw: bytes, *, max_depth: int = MAX_DEPTH) -> dict[str, object]:
    """The object that `raw` holds. Raises nothing but `ParameterError` and `DuplicateParameter`."""
    if not raw.strip(b" \t\r\n"):
        raise ParameterError("The body is empty; a JSON object is expected.")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ParameterError("The body starts with a byte order mark; JSON is UTF-8 without one.")
    try:
        text = raw.decode()
    except UnicodeDecodeError as exc:
        raise ParameterError(f"The body is not UTF-8: byte {exc.start} belongs to no character.") from exc
    if _deeper_than(raw, max_depth):
        raise ParameterError(f"The body is nested too deeply; at most {max_depth} levels are read.")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as exc:
        raise ParameterError(f"The body is not JSON: {exc.msg} (line {exc.lineno}, column {exc.colno}).") from exc
    if not isinstance(value, dict):
        raise ParameterError(f"The body must be a JSON object; got {shown(value)}.")
    if _ESCAPED_SURROGATE.search(raw):
        _refuse_lone_surrogates(value)
    return value


def _deeper_than(raw: bytes, depth: int) -> bool:
    """Whether brackets outside strings nest deeper; linear in the length, before anything recursive runs."""
    if raw.count(b"[") + raw.count(b"{") <= depth:
        return False
    level = 0
    for token in _STRUCTURE.finditer(raw):
        match token[0][:1]:
            case b"[" | b"{":
                level += 1
                if level > depth:
                    return True
            case b"]" | b"}":
                level -= 1
    return False


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    seen: dict[str, str] = {}
    for name, _ in pairs:
        if len(name) > LONGEST_NAME:
            raise UnknownParameter(f"{shown(name)} is no parameter: names are short.", param=named(name))
        key = folded(name)
        if key in seen:
            raise _repeated(seen[key], name)
        seen[key] = name
    return dict(pairs)


def _repeated(earlier: str, name: str) -> DuplicateParameter:
    param = named(name)
    if earlier == name:
        return DuplicateParameter(f'The parameter "{param}" is given twice.', param=param)
    return DuplicateParameter(
        f"The parameters {shown(earlier)} and {shown(name)} are one name to some readers; give one of them.",
        param=param,
    )


def _constant(name: str) -> object:
    raise ParameterError(f"The body is not JSON: {name} is no JSON number.")


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as exc:  # more digits than the interpreter converts (4300)
        raise ParameterError(f"The body holds a number of {len(digits)} digits, which is too large.") from exc


def _real(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        raise ParameterError(f"The body holds the number {named(digits)}, which is too large.")
    return value


def _refuse_lone_surrogates(value: dict[str, object]) -> None:
    for name, part in value.items():
        try:
            json.dumps([name, part], ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            param = named(name)
            raise ParameterError(
                f'The parameter "{param}" contains half of a surrogate pair, which is no character.', param=param
            ) from exc


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_real)
