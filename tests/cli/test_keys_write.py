"""`gateway keys new --write`, `rotate` and `token`: what they change in a file, and what they leave."""

import asyncio
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from gateway.cli.keys import app
from gateway.config.compile import compile_settings
from gateway.config.edit import NotEditable, replace_file, with_key
from gateway.config.file import load
from gateway.core.errors import AuthenticationFailed
from gateway.core.keys import digest, looks_like_key
from gateway.tokens import Tokens

ONES, TWOS = "1" * 64, "2" * 64

HEAD = """\
# The company's gateway.
upstream: {accounts: [{name: main, api_key: env:THREEXCODER_API_KEY}]}
store: {kind: embedded, data_dir: ./data}   # one host
models:
  dall-e-3: {price_usd: {standard: {1024x1024: 0.040}, hd: {1024x1024: 0.080}}, sizes: [1024x1024]}
teams:
  sales: {unlimited: true, keys: [{id: ci, sha256: "2222222222222222222222222222222222222222222222222222222222222222"}]}
"""

#: How a team may be written, and how many of its lines stand no more as they did.
SHAPES = {
    "a list of lines": (
        f"""\
  design:
    unlimited: true   # for now
    keys:
      # the build servers
      - {{id: ci, sha256: "{ONES}"}}   # asked for by Ann

    # and no quotas
    timezone: Europe/Berlin
""",
        0,
    ),
    "lines at the key's own depth": (
        f"  design:\n    keys:\n    - id: ci\n      sha256: {ONES} # Ann's\n    unlimited: true\n",
        0,
    ),
    "a list on one line": (f'  design:\n    keys: [{{id: ci, sha256: "{ONES}"}}]  # Ann\n    unlimited: true\n', 1),
    "a mapping on one line": (f'  design: {{unlimited: true, keys: [{{id: ci, sha256: "{ONES}"}}]}}\n', 1),
    "no newline at the end": (f'  design:\n    unlimited: true\n    keys:\n      - {{id: ci, sha256: "{ONES}"}}', 0),
}
WITHOUT = {
    "no keys": ("  design:\n    # nobody yet\n    unlimited: true\n    timezone: Europe/Berlin\n", 0),
    "no keys on one line": ("  design: {unlimited: true}\n", 1),
    "an empty list": ("  design:\n    keys: []   # none\n    unlimited: true\n", 1),
}


def written(folder: Path, team: str, *, line: str = "\n", mark: str = "") -> Path:
    path = folder / "config.yaml"
    path.write_bytes((mark + HEAD + team).replace("\n", line).encode())
    return path


def call(*words: str, **environ: str) -> Any:
    return CliRunner(env=environ).invoke(app, list(words))


def keys_of(path: Path, team: str = "design") -> dict[str, tuple[str, object]]:
    return {key.id: (key.sha256, key.expires) for key in load(path).config.teams[team].keys}


@pytest.mark.parametrize("line", ["\n", "\r\n"])
@pytest.mark.parametrize("shape", [*SHAPES, *WITHOUT])
def test_a_new_key_is_put_into_a_file_as_it_is_written(tmp_path: Path, shape: str, line: str) -> None:
    """The printed key's hash stands in the team; every other line, comment and line end is as it was."""
    text, changed = {**SHAPES, **WITHOUT}[shape]
    path = written(tmp_path, text, line=line)
    before, known = path.read_bytes().decode().split(line), keys_of(path)
    result = call("new", "-c", str(path), "--team", "design", "--id", "12", "--expires", "2030-06-30", "--write")
    assert result.exit_code == 0, result.output
    (secret,) = result.stdout.split()
    assert looks_like_key(secret)
    after = path.read_bytes().decode().split(line)
    assert not any("\n" in piece for piece in after if line == "\r\n")
    assert len([old for old in before if old not in after]) == changed
    found = keys_of(path)
    assert list(found) == [*known, "12"]
    assert found["12"][0] == digest(secret).hex()
    assert secret not in path.read_text("utf-8")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rotated_key_ends_after_the_overlap(tmp_path: Path, shape: str) -> None:
    """The new key stands behind the old one, which keeps its hash and gets its end; a comment stays."""
    path = written(tmp_path, SHAPES[shape][0], mark="\ufeff")
    result = call("rotate", "-c", str(path), "--team", "design", "--id", "ci", "--overlap", "12h", "--write")
    assert result.exit_code == 0, result.output
    found = keys_of(path)
    assert {id_: hash_ for id_, (hash_, _) in found.items()} == {
        "ci": ONES,
        "ci-2": digest(result.stdout.strip()).hex(),
    }
    ends = found["ci"][1]
    assert isinstance(ends, datetime)
    assert abs(ends - datetime.now(UTC) - timedelta(hours=12)) < timedelta(minutes=1)
    assert found["ci-2"][1] is None
    assert re.findall("#.*", path.read_text("utf-8")) == re.findall("#.*", HEAD + SHAPES[shape][0])
    again = call("rotate", "-c", str(path), "--team", "design", "--id", "ci-2", "--overlap", "1d", "--write")
    assert again.exit_code == 0, again.output
    assert list(keys_of(path)) == ["ci", "ci-2", "ci-3"]
    assert keys_of(path)["ci"] == found["ci"]


