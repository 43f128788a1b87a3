"""`gateway check`: everything that is wrong with a configuration file, and what is hardly meant."""

import json as jsonlib
import os
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from gateway.cli.options import ConfigOption, JsonOption, config_path
from gateway.config.compile import compile_settings
from gateway.config.document import Document
from gateway.config.file import load
from gateway.config.problems import ConfigErrors, ConfigUnreadable, Problem
from gateway.config.series import series_bound


class Facts(NamedTuple):
    """What a file without errors comes to. series: at most, in Prometheus. hash: names the version."""

    teams: int
    keys: int
    rules: int
    series: int
    hash: str


def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The file to check.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail the check, too.")] = False,
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Read the secrets, too, and tell which cannot be had.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check a configuration file: all errors at once, then warnings. Needs no secrets and prints none.

    Exit 0: fine, perhaps with warnings. 1: something was found. 2: there is no such file.

    Example: gateway check config.yaml --strict
    """
    path = config_path(file, config)
    document, errors, code = None, [], 0
    try:
        document = load(path)
        if resolve:
            compile_settings(document, os.environ)
    except ConfigUnreadable as exc:
        errors, code = exc.problems, 2
    except ConfigErrors as exc:
        errors, code = exc.problems, 1
    warnings = document.warnings() if document is not None else []
    if warnings and strict:
        code = code or 1
    if json:
        print(jsonlib.dumps(_json_of(document, errors, warnings), indent=2))
    else:
        _print(path, document, errors, warnings)
    raise typer.Exit(code)


def _json_of(document: Document | None, errors: list[Problem], warnings: list[Problem]) -> dict[str, object]:
    return {
        "errors": [_row(problem) for problem in errors],
        "warnings": [_row(problem) for problem in warnings],
        "facts": _facts(document)._asdict() if document is not None else None,
    }


def _row(problem: Problem) -> dict[str, str | int]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.col,
        "path": problem.path,
        "message": problem.message,
    }


def _print(path: Path, document: Document | None, errors: list[Problem], warnings: list[Problem]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for problem in errors:
        console.print(_line(problem, "", "red"))
    for problem in warnings:
        console.print(_line(problem, "warning: ", "yellow"))
    found = f"{_counted(len(errors), 'error')}, {_counted(len(warnings), 'warning')}"
    facts = f"; {_told(_facts(document))}" if document is not None else ""
    console.print(Text(f"{path}: {found}{facts}", style="bold"))


def _line(problem: Problem, severity: str, style: str) -> Text:
    """Write a finding as ``file:line:col: path: message``, the form editors and CI systems jump to."""
    path = f"{problem.path}: " if problem.path else ""
    return Text.assemble(
        (f"{problem.file}:{problem.line}:{problem.col}: ", "bold"), (severity, style), (path, "cyan"), problem.message
    )


def _facts(document: Document) -> Facts:
    settings = compile_settings(document, None)
    rules = len(settings.organization) + sum(len(team.rules) for team in settings.teams.values())
    keys = sum(len(team.keys) for team in document.config.teams.values())
    return Facts(len(settings.teams), keys, rules, series_bound(settings), document.hash)


def _told(facts: Facts) -> str:
    counts = (_counted(facts.teams, "team"), _counted(facts.keys, "key"), _counted(facts.rules, "rule"))
    return f"{', '.join(counts)}, at most {facts.series} series, hash {facts.hash}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
