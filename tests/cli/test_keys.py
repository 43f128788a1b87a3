"""`gateway keys`: what it prints, where, and what it refuses."""

import hashlib
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from gateway.cli.keys import app, state_of
from gateway.core.keys import digest, looks_like_key, make

SECRET = "a-secret-that-the-company-had-before-us"
DAY = 86_400.0

CONFIG = """
contact: image-gateway@example.com
timezone: UTC
listen: {public: 127.0.0.1:8080, admin: 127.0.0.1:9464}
upstream:
  base_url: https://api.3xcoder.com/v1
  accounts: [{name: main, api_key: env:THREEXCODER_API_KEY, max_concurrent: 100}]
store: {kind: embedded, data_dir: ./gateway-data}
default_model: dall-e-3
models:
  dall-e-3:
    upstream_name: dall-e-3
    endpoints: [generations, edits]
    sizes: [1024x1024]
    qualities: [standard]
    default_size: 1024x1024
    default_quality: standard
    max_n: 10
    edits: {quality: standard, max_images: 1}
    price_usd: {standard: {1024x1024: 0.040}}
teams:
  design:
    timezone: Europe/Berlin
    unlimited: true
    keys:
      - {id: old, sha256: "1111111111111111111111111111111111111111111111111111111111111111", expires: 2020-06-30}
      - {id: ci, sha256: "2222222222222222222222222222222222222222222222222222222222222222"}
  research:
    unlimited: true
    keys:
      - {id: first, sha256: "0000000000000000000000000000000000000000000000000000000000000000", expires: 2999-06-30}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_new_prints_the_secret_and_its_entry() -> None:
    """Standard output is the key and, below it, the YAML line that lets exactly this key in."""
    result = CliRunner().invoke(app, ["new", "--team", "design", "--id", "12", "--expires", "2030-06-30"])
    assert result.exit_code == 0
    secret, line = result.stdout.splitlines()
    assert looks_like_key(secret)
    (entry,) = YAML(typ="safe").load(line)
    assert entry == {"id": "12", "sha256": digest(secret).hex(), "expires": "2030-06-30"}
    assert secret not in result.stderr
    assert "teams: design: keys:" in result.stderr


def test_new_gives_scripts_the_key_with_its_entry() -> None:
    """JSON has the key once, its hash, its end and the line for the config; nothing else is printed."""
    words = ["new", "--team", "design", "--id", "12", "--json"]
    told = json.loads(CliRunner().invoke(app, [*words, "--expires", "2030-06-30"]).stdout)
    assert looks_like_key(told["key"])
    hashed = digest(told["key"]).hex()
    entry = {"id": "12", "sha256": hashed, "expires": "2030-06-30"}
    assert YAML(typ="safe").load(told["entry"]) == [entry]
    assert told == {**entry, "team": "design", "key": told["key"], "entry": told["entry"], "written": None}
    result = CliRunner().invoke(app, words)
    assert (result.stderr, json.loads(result.stdout)["expires"]) == ("", None)


def test_new_makes_another_key_each_time() -> None:
    """Two keys of one id differ, and without --expires the entry names no end."""
    first, second = (CliRunner().invoke(app, ["new", "--team", "design", "--id", "ci"]).stdout for _ in range(2))
    assert first.splitlines()[0] != second.splitlines()[0]
    assert "expires" not in first


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--team", "Design", "--id", "ci"], "--team"),
        (["--team", "organization", "--id", "ci"], "--team"),
        (["--team", "design", "--id", "c i"], "--id"),
        (["--team", "design", "--id", "ci", "--expires", "soon"], "--expires"),
        (["--team", "design", "--id", "ci", "--expires", "2030-02-30"], "--expires"),
        (["--team", "design", "--id", "ci", "--expires", "2020-01-01"], "--expires"),
        (["--team", "design"], "--id"),
    ],
)
def test_new_refuses_what_the_config_would_refuse(arguments: list[str], complaint: str) -> None:
    """A bad id or date is a usage error that names the option, before any key is shown."""
    result = CliRunner().invoke(app, ["new", *arguments])
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("team", "key_id", "status", "complaint"),
    [("desing", "new", 2, "did you mean 'design'?"), ("design", "ci", 1, "has a key ci already")],
)
@pytest.mark.parametrize("named", [True, False])
def test_new_looks_into_a_config(
    config: Path, monkeypatch: pytest.MonkeyPatch, *, named: bool, team: str, key_id: str, status: int, complaint: str
) -> None:
    """With a config, named or lying there, a mistyped team is a usage error and a repeated id is found, before a key
    is made.
    """
    monkeypatch.chdir("/" if named else config.parent)
    words = ["new", *(["-c", str(config)] if named else []), "--id"]
    result = CliRunner().invoke(app, [*words, key_id, "--team", team])
    assert (result.exit_code, result.stdout) == (status, "")
    assert complaint in result.stderr
    assert looks_like_key(CliRunner().invoke(app, [*words, "next", "--team", "design"]).stdout.splitlines()[0])


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_hash_prints_the_sha256_of_the_secret_without_its_newline(ending: str) -> None:
    """The hash is that of the secret alone, whether or not a line end follows it; the secret is not repeated."""
    result = CliRunner().invoke(app, ["hash"], input=SECRET + ending)
    assert result.exit_code == 0
    assert result.stdout == hashlib.sha256(SECRET.encode()).hexdigest() + "\n"
    assert SECRET not in result.output


@pytest.mark.parametrize("secret", ["x" * 32, "x" * 512, make(bytes(40))])
def test_hash_takes_any_secret_that_would_work(secret: str) -> None:
    """From 32 to 512 characters, and our own keys."""
    assert CliRunner().invoke(app, ["hash"], input=secret + "\n").stdout == digest(secret).hex() + "\n"


@pytest.mark.parametrize(
    ("secret", "complaint"),
    [
        ("", "has 0 characters; 32 at least"),
        ("s" * 31 + "\n", "has 31 characters; 32 at least"),
        ("s" * 513, "more than 512 characters"),
        (SECRET + "\n\n", "blanks"),
        (SECRET + " with blanks", "blanks"),
        (SECRET + "ü", "outside ASCII"),
        (make(bytes(40))[:-1], "checksum is wrong"),
    ],
)
def test_hash_refuses_a_secret_that_could_never_work(secret: str, complaint: str) -> None:
    """Too short or long, not for a header, or a broken key of ours: exit 1, a reason, no hash and no echo."""
    result = CliRunner().invoke(app, ["hash"], input=secret)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert complaint in result.stderr
    assert not secret or secret.strip() not in result.stderr


def test_list_gives_scripts_every_key_with_its_state(config: Path) -> None:
    """JSON holds ids, the expiry as written and as a moment in the team's zone, and the state; never a hash."""
    result = CliRunner().invoke(app, ["list", "-c", str(config), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [
        {
            "team": "design",
            "id": "old",
            "expires": "2020-06-30",
            "expires_at": "2020-06-30T22:00:00Z",
            "state": "expired",
            "last_used": None,
        },
        {"team": "design", "id": "ci", "expires": None, "expires_at": None, "state": "active", "last_used": None},
        {
            "team": "research",
            "id": "first",
            "expires": "2999-06-30",
            "expires_at": "2999-07-01T00:00:00Z",
            "state": "placeholder",
            "last_used": None,
        },
    ]


def test_list_is_plain_in_a_pipe(config: Path) -> None:
    """Without a terminal each key is a line of five fields with tabs between them, and above them are their names.

    Without a store the last field is ?.
    """
    result = CliRunner().invoke(app, ["list", "--config", str(config)])
    assert result.stdout.splitlines() == [
        "team\tid\texpires\tstate\tlast used",
        "design\told\t2020-06-30\texpired\t?",
        "design\tci\tnever\tactive\t?",
        "research\tfirst\t2999-06-30\tplaceholder\t?",
    ]


def test_list_finds_the_config_in_the_environment(config: Path) -> None:
    """GATEWAY_CONFIG names the file where no option does."""
    result = CliRunner().invoke(app, ["list"], env={"GATEWAY_CONFIG": str(config)})
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 4)


def test_list_tells_what_is_wrong_with_the_config(config: Path, tmp_path: Path) -> None:
    """A bad file is exit 1 with its problems, a missing one exit 2; nothing is listed."""
    config.write_text(CONFIG.replace("unlimited: true", "unlimitted: true", 1))
    bad = CliRunner().invoke(app, ["list", "-c", str(config)])
    missing = CliRunner().invoke(app, ["list", "-c", str(tmp_path / "none.yaml")])
    assert (bad.exit_code, bad.stdout) == (1, "")
    assert "unlimitted" in bad.stderr
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "none.yaml" in missing.stderr


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (None, "active"),
        (100 * DAY + 14 * DAY + 1, "active"),
        (100 * DAY + 14 * DAY, "expiring"),
        (100 * DAY + 1, "expiring"),
        (100 * DAY, "expired"),
        (0.0, "expired"),
    ],
)
def test_a_key_expires_at_its_end_and_is_told_of_14_days_before(end: float | None, state: str) -> None:
    """The end is exclusive, as at the gateway's door; the last fortnight is marked."""
    assert state_of(end, now=100 * DAY) == state


@pytest.mark.parametrize("command", ["new", "list", "hash"])
def test_every_help_has_an_example(command: str) -> None:
    """Whoever asks for help sees a line to copy."""
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: gateway keys {command}" in result.stdout
