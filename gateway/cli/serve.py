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
    run(config_path(config), workers=workers)


def run(path: Path, *, workers: int | None = None) -> None:
    """The whole of a gateway's life. Exits 1 with all that is wrong with its config, or if its store cannot be had."""
    from gateway.ending import Ending

    ending = Ending()
    ending.hear()  # what else is imported takes its time
    from gateway import logs
    from gateway.config.compile import compile_settings
    from gateway.config.file import load
    from gateway.config.problems import ConfigErrors, ConfigUnreadable
    from gateway.ledger.servers import WrongAddress
    from gateway.ledger.valkey import EmbeddedStoreError
    from gateway.server import Gateway

    def read() -> "Settings":
        return compile_settings(load(path), os.environ)

    logs.configure()
    try:
        Gateway(path, read, ending, workers=workers).run()
    except ConfigErrors as errors:
        for problem in errors.problems:
            typer.echo(str(problem), err=True)
        sys.exit(2 if isinstance(errors, ConfigUnreadable) else 1)
    except (EmbeddedStoreError, WrongAddress) as error:
        typer.echo(str(error), err=True)
        sys.exit(1)
