"""The configuration file's JSON Schema (draft 2020-12), made from the model."""

import json
from typing import Any

from gateway.config.model import Config


def json_schema() -> dict[str, Any]:
    """Return the schema as a tree, with a title and the description of every key."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(),
        "title": "Image gateway configuration",
    }


def schema_text() -> str:
    """Return the schema as the text of its file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
