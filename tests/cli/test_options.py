"""`-c/--config`, wherever it stands."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app

CONFIG = """\
upstream: {accounts: [{name: main, api_key: env:KEY}]}
store: {kind: embedded}
models: {dall-e-3: {}}
teams: {TEAM: {unlimited: true, keys: [{id: ci, sha256: HASH}]}}
""".replace("HASH", "ab" * 32)


@pytest.mark.parametrize(
    ("words", "environ", "team"),
    [
        (["-c", "a", "keys", "list"], None, "a"),
        (["keys", "--config", "a", "list"], None, "a"),
        (["keys", "list", "-c", "a"], None, "a"),
        (["-c", "a", "keys", "list"], "b", "a"),
        (["keys", "-c", "a", "list"], "b", "a"),
        (["-c", "b", "keys", "-c", "a", "list"], "b", "a"),
        (["-c", "b", "keys", "-c", "b", "list", "-c", "a"], "b", "a"),
        (["keys", "list"], "a", "a"),
    ],
)
def test_the_nearest_option_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], environ: str | None, team: str
) -> None:
    """Behind the command, before it, before its group, then the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).write_text(CONFIG.replace("TEAM", name), "utf-8")
    found = CliRunner(env={"GATEWAY_CONFIG": environ}).invoke(app, [*words, "--json"])
    assert found.exit_code == 0, found.output
    assert [key["team"] for key in json.loads(found.stdout)] == [team]


@pytest.mark.parametrize(
    "words",
    [
        "check",
        "doctor",
        "explain --team a",
        "keys list",
        "keys new --team a --id b",
        "keys rotate --team a --id b",
        "keys token --team a --issuer c",
        "quota show",
        "quota grant --team a --rule r --add 1 --until 2035-01-01 --reason x",
        "quota reset --team a --rule r --to 1 --reason x",
        "usage",
        "why --team a",
    ],
)
def test_before_a_command_it_is_the_commands(tmp_path: Path, words: str) -> None:
    """A command that reads a config takes the one that is named before it; that there is none of it shows."""
    found = CliRunner().invoke(app, ["-c", str(tmp_path / "none.yaml"), *words.split()])
    assert found.exit_code == 2
    assert f"{tmp_path}/none.yaml:1:1: expected a configuration file" in found.output
