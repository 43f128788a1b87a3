"""The example is the reference: complete, right, and in step with the model and the schema."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from gateway.config.file import load
from gateway.config.model import Config, Section
from gateway.config.schema import json_schema, schema_text

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "config.example.yaml"

#: Keys whose value in the example is an example, where their default is none or another.
EXAMPLES_OF_THEIR_OWN = {"contact", "default_model", "price_usd", "plans", "teams", "jwt_issuers", "upstream_name"}


def sections(kind: object) -> Iterator[type[Section]]:
    """List the mappings that a type is made of, at whatever depth."""
    if isinstance(kind, type) and issubclass(kind, Section):
        yield kind
        for field in kind.model_fields.values():
            yield from sections(field.annotation)
    for inner in get_args(kind):
        yield from sections(inner)


def test_every_key_stands_in_the_example() -> None:
    """Whatever may stand in a file stands in its reference, if only behind a comment sign."""
    text = EXAMPLE.read_text(encoding="utf-8")
    keys = {key for section in sections(Config) for key in section.model_fields}
    assert len(keys) > 70
    assert [key for key in sorted(keys) if not re.search(rf"(^|[ {{#]){key}:", text, re.MULTILINE)] == []


def test_every_key_is_described() -> None:
    """Editors show a sentence on each key."""
    missing = [
        (section.__name__, key)
        for section in sections(Config)
        for key, field in section.model_fields.items()
        if not field.description
    ]
    assert missing == []


def test_the_example_has_nothing_but_its_placeholder() -> None:
    """Checked, the reference gives the one warning on the hash that everybody has to replace."""
    assert [(problem.path, problem.message) for problem in load(EXAMPLE).warnings(0)] == [
        ("teams.design.keys[0].sha256", "a placeholder, not the hash of a key: nobody can use it")
    ]


def test_the_example_shows_the_defaults() -> None:
    """A value the example calls default is the model's."""
    config = load(EXAMPLE).config
    compared = 0
    open_values: list[BaseModel] = [config, config.models["dall-e-3"]]
    while open_values:
        section = open_values.pop()
        for key, field in type(section).model_fields.items():
            value, default = getattr(section, key), field.get_default(call_default_factory=True)
            if isinstance(value, Section) and key != "organization":
                open_values.append(value)
            elif default is not PydanticUndefined and default is not None and key not in EXAMPLES_OF_THEIR_OWN:
                rest = {} if key == "organization" else {key: default}
                reread: Any = type(section).model_validate({**_required(section), **rest})
                assert key == "organization" or getattr(reread, key) == value, key
                compared += 1
    assert compared > 30


def _required(section: BaseModel) -> dict[str, object]:
    """Give a section what it cannot be without, to read a default beside it."""
    return {
        "UpstreamSection": {"accounts": [{"name": "main", "api_key": "env:KEY"}]},
        "StoreSection": {"kind": "embedded"},
        "Config": {
            "upstream": {"accounts": [{"name": "main", "api_key": "env:KEY"}]},
            "store": {"kind": "embedded"},
            "models": {"m": {}},
        },
    }.get(type(section).__name__, {})


def test_the_example_names_its_schema_and_the_schema_is_of_today() -> None:
    """The first line leads an editor to a schema that is the model's."""
    first = EXAMPLE.read_text(encoding="utf-8").split("\n", 1)[0]
    path = first.removeprefix("# yaml-language-server: $schema=")
    assert (ROOT / path).read_text(encoding="utf-8") == schema_text()


def test_the_schema_is_whole() -> None:
    """Every reference of the schema leads somewhere, every pattern compiles, and no unknown key is let through."""
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    text = json.dumps(schema)
    assert {name.rsplit("/", 1)[1] for name in re.findall(r'"\$ref": "([^"]+)"', text)} == set(schema["$defs"])
    patterns = [json.loads(f'"{pattern}"') for pattern in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', text)]
    assert len([re.compile(pattern) for pattern in patterns]) > 20
    assert all(section["additionalProperties"] is False for section in [schema, *schema["$defs"].values()])
