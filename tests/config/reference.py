"""The README's reference of the configuration, made from its schema: `python -m tests.config.reference` writes it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.config.schema import json_schema

README = Path(__file__).parent.parent.parent / "README.md"

_BEGINS, _ENDS = "<!-- reference: made by python -m tests.config.reference -->\n", "<!-- end of the reference -->\n"

#: What a pattern of the schema asks for. One that is not here needs its words.
_FORMS = {
    "^([0-9]+)(ms|s|m|h)$": "a time, like `30s`",
    "^([0-9]+)(KB|MB|GB)$": "a size, like `4MB`",
    "^(([1-9][0-9]?|100)%)$": "a share, like `80%`",
    "^(env:[A-Za-z_]|file:/)": "`env:NAME` or `file:/PATH`",
    "^https?://": "a URL",
    "^.+:[0-9]{1,5}$": "`HOST:PORT`",
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}": "a day or a moment (RFC 3339)",
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]": "a moment (RFC 3339)",
    "^[0-9a-fA-F]{64}$": "64 hexadecimal digits",
    "^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$": "`WIDTHxHEIGHT`",
    "^[a-z0-9-]{1,63}$": "a name: `a-z`, `0-9`, `-`",
    "^[A-Za-z0-9._:/-]{1,128}$": "a model's name",
    "^[A-Za-z_][A-Za-z0-9_]{0,63}$": "a parameter's name",
}
_KINDS = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "`true` or `false`"}

Tree = dict[str, Any]


def reference() -> str:
    """A table for each section, in the order in which the file has them."""
    schema = json_schema()
    return "\n".join(f"### {title}\n\n{_table(section)}" for title, section in _sections(schema))


def written(readme: str) -> str:
    """The README with the reference of today."""
    before, begins, rest = readme.partition(_BEGINS)
    _, ends, after = rest.partition(_ENDS)
    assert begins, "the README has no place for the reference"
    assert ends, "the README's reference has no end"
    return f"{before}{begins}\n{reference()}\n{ends}{after}"


def _sections(schema: Tree) -> Iterator[tuple[str, Tree]]:
    """Each section once, headed by all the places where it may stand."""
    places: dict[str, list[str]] = {}
    found = [("", schema)]
    for path, section in found:
        for key, value in section["properties"].items():
            for step, name in _inner(value):
                place = f"{path}.{key}{step}".lstrip(".")
                if name not in places:
                    found.append((place, schema["$defs"][name]))
                places.setdefault(name, []).append(place)
    assert places.keys() == schema["$defs"].keys()
    yield "The file", schema
    for name, at in places.items():
        yield ", ".join(f"`{place}`" for place in at), schema["$defs"][name]


def _inner(value: Tree) -> Iterator[tuple[str, str]]:
    """Sections that a value holds: the step to them, and their names."""
    if "$ref" in value:
        yield "", value["$ref"].rpartition("/")[2]
    for part in value.get("anyOf", ()):
        yield from _inner(part)
    if "items" in value:
        yield from (("[]" + step, name) for step, name in _inner(value["items"]))
    for part in value.get("patternProperties", {}).values():
        yield from ((".NAME" + step, name) for step, name in _inner(part))


def _table(section: Tree) -> str:
    rows = ["| key | takes | default | what it is |", "|---|---|---|---|"]
    for key, value in section["properties"].items():
        required = key in section.get("required", ())
        cells = (f"`{key}`", _takes(value), "must be given" if required else _default(value), value["description"])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _takes(value: Tree) -> str:
    if "anyOf" in value:
        return " or ".join(_takes(part) for part in value["anyOf"] if part != {"type": "null"})
    if "$ref" in value:
        return "a section"
    if "items" in value:
        return f"a list: {_takes(value['items'])}"
    if "patternProperties" in value:
        ((name, part),) = value["patternProperties"].items()
        return f"by {_FORMS[name].partition(':')[0]}: {_takes(part)}"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if "pattern" in value:
        return _FORMS[value["pattern"]]
    least = f", at least {value['minimum']}" if "minimum" in value else ""
    above = f", more than {value['exclusiveMinimum']}" if "exclusiveMinimum" in value else ""
    return _KINDS[value["type"]] + least + above


def _default(value: Tree) -> str:
    default = value.get("default")
    if default in (None, [], {}):
        return "none" if "$ref" not in value else ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


if __name__ == "__main__":
    README.write_text(written(README.read_text("utf-8")), "utf-8")