def test_scripts_read_where_a_key_was_written(tmp_path: Path) -> None:
    """JSON names the file, and `rotate` the key that ends, with its moment as the file has it."""
    path = written(tmp_path, SHAPES["a list of lines"][0])
    words = ["-c", str(path), "--team", "design", "--write", "--json"]
    new = json.loads(call("new", "--id", "new", *words).stdout)
    assert (new["written"], keys_of(path)["new"][0]) == (str(path), new["sha256"])
    assert "ends" not in new
    rotated = json.loads(call("rotate", "--id", "ci", *words).stdout)
    assert (rotated["id"], rotated["written"]) == ("ci-2", str(path))
    assert digest(rotated["key"]).hex() == rotated["sha256"] == keys_of(path)["ci-2"][0]
    assert {"ci": str(keys_of(path)["ci"][1])} == {
        id_: str(datetime.fromisoformat(moment)) for id_, moment in rotated["ends"].items()
    }
    again = json.loads(call("rotate", "--id", "ci", *words[:-2], "--json").stdout)
    assert (again["written"], again["ends"], "ci-3" in keys_of(path)) == (None, {}, False)


def test_an_end_that_comes_sooner_stays(tmp_path: Path) -> None:
    """A key that would end before the overlap does is not lengthened by it; one that ends later is shortened."""
    soon = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    team = "  design: {{unlimited: true, keys: [{{id: ci, sha256: '{}', expires: {}}}]}}\n"
    path = written(tmp_path, team.format(ONES, f'"{soon}"'))
    before = keys_of(path)["ci"]
    words = ["rotate", "-c", str(path), "--team", "design", "--id", "ci", "--write", "--expires", "2035-01-01"]
    assert call(*words).exit_code == 0
    assert keys_of(path)["ci"] == before
    assert str(keys_of(path)["ci-2"][1]) == "2035-01-01"
    path = written(tmp_path, team.format(ONES, "2035-01-01"))
    assert call(*words).exit_code == 0
    assert str(keys_of(path)["ci"][1]) < "2035"


