"""`gateway schema`: the JSON Schema of the configuration file, for editors."""

from gateway.config.schema import schema_text


def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors.

    The first line of a file then names it: # yaml-language-server: $schema=./config.schema.json

    Example: gateway schema > config.schema.json
    """
    print(schema_text(), end="")
