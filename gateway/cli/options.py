"""Options that several commands share, so that they read, default and explain themselves alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.config.document import Document

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


def loaded(path: Path) -> "Document":
    """The config, or an end with what is wrong with it."""
    from gateway.config.file import load
    from gateway.config.problems import ConfigErrors, ConfigUnreadable

    try:
        return load(path)
    except ConfigErrors as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(2 if isinstance(exc, ConfigUnreadable) else 1) from exc