def test_without_write_the_file_stays(tmp_path: Path) -> None:
    """`rotate` then prints the key, the line for it, and says which end the old one is to get."""
    path = written(tmp_path, SHAPES["a list of lines"][0])
    before = path.read_bytes()
    result = call("rotate", "-c", str(path), "--team", "design", "--id", "ci")
    assert result.exit_code == 0
    secret, entry = result.stdout.splitlines()
    assert entry == f'- {{id: "ci-2", sha256: "{digest(secret).hex()}"}}'
    assert 'expires: "' in result.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("team", "complaint"),
    [
        ("  design: {unlimited: true, keys: &k []}\n  two: {unlimited: true, keys: *k}\n", "hand"),
        ("  design: &d {unlimited: true}\n  two: *d\n", "hand"),
        ("  design:\n    unlimited: true\n    keys: &k\n    - &one {id: a, sha256: '%s'}\n  two: *nothing\n", "alias"),
    ],
)
def test_a_file_that_only_a_person_can_change_is_left_alone(tmp_path: Path, team: str, complaint: str) -> None:
    """Where the entry would reach another team too, or the file is wrong: exit 1, a reason, no key shown."""
    path = written(tmp_path, team.replace("%s", ONES))
    before = path.read_bytes()
    result = call("new", "-c", str(path), "--team", "design", "--id", "ci", "--write")
    assert (result.exit_code, result.stdout) == (1, "")
    assert complaint in result.stderr
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_a_hash_of_several_lines_is_left_to_a_person(tmp_path: Path) -> None:
    """Where an end put behind a key would be no YAML, the rotation is refused, and the file stays."""
    key = f"      - id: ci\n        sha256: >-\n          {ONES}\n\n"
    path = written(tmp_path, f"  design:\n    keys:\n{key}    unlimited: true\n")
    before = path.read_bytes()
    result = call("rotate", "-c", str(path), "--team", "design", "--id", "ci", "--write")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "put the entry in by hand" in result.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (["--team", "desing", "--id", "ci"], 2, "did you mean 'design'?"),
        (["--team", "design", "--id", "cd"], 2, "has no key cd; it has: ci, old"),
        (["--team", "design", "--id", "old"], 1, "has ended already"),
        (["--team", "design", "--id", "ci", "--overlap", "soon"], 2, "30m, 12h or 1d"),
    ],
)
def test_what_cannot_be_rotated_is_said(tmp_path: Path, words: list[str], status: int, complaint: str) -> None:
    """An unknown team or key and an overlap that is none are usage errors, a key that is over is not; none is shown."""
    keys = f'[{{id: ci, sha256: "{ONES}"}}, {{id: old, sha256: "{TWOS}", expires: 2020-01-01}}]'
    path = written(tmp_path, f"  design: {{unlimited: true, keys: {keys}}}\n".replace(TWOS, "3" * 64))
    result = call("rotate", "-c", str(path), "--write", *words)
    assert (result.exit_code, result.stdout) == (status, "")
    assert complaint in " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())


def test_the_file_is_replaced_in_one_step_with_its_mode(tmp_path: Path) -> None:
    """A link stays one and leads to the new content, whose mode is the old one's; no other file is left."""
    real = tmp_path / "real"
    real.mkdir()
    path = written(real, SHAPES["a list of lines"][0])
    path.chmod(0o640)
    inode = path.stat().st_ino
    link = tmp_path / "config.yaml"
    link.symlink_to(path)
    assert call("new", "-c", str(link), "--team", "design", "--id", "new", "--write").exit_code == 0
    assert link.is_symlink()
    assert path.stat().st_mode & 0o7777 == 0o640
    assert path.stat().st_ino != inode
    assert [file.name for file in real.iterdir()] == ["config.yaml"]


