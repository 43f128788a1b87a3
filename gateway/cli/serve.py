"""`gateway serve`: the gateway under gunicorn."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import ConfigOption, config_path

if TYPE_CHECKING:
    from gateway.core.catalog import Settings


def serve(
    config: ConfigOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=256, help="Worker processes. Default: listen.workers.")
    ] = None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Example: gateway serve -c config.yaml --workers 4
    """
    settings = settings_of(config_path(config))
    run(settings, workers=workers)


def settings_of(path: Path) -> "Settings":
    """The file's settings with their secrets. Prints what is wrong and exits 1; exits 2 if it cannot be read."""
    from gateway.config.compile import compile_settings
    from gateway.config.file import load
    from gateway.config.problems import ConfigErrors, ConfigUnreadable

    try:
        return compile_settings(load(path), os.environ)
    except ConfigErrors as errors:
        for problem in errors.problems:
            typer.echo(str(problem), err=True)
        raise typer.Exit(2 if isinstance(errors, ConfigUnreadable) else 1) from errors


def run(settings: "Settings", *, workers: int | None = None) -> None:
    """The whole of a gateway's life. Exits 1 with a sentence if its store cannot be had."""
    from gateway import logs
    from gateway.ledger.valkey import EmbeddedStoreError
    from gateway.server import Gateway

    if settings.store.kind not in ("embedded", "redis"):
        typer.echo(f"store.kind {settings.store.kind} cannot be served yet; embedded and redis can.", err=True)
        sys.exit(1)
    logs.configure()
    try:
        Gateway(settings, workers=workers).run()
    except EmbeddedStoreError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)
