"""Options that several commands share, so that they read, default and explain themselves alike."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("config.yaml")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="GATEWAY_CONFIG",
        metavar="FILE",
        help="The configuration file. Default: ./config.yaml",
        show_default=False,
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def config_path(*given: Path | None) -> Path:
    """Return the first path that was given, else ``./config.yaml``.

    Pass a command's argument before its `ConfigOption`: the nearer one wins. ``$GATEWAY_CONFIG`` arrives through
    the option.
    """
    return next((path for path in given if path is not None), DEFAULT_CONFIG)