def test_somebody_elses_change_is_not_overwritten(tmp_path: Path) -> None:
    """A file that says something else than what was read is left as it is, and nothing beside it."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"theirs")
    with pytest.raises(NotEditable, match="somebody else"):
        replace_file(path, b"before", b"ours")
    assert path.read_bytes() == b"theirs"
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_of_several_writers_at_once_one_is_kept_and_the_others_know(tmp_path: Path) -> None:
    """Whoever is not told to try again finds what it wrote in the file."""
    path = tmp_path / "config.yaml"

    def replaced(new: bytes) -> bytes | None:
        try:
            replace_file(path, b"before", new)
        except NotEditable:
            return None
        return new

    with ThreadPoolExecutor(8) as writers:
        for _ in range(30):
            path.write_bytes(b"before")
            kept = [new for new in writers.map(replaced, [b"%d" % number for number in range(8)]) if new]
            assert kept == [path.read_bytes()]


def test_a_file_that_changed_before_it_is_read_again_is_left_alone(tmp_path: Path) -> None:
    """A key is put only into the file that was checked; another one is no reason to blame how it is written."""
    path = written(tmp_path, SHAPES["a list of lines"][0])
    document = load(path)
    changed = path.read_bytes().replace(b"unlimited: true   #", b"timezone: UTC #")
    with pytest.raises(NotEditable, match="somebody else"):
        with_key(document, changed, "design", {"id": "new", "sha256": "3" * 64}, {})


# Tokens

ISSUERS = """\
jwt_issuers:
  shared: {issuer: https://a.example.com, audience: images, algorithms: [HS256], secret: env:SHARED, team_claim: dept}
  paired: {issuer: https://b.example.com, audience: images, algorithms: [ES256], public_key: env:PUBLIC}
"""


@pytest.mark.parametrize("issuer", ["shared", "paired"])
def test_a_minted_token_lets_its_team_in(tmp_path: Path, issuer: str) -> None:
    """The gateway's own reader takes it as the team's, by a shared secret or a key pair, and not after its end."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    environ = {"SHARED": "s" * 64, "PUBLIC": public, "THREEXCODER_API_KEY": "x"}
    path = written(tmp_path, "  design: {unlimited: true}\n" + ISSUERS)
    key = ["--key", str(tmp_path / "key.pem")] if issuer == "paired" else []
    result = call("token", "-c", str(path), "--team", "design", "--issuer", issuer, "--expires", "5m", *key, **environ)
    assert result.exit_code == 0, result.output
    tokens = Tokens(_no_fetch, failed=lambda *_: None)
    settings = compile_settings(load(path), environ)
    found = asyncio.run(tokens.identify(result.stdout.strip(), settings, time.time(), message="no"))
    assert (found.team, found.id) == ("design", f"jwt-{issuer}")
    assert environ["SHARED"] not in result.output
    # The line that is printed beside it revokes it, and no other one.
    line = result.stderr.strip().removeprefix("To revoke it: ").removesuffix(f" in jwt_issuers.{issuer}")
    revoked = path.read_text("utf-8").replace(f"  {issuer}: {{", f"  {issuer}: {{{line}, ")
    assert revoked != path.read_text("utf-8")
    path.write_text(revoked, "utf-8")
    whole = compile_settings(load(path), environ)
    with pytest.raises(AuthenticationFailed):
        asyncio.run(tokens.identify(result.stdout.strip(), whole, time.time(), message="no"))


async def _no_fetch(_: str) -> bytes:
    raise OSError


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (["--team", "desing", "--issuer", "shared"], 2, "did you mean 'design'?"),
        (["--team", "design", "--issuer", "share"], 2, "did you mean 'shared'?"),
        (["--team", "design", "--issuer", "paired"], 2, "give its private key"),
        (["--team", "design", "--issuer", "shared", "--key", "x"], 2, "signs with its secret"),
        (["--team", "design", "--issuer", "shared", "--expires", "2d"], 2, "more than a day"),
        (["--team", "design", "--issuer", "shared"], 1, "SHARED is not set"),
        (["--team", "design", "--issuer", "paired", "--key", "/none"], 1, "No such file"),
        (["--team", "design", "--issuer", "paired", "--key", "/dev/null"], 1, "does not go with ES256"),
    ],
)
def test_a_token_that_cannot_be_made_is_said(tmp_path: Path, words: list[str], status: int, complaint: str) -> None:
    """Usage errors are 2, a secret or key that is not there 1; nothing stands on standard output."""
    path = written(tmp_path, "  design: {unlimited: true}\n" + ISSUERS)
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    result = call("token", "-c", str(path), *words, PUBLIC=pem)
    assert (result.exit_code, result.stdout) == (status, "")
    assert complaint in " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())


def test_what_is_listed_after_a_rotation(tmp_path: Path) -> None:
    """`keys list` shows both: the old one as expiring, the new one as active."""
    path = written(tmp_path, SHAPES["a list of lines"][0])
    assert call("rotate", "-c", str(path), "--team", "design", "--id", "ci", "--write").exit_code == 0
    listed = json.loads(call("list", "-c", str(path), "--json").stdout)
    assert [(key["id"], key["state"]) for key in listed if key["team"] == "design"] == [
        ("ci", "expiring"),
        ("ci-2", "active"),
    ]
