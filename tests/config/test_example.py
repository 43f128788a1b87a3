"""The example is the reference: complete, right, and in step with the model and the schema."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from gateway.config.file import load
from gateway.config.model import Config, Section
from gateway.config.schema import json_schema, schema_text
from gateway.core.quota import Unit
from tests.config import reference
from tests.config.conftest import Read

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "config.example.yaml"

#: Keys whose value in the example is an example, where their default is none or another.
EXAMPLES_OF_THEIR_OWN = {"price_usd", "upstream_name", "jwks_url"}


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


def test_the_example_shows_the_defaults(read: Read) -> None:
    """A value the example calls default is what a file gets that leaves it out."""
    shown = load(EXAMPLE).config
    bare = read("jwt_issuers: {corp: {issuer: i, audience: a, jwks_url: https://id.example.com}}").config
    pairs: list[tuple[Section, Section]] = [
        (shown.listen, bare.listen),
        (shown.upstream, bare.upstream),
        (shown.upstream.accounts[0], bare.upstream.accounts[0]),
        (shown.store, bare.store),
        (shown.request_limits, bare.request_limits),
        (shown.models["dall-e-3"], bare.models["dall-e-3"]),
        (shown.models["dall-e-3"].edits, bare.models["dall-e-3"].edits),
        (shown.jwt_issuers["corp"], bare.jwt_issuers["corp"]),
        (shown.idempotency, bare.idempotency),
    ]
    assert shown.timezone == bare.timezone
    compared = 0
    for section, default in pairs:
        for key, field in type(section).model_fields.items():
            if not field.is_required() and key not in EXAMPLES_OF_THEIR_OWN:
                assert getattr(section, key) == getattr(default, key), key
                compared += 1
    assert compared > 35


def test_the_example_names_its_schema_and_the_schema_is_of_today() -> None:
    """The first line leads an editor to a schema that is the model's."""
    first = EXAMPLE.read_text(encoding="utf-8").split("\n", 1)[0]
    path = first.removeprefix("# yaml-language-server: $schema=")
    assert (ROOT / path).read_text(encoding="utf-8") == schema_text()


def test_the_readmes_reference_is_of_today() -> None:
    """Its tables are those that the schema makes, and every key of the schema has its row."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert reference.written(text) == text
    rows = re.findall(r"^\| `(\w+)` \|", reference.reference(), re.MULTILINE)
    assert sorted(rows) == sorted(key for section in {*sections(Config)} for key in section.model_fields)


def test_the_schema_takes_no_limit_of_nothing() -> None:
    """What `gateway check` says of 0 images, dollars or requests an editor says, too, and the README."""
    line = json_schema()["$defs"]["QuotaLine"]["properties"]
    takes = [next(part for part in line[unit]["anyOf"] if part != {"type": "null"}) for unit in Unit]
    assert [(part.get("minimum"), part.get("exclusiveMinimum")) for part in takes] == [
        (None, 0) if unit is Unit.USD else (1, None) for unit in Unit
    ]


def test_the_schema_is_whole() -> None:
    """Every reference of the schema leads somewhere, every pattern compiles, and no unknown key is let through."""
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    text = json.dumps(schema)
    assert {name.rsplit("/", 1)[1] for name in re.findall(r'"\$ref": "([^"]+)"', text)} == set(schema["$defs"])
    patterns = [json.loads(f'"{pattern}"') for pattern in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', text)]
    assert len([re.compile(pattern) for pattern in patterns]) > 20
    assert all(section["additionalProperties"] is False for section in [schema, *schema["$defs"].values()])
