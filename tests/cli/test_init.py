"""`gateway init`: what it writes is right, and it overwrites nothing."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.config.file import load
from gateway.core.keys import digest

GIVEN = ["--team", "design", "--contact", 'Ann "the boss", 5th floor #1']


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ([], "embedded"),
        (["--store", "env:REDIS_URL", "--timezone", "Europe/Berlin", "--images", "7"], "redis"),
        (["--team", "12", "--upstream-key", "file:/run/secrets/three: x"], "embedded"),
    ],
)
def test_nothing_is_found_in_what_is_written(tmp_path: Path, words: list[str], kind: str) -> None:
    """Neither an error nor a warning; the printed key is the team's, and stands nowhere in the file."""
    path = tmp_path / "config.yaml"
    result = CliRunner().invoke(app, ["init", "-c", str(path), *GIVEN, *words])
    assert result.exit_code == 0, result.output
    document = load(path)
    assert document.warnings() == []
    (team,) = document.config.teams.values()
    assert (team.keys[0].id, team.keys[0].sha256) == ("first", digest(result.stdout.strip()).hex())
    assert result.stdout.strip() not in path.read_text("utf-8")
    assert document.config.contact == GIVEN[-1]
    assert document.config.store.kind == kind
    assert team.quotas[0].images == (7 if "7" in words else 100)
    assert f"gateway check {path}" in result.stderr
    assert CliRunner().invoke(app, ["check", str(path), "--strict"]).exit_code == 0


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    """Exit 1 and not a byte changed, unless --force is said."""
    path = tmp_path / "config.yaml"
    path.write_text("mine", "utf-8")
    words = ["init", "-c", str(path), *GIVEN]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout, path.read_text("utf-8")) == (1, "", "mine")
    assert "--force" in result.stderr
    assert CliRunner().invoke(app, [*words, "--force"]).exit_code == 0
    assert list(load(path).config.teams) == ["design"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--team", "Design"], "write design"),
        (["--images", "1e3"], "write 1000"),
        (["--timezone", "Berlin"], "Europe/Berlin"),
        (["--contact", " "], "a name or an address"),
        (["--store", "redis://:hunter2@localhost"], "say where, as env:REDIS_URL"),
        (["--upstream-key", "sk-proj-hunter2hunter2"], "env:NAME"),
    ],
)
def test_an_answer_that_cannot_be_used_is_a_usage_error(tmp_path: Path, words: list[str], complaint: str) -> None:
    """Exit 2 with what was expected; nothing is written, and no secret repeated."""
    path = tmp_path / "config.yaml"
    result = CliRunner().invoke(app, ["init", "-c", str(path), *GIVEN, *words])
    assert (result.exit_code, result.stdout, path.exists()) == (2, "", False)
    assert complaint in " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    ("lines", "team", "images", "contact"),
    [
        ("", "design", 100, "the gateway's operators"),
        ("\n" * 9, "design", 100, "the gateway's operators"),
        ("research\n12", "research", 12, "the gateway's operators"),
        ("research\n\n\nAnn\n\n\n", "research", 100, "Ann"),
    ],
)
def test_answers_come_from_a_pipe(tmp_path: Path, lines: str, team: str, images: int, contact: str) -> None:
    """A line answers a question; where it is empty or there is none, the default does. Only the key is printed."""
    path = tmp_path / "config.yaml"
    result = CliRunner().invoke(app, ["init", "-c", str(path)], input=lines)
    assert result.exit_code == 0, result.output
    document = load(path)
    assert document.warnings() == []
    assert list(document.config.teams) == [team]
    assert document.config.teams[team].quotas[0].images == images
    assert document.config.contact == contact
    assert len(result.stdout.split()) == 1


def test_where_nothing_can_be_read_the_defaults_are_taken(tmp_path: Path) -> None:
    """With its standard input closed, as some schedulers start a program."""
    command = [sys.executable, "-m", "gateway", "init", "-c", str(tmp_path / "config.yaml")]
    ended = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert list(load(tmp_path / "config.yaml").config.teams) == ["design"]


def test_a_wrong_answer_from_a_pipe_is_a_usage_error(tmp_path: Path) -> None:
    """The next line answers another question, so nothing is asked again; nothing is written."""
    path = tmp_path / "config.yaml"
    result = CliRunner().invoke(app, ["init", "-c", str(path)], input="Design\ndesign\n")
    assert (result.exit_code, result.stdout, path.exists()) == (2, "", False)
    assert "--team" in result.stderr


def test_on_a_terminal_it_asks_again_until_an_answer_can_be_used(tmp_path: Path) -> None:
    """Answers come from the keyboard, an empty one is the default, a wrong one is told and asked for again."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "gateway", "init", "-c", "config.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(end)
    os.write(terminal, b"Design\ndesign\n12\nBerln\nEurope/Berlin\nann@example.com\n\n\n")
    out, err = process.communicate(timeout=30)
    os.close(terminal)
    assert process.returncode == 0, err
    config = load(tmp_path / "config.yaml").config
    assert (list(config.teams), config.timezone, config.contact) == (["design"], "Europe/Berlin", "ann@example.com")
    assert b"write design" in err
    assert out.startswith(b"igw_")
