"""Checks the tree of a file against the model, and tells every finding in the words of the file.

`validate` also repairs a copy of a broken tree: what is wrong is replaced by a harmless stand-in, so that the checks
across values still run and one round shows all errors. `broken` tells those checks what not to believe.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.model import Config, Section
from gateway.config.problems import Fault, Steps, did_you_mean, listed, shown
from gateway.config.quantities import Number

#: The shapes that pydantic may miss, in the words of the file. The model has no constraint without words here.
_EXPECTED = {"model_type": "a mapping", "dict_type": "a mapping", "tuple_type": "a list", "bool_type": "true or false"}

_ROUNDS = 4  #: repairs of repairs: a stand-in may show that something around it is wrong as well

_LIST_STAND_INS: Mapping[str, Mapping[str, str]] = {
    "quotas": {"requests": Number(1), "per": "total"},
    "keys": {"id": "stand-in", "sha256": "0" * 64},
    "accounts": {"name": "stand-in", "api_key": "env:STAND_IN"},
}
_SECTION_STAND_INS: Mapping[str, Mapping[str, Any]] = {
    "upstream": {"accounts": [_LIST_STAND_INS["accounts"]]},
    "store": {"kind": "embedded"},
    "models": {"stand-in": {}},
}


@dataclass(frozen=True)
class Validated:
    """What came of a tree. config: None if it is past repair; if there are faults, a repaired one."""

    config: Config | None
    faults: tuple[Fault, ...]

    def broken(self, *steps: str | int) -> bool:
        """Whether something at or below this place, or all around it, is wrong already."""
        return any(
            fault.steps[: len(steps)] == steps or steps[: len(fault.steps)] == fault.steps for fault in self.faults
        )


def validate(tree: Mapping[str, Any]) -> Validated:
    """Read the tree into the model; `faults` holds everything that a single value does wrong."""
    try:
        return Validated(Config.model_validate(tree), ())
    except ValidationError as exc:
        errors = _own(exc)
    faults = tuple(map(_fault, errors))
    repaired: Any = deepcopy(tree)
    for _ in range(_ROUNDS):
        for error in errors:
            _repair(repaired, error)
        try:
            return Validated(Config.model_validate(repaired), faults)
        except ValidationError as exc:
            errors = _own(exc)
    return Validated(None, faults)


def _repair(tree: dict[str, Any], error: ErrorDetails) -> None:
    """Take the smallest thing out that makes the error go away, or put a stand-in there."""
    steps = tuple(step for step in error["loc"] if step != "[key]")
    if error["type"] == "missing":
        steps = steps if len(steps) == 1 else steps[:-1]
    for depth, step in enumerate(steps[:-1]):
        if step in _LIST_STAND_INS and isinstance(steps[depth + 1], int):
            steps = steps[: depth + 2]
            break
    *around, last = steps
    parents: list[Any] = [tree]
    for step in around:
        inner = parents[-1]
        fits = isinstance(inner, dict) or (isinstance(inner, list) and isinstance(step, int) and step < len(inner))
        if not fits or (isinstance(inner, dict) and step not in inner):
            return  # the error before it in this round took its surroundings out
        parents.append(inner[step])
    while isinstance(last, int) and str(around[-1]) not in _LIST_STAND_INS:
        last = around.pop()  # a list of plain values goes as a whole
        parents.pop()
    parent = parents[-1]
    if isinstance(last, int) and isinstance(parent, list):
        parent[last] = {**_LIST_STAND_INS[str(around[-1])], **_distinct(str(around[-1]), last)}
    elif isinstance(parent, dict) and len(steps) == 1 and last in _SECTION_STAND_INS:
        parent[str(last)] = deepcopy(_SECTION_STAND_INS[str(last)])
    elif isinstance(parent, dict):
        parent.pop(str(last), None)


def _distinct(collection: str, index: int) -> dict[str, str]:
    """Give a stand-in a name of its own, lest it be told as a repetition."""
    return {{"quotas": "name", "keys": "id", "accounts": "name"}[collection]: f"stand-in-{index}"}


def _own(exc: ValidationError) -> list[ErrorDetails]:
    """Return the errors but those that follow from others: a list is too short for its items are wrong."""
    errors = exc.errors(include_url=False)
    places = [error["loc"] for error in errors]

    def follows(error: ErrorDetails) -> bool:
        loc = error["loc"]
        below = any(place[: len(loc)] == loc and len(place) > len(loc) for place in places)
        return error["type"] == "too_short" and below

    return [error for error in errors if not follows(error)]


def _fault(error: ErrorDetails) -> Fault:
    steps = tuple(step for step in error["loc"] if step != "[key]")
    on_key = error["type"] == "extra_forbidden" or error["loc"][-1] == "[key]"
    return Fault(steps, _message(error, steps), on_key=on_key)


def _message(error: ErrorDetails, steps: Steps) -> str:
    """Say it in the words of the file: pydantic speaks of tuples and dictionaries."""
    value, context, kind = error["input"], error.get("ctx", {}), error["type"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return f"missing; {_description(steps)}"
    if kind == "extra_forbidden":
        return _unknown_key(steps)
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        near = did_you_mean(value, choices) if isinstance(value, str) else ""
        return f"expected {listed(choices)}, got {shown(value)}{near}"
    if kind == "less_than_equal":
        return f"must be at most {context['le']}, got {shown(value)}"
    if kind.endswith("too_short"):
        return "must not be empty"
    if kind.endswith("too_long"):
        return f"must have at most {context['max_length']} characters"
    return f"expected {_EXPECTED[kind]}, got {shown(value)}"


def _unknown_key(steps: Steps) -> str:
    section, key = type_at(steps[:-1]), str(steps[-1])
    known = section.model_fields if isinstance(section, type) and issubclass(section, Section) else ()
    if re.fullmatch(r"[0-9]+", key):
        return "unknown key; a comma inside a number splits it: write it in plain digits, as 1000"
    return f"unknown key{did_you_mean(key, known) or f'; expected {listed(known)}'}"


def _description(steps: Steps) -> str:
    section, key = type_at(steps[:-1]), str(steps[-1])
    known = section.model_fields if isinstance(section, type) and issubclass(section, Section) else {}
    return f"expected: {known[key].description}" if key in known else "expected a value"


def type_at(steps: Steps) -> object:
    """Return the type that the model has at a place: a `Section`, a list's or mapping's type, or a value's."""
    kind: object = _bare(Config)
    for step in steps:
        if isinstance(kind, type) and issubclass(kind, Section):
            kind = _bare(kind.model_fields[str(step)].annotation)
        else:
            kind = _bare(get_args(kind)[1 if get_origin(kind) is dict else 0])
    return kind


def _bare(kind: object) -> object:
    """Take off what surrounds a type: `Annotated`, and the None of an optional value."""
    while get_origin(kind) in {Annotated, Union, UnionType}:
        kind = next(inner for inner in get_args(kind) if inner is not type(None))
    return kind
