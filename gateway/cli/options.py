"""Options that several commands share, so that they read, default and explain themselves alike."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.config.document import Document

DEFAULT_CONFIG = Path("config.yaml")


def _nearest(context: typer.Context, value: Path | None) -> Path | None:
    """The option behind the command, else before it (`gateway -c FILE check`), else the environment's."""
    source = context.get_parameter_source("config")
    if context.parent is None or (source is not None and source.name == "COMMANDLINE"):
        return value
    found: Path | None = context.parent.params.get("config", value)
    return found


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="GATEWAY_CONFIG",
        metavar="FILE",
        callback=_nearest,
        help="The configuration file. Default: ./config.yaml",
        show_default=False,
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


_SPAN = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def span(text: str, option: str) -> int:
    """Seconds of ``30m``, ``12h``, ``1d``; a usage error for anything else."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise typer.BadParameter("expected a duration like 30m, 12h or 1d", param_hint=option)
    return int(found[1]) * _SECONDS[found[2]]


def config_path(*given: Path | None) -> Path:
    """Return the first path that was given, else ``./config.yaml``.

    Pass a command's argument before its `ConfigOption`: the nearer one wins. ``$GATEWAY_CONFIG`` arrives through
    the option.
    """
    return next((path for path in given if path is not None), DEFAULT_CONFIG)


def before_commands(config: ConfigOption = None) -> None:
    """The callback of a group of commands: the option is taken before them too, and `_nearest` hands it on."""
    del config


def check_known(option: str, value: str, known: Iterable[str]) -> None:
    """A usage error where the config has nothing of that name. option: as it is written, ``--team``."""
    from gateway.config.problems import or_else

    names = list(known)
    if value not in names:
        raise typer.BadParameter(f"unknown {option[2:]} {value}{or_else(value, names)}", param_hint=option)


def loaded(path: Path) -> "Document":
    """The config, or an end with what is wrong with it."""
    from gateway.config.file import load
    from gateway.config.problems import ConfigErrors, ConfigUnreadable

    try:
        return load(path)
    except ConfigErrors as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(2 if isinstance(exc, ConfigUnreadable) else 1) from exc
