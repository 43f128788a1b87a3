"""`gateway check` and `gateway schema` as a shell sees them."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gateway.cli.check import check
from gateway.cli.options import config_path
from gateway.cli.schema import schema
from gateway.config.schema import json_schema
from tests.config.conftest import SMALLEST

WARNED = SMALLEST + "teams: {a: {unlimited: true}}\n"
WARNING = "teams.a: has no key: nobody can call as this team"


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    app = typer.Typer()
    app.command()(check)
    app.command()(schema)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_a_file_with_warnings_is_fine(file: Path) -> None:
    """Warnings are told and cost nothing, unless they are to."""
    file.write_text(WARNED)
    result = run("check", file)
    first, last = result.stdout.splitlines()
    assert result.exit_code == 0
    assert first == f"{file}:5:9: warning: {WARNING}"
    assert last.startswith(f"{file}: 0 errors, 1 warning; 1 team, 0 keys, 0 rules, at most ")
    assert run("check", file, "--strict").exit_code == 1


def test_errors_are_lines_and_exit_1(file: Path) -> None:
    """Each error is one line that editors can jump to, however long; a summary ends them."""
    file.write_text(SMALLEST + "listen: {workers: 0}\ntimezone: Mars\n")
    result = run("check", file)
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert lines[0] == f"{file}:5:19: listen.workers: must be from 1 to 1000000000, got 0"
    assert lines[1].startswith(f"{file}:6:11: timezone: unknown time zone 'Mars'")
    assert lines[2:] == [f"{file}: 2 errors, 0 warnings"]


def test_a_missing_file_is_a_wrong_call(file: Path) -> None:
    """What cannot be opened exits 2."""
    result = run("check", file)
    assert result.exit_code == 2
    assert "no such file or directory" in result.stdout


def test_secrets_are_asked_for_only_with_resolve(file: Path) -> None:
    """A check runs where no secret is; --resolve tells which one cannot be had, and shows none."""
    file.write_text(SMALLEST)
    assert run("check", file).exit_code == 0
    missing = run("check", file, "--resolve", env={"KEY": ""})
    assert missing.exit_code == 1
    assert "the environment variable KEY is empty" in missing.stdout
    there = run("check", file, "--resolve", env={"KEY": "sk-secret"})
    assert there.exit_code == 0
    assert "sk-secret" not in there.stdout


def test_json_lists_every_finding(file: Path) -> None:
    """Scripts get place and message of each error and each warning, and what a right file comes to."""
    file.write_text(WARNED)
    path, message = WARNING.split(": ", 1)
    told = json.loads(run("check", file, "--json").stdout)
    facts = told.pop("facts")
    assert told == {
        "errors": [],
        "warnings": [{"file": str(file), "line": 5, "column": 9, "path": path, "message": message}],
    }
    assert (facts["teams"], facts["keys"], facts["rules"]) == (1, 0, 0)
    assert f"at most {facts['series']} series, hash {facts['hash']}" in run("check", file).stdout

    file.write_text(SMALLEST + "listen: {workers: 0}\n")
    wrong = json.loads(run("check", file, "--json").stdout)
    assert ([error["path"] for error in wrong["errors"]], wrong["warnings"]) == (["listen.workers"], [])
    assert wrong["facts"] is None


def test_the_file_is_the_argument_the_option_or_the_environments(file: Path) -> None:
    """The nearer name of the file wins, and ./config.yaml is the last resort."""
    file.write_text(SMALLEST)
    for arguments, env in (
        ((file, "-c", "none.yaml"), {}),
        (("-c", file), {"GATEWAY_CONFIG": "none.yaml"}),
        ((), {"GATEWAY_CONFIG": str(file)}),
    ):
        assert run("check", *arguments, env=env).exit_code == 0
    assert config_path(None, None) == Path("config.yaml")


def test_the_schema_is_printed_as_json() -> None:
    """What is printed is the schema and nothing else."""
    result = run("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json_schema()


@pytest.mark.parametrize("command", ["check", "schema"])
def test_help_has_an_example(command: str) -> None:
    """--help shows how the command is called."""
    assert f"Example: gateway {command}" in run(command, "--help").stdout
