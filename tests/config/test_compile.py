"""What a file comes to: merged rules, names, counters, grants, dates, secrets, paths."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.config.compile import PLACEHOLDER, compile_settings
from gateway.config.file import load, parse
from gateway.config.problems import ConfigErrors
from gateway.core.catalog import Settings
from gateway.core.changes import differences
from gateway.core.quota import Grant, Per, Rule, Unit
from gateway.core.refusals import local_time
from tests.config.conftest import SMALLEST, Read
from tests.config.test_pem import GOOD

EXAMPLE = Path(__file__).parent.parent.parent / "config.example.yaml"
HASH = "ab" * 32


JWT = "jwt_issuers: {{c: {{issuer: i, audience: a, {}}}}}"


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def rules(settings: Settings, team: str) -> dict[str, Rule]:
    return {rule.name: rule for rule in settings.teams[team].rules}


def test_the_example_compiles_to_the_rules_it_describes() -> None:
    """The example's team has its plan's rules with its own on top, named without their numbers."""
    settings = compile_settings(load(EXAMPLE), {"THREEXCODER_API_KEY": "sk-1"})
    design = rules(settings, "design")
    assert {name: rule.limit for name, rule in design.items()} == {
        "images-day": 150,
        "requests-minute": 10,
        "concurrent": 4,
        "images-month": 500,
        "images-day-hd": 40,
        "wide": 20,
        "usd-month": 40_000_000,
        "trial-60": 60,
    }
    assert design["images-day"].grants == (Grant(200, unix("2030-01-31T23:00")),)
    assert design["images-day"].zone == "Europe/Berlin"
    assert design["usd-month"].warn_at == (50, 80)
    assert design["trial-60"].mode == "shadow"
    assert design["concurrent"].wait == 30.0
    assert design["wide"].sizes == frozenset({"1792x1024", "1024x1792"})
    assert [(rule.scope, rule.unit, rule.per, rule.limit) for rule in settings.organization] == [
        ("organization", Unit.USD, Per.MONTH, 420_000_000)
    ]
    assert settings.models["dall-e-3"].prices["hd", "1792x1024"] == 120_000


def test_a_team_rule_takes_the_place_of_the_plans_rule_on_its_counter(read: Read) -> None:
    """Another narrowing or mode is another rule and adds up; the same counter and mode replaces."""
    document = read("""
plans: {small: {quotas: [{images: 100, per: day}, {images: 9, per: day, mode: shadow, name: try}]}}
teams:
  a: {plan: small, quotas: [{images: 150, per: day, name: mine}, {images: 5, per: day, size: 1024x1024}]}
  b: {plan: small}
""")
    settings = compile_settings(document, None)
    assert {name: rule.limit for name, rule in rules(settings, "a").items()} == {
        "mine": 150,
        "try": 9,
        "images-day-1024x1024": 5,
    }
    assert {name: rule.limit for name, rule in rules(settings, "b").items()} == {"images-day": 100, "try": 9}
    assert rules(settings, "a")["mine"].counter.startswith("a|images|day|UTC")


def test_derived_names_list_the_narrowing_sorted(read: Read) -> None:
    """A derived name has the unit, the window and every value of the narrowing in order, whatever was written first."""
    document = read("""
teams:
  a:
    quotas:
      - {images: 1, per: day, size: [1792x1024, 1024x1792]}
      - {requests: 1, per: hour, quality: hd, endpoint: generations, model: dall-e-3}
      - {concurrent: 1, endpoint: edits}
      - {images: 1, per: total}
""")
    assert list(rules(compile_settings(document, None), "a")) == [
        "images-day-1024x1792-1792x1024",
        "requests-hour-dall-e-3-generations-hd",
        "concurrent-edits",
        "images-total",
    ]


def test_a_grant_may_add_to_a_rule_of_the_plan(read: Read) -> None:
    """A grant of a team finds the plan's rule by its name, changes that team's alone and keeps the rule's limit."""
    document = read("""
plans: {small: {quotas: [{images: 100, per: day}]}}
teams:
  a: {plan: small, quotas: [{images: 7, per: day, adds_to: images-day, until: 2030-01-31T12:00:00Z}]}
  b: {plan: small}
""")
    settings = compile_settings(document, None)
    granted = rules(settings, "a")["images-day"]
    assert (granted.limit, granted.grants) == (100, (Grant(7, unix("2030-01-31T12:00")),))
    assert rules(settings, "b")["images-day"].grants == ()


@pytest.mark.parametrize(
    ("zone", "expires", "over"),
    [
        ("UTC", "2030-06-30", "2030-07-01T00:00"),
        ("Europe/Berlin", "2030-06-30", "2030-06-30T22:00"),
        ("America/New_York", "2030-12-31", "2031-01-01T05:00"),
        ("Europe/Berlin", "2030-06-30T18:00:00+05:00", "2030-06-30T13:00"),
        ("Europe/Berlin", "2030-06-30T18:00:00z", "2030-06-30T18:00"),
        # In Beirut the clocks go from midnight to one on 31 March 2030: that day begins where the one before ends.
        ("Asia/Beirut", "2030-03-30", "2030-03-30T22:00"),
    ],
)
def test_a_key_expires_at_the_end_of_its_day_in_the_teams_zone(read: Read, zone: str, expires: str, over: str) -> None:
    """A date means the end of that day where the team is; a time means itself."""
    document = read(f"""
teams: {{a: {{unlimited: true, timezone: {zone}, keys: [{{id: ci, sha256: {HASH}, expires: {expires}}}]}}}}
""")
    key = compile_settings(document, None).keys[bytes.fromhex(HASH)]
    assert (key.team, key.id, key.expires) == ("a", "ci", unix(over))


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "UTC", "Etc/GMT+12"])
@pytest.mark.parametrize("end", ["9999-12-31", "9999-12-30", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00"])
def test_an_end_at_the_end_of_all_calendars_can_be_told(read: Read, zone: str, end: str) -> None:
    """Who writes 9999-12-31 for never gets a key, a grant and a revocation whose ends every zone can say."""
    instant = end if "T" in end else f"{end}T00:00:00Z"
    document = read(f"""
teams:
  a:
    timezone: {zone}
    tokens_revoked_before: {instant}
    keys: [{{id: ci, sha256: {HASH}, expires: {end}}}]
    quotas: [{{images: 5, per: day}}, {{images: 3, per: day, adds_to: images-day, until: {end}}}]
""")
    settings = compile_settings(document, None)
    without = replace(settings, teams={}, keys={})
    words = " ".join(each.words for each in differences(without, settings))
    assert "key ci added, expires " in words
    assert "a grant of 3 images until " in words
    for at in (settings.keys[bytes.fromhex(HASH)].expires, settings.teams["a"].tokens_revoked_before):
        assert at is not None
        assert local_time(at, zone).endswith(zone)
        assert datetime.fromtimestamp(at, UTC).year == int(end[:4])


def test_placeholders_are_no_keys(read: Read) -> None:
    """A hash of zeros, as the example has it, never stands among the keys, and may stand there often."""
    document = read(f"""
teams: {{a: {{unlimited: true, keys: [{{id: x, sha256: "{PLACEHOLDER}"}}, {{id: y, sha256: "{PLACEHOLDER}"}}]}}}}
""")
    assert compile_settings(document, None).keys == {}


def test_an_unset_secret_is_an_error_at_its_line() -> None:
    """Every variable that is unset or empty is told at once, with the line that names it."""
    text = """upstream: {accounts: [{name: main, api_key: env:KEY}]}
store: {kind: redis, url: env:REDIS_URL}
models: {dall-e-3: {}}
"""
    document = parse(text.encode(), Path("c.yaml"))
    with pytest.raises(ConfigErrors) as caught:
        compile_settings(document, {"KEY": " \n"})
    assert str(caught.value).split("\n") == [
        "c.yaml:1:45: upstream.accounts[0].api_key: the environment variable KEY is empty",
        "c.yaml:2:27: store.url: the environment variable REDIS_URL is not set",
    ]


def test_secret_files_are_read_without_their_closing_newline(tmp_path: Path) -> None:
    """A file's secret loses the newline an editor leaves; a missing, an empty and a two-line file are errors."""
    for name, content in {"good": "sk-good\n", "empty": "\n", "two": "sk-a\nsk-b"}.items():
        (tmp_path / name).write_text(content)

    def account(name: str) -> str:
        text = SMALLEST.replace("env:KEY", f"file:{tmp_path / name}")
        document = parse(text.encode(), tmp_path / "c.yaml")
        return compile_settings(document, {}).upstream.accounts[0].api_key.reveal()

    assert account("good") == "sk-good"
    for name, message in {
        "empty": f"the file {tmp_path / 'empty'} is empty",
        "two": "the secret holds a line break or another control character",
        "missing": f"the file {tmp_path / 'missing'} cannot be read: no such file or directory",
    }.items():
        with pytest.raises(ConfigErrors) as caught:
            account(name)
        assert caught.value.problems[0].message == message


def test_without_an_environment_a_secret_is_its_reference(read: Read) -> None:
    """Commands that only look at the rules need no secret, and see where another one is named."""
    assert compile_settings(read(""), None).upstream.accounts[0].api_key.reveal() == "env:KEY"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """data_dir and jwks_file are found beside the file, wherever the command was started."""
    text = SMALLEST.replace("embedded}", "embedded, data_dir: ./data}") + (
        "jwt_issuers: {corp: {issuer: i, audience: a, jwks_file: keys/jwks.json}}\n"
    )
    settings = compile_settings(parse(text.encode(), tmp_path / "config.yaml"), {"KEY": "x"})
    assert settings.store.data_dir == str(tmp_path / "data")
    assert settings.jwt_issuers[0].jwks_file == str(tmp_path / "keys" / "jwks.json")


def test_a_public_key_may_stand_in_the_file_or_beside_it(tmp_path: Path) -> None:
    """PEM text is taken as it stands, and env: or file: is followed."""
    pem = GOOD["RSA of 2048 bits"].strip()
    (tmp_path / "corp.pem").write_text(pem + "\n")

    def issuer(public_key: str) -> str | None:
        text = SMALLEST + f"jwt_issuers: {{corp: {{issuer: i, audience: a, public_key: {public_key}}}}}\n"
        settings = compile_settings(parse(text.encode(), tmp_path / "c.yaml"), {"KEY": "x", "PEM": pem})
        return settings.jwt_issuers[0].public_key

    inline = '"' + pem.replace("\n", "\\n") + '"'
    assert [issuer(inline), issuer("env:PEM"), issuer(f"file:{tmp_path / 'corp.pem'}")] == [pem, pem, pem]


def test_the_hash_follows_the_bytes(read: Read) -> None:
    """A comment alone makes another version of the file, and the same file the same."""
    assert read("# a\n").hash == read("# a\n").hash != read("# b\n").hash
    assert len(read("").hash) == 12


def test_the_only_model_is_the_default(read: Read) -> None:
    """default_model may be left out where there is nothing to choose; upstream_name is the alias unless given."""
    settings = compile_settings(read(""), None)
    assert settings.default_model == "dall-e-3"
    assert settings.models["dall-e-3"].upstream_name == "dall-e-3"


def test_changing_a_limit_keeps_the_counter(read: Read) -> None:
    """Limit, name, mode and warn_at are no part of what was counted."""
    first, second = (
        compile_settings(read(f"teams: {{a: {{quotas: [{line}]}}}}"), None).teams["a"].rules[0]
        for line in ("{images: 1, per: day}", "{images: 2, per: day, name: b, mode: shadow, warn_at: [50%]}")
    )
    assert first.counter == second.counter
    assert first != replace(second, limit=1)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("store: {kind: redis, url: env:IT}", "valkey.internal:6379", "store.url: expected a URL that begins with "),
        ("store: {kind: redis, url: env:IT}", "https://u:hunter2@host", "store.url: expected a URL that begins with "),
        ("store: {kind: redis, url: env:IT}", "rediss://u:hunter2@host", None),
        (JWT.format("public_key: env:IT"), "hunter2", "jwt_issuers.c.public_key: this PEM text is no public key; "),
        (
            JWT.format("public_key: env:IT"),
            GOOD["P-384"],
            "jwt_issuers.c.public_key: this key is P-384, which ",
        ),
        (JWT.format("public_key: env:IT, algorithms: [ES384]"), GOOD["P-384"], None),
        (JWT.format("secret: env:IT, algorithms: [HS256]"), "h" * 31, "jwt_issuers.c.secret: the secret is shorter "),
        (JWT.format("secret: env:IT, algorithms: [HS256]"), "h" * 32, None),
        (
            JWT.format("secret: env:IT, algorithms: [HS256, HS512]"),
            "h" * 63,
            "jwt_issuers.c.secret: the secret is shorter than the 64 bytes that HS512 needs",
        ),
    ],
)
def test_a_secret_that_cannot_serve_is_told_without_it(
    tmp_path: Path, section: str, value: str, message: str | None
) -> None:
    """What only the secret's own value shows is found where it is read, and by no other command."""
    text = SMALLEST.replace("store: {kind: embedded}", section) if section.startswith("store") else SMALLEST + section
    document = parse(text.encode(), tmp_path / "config.yaml")
    assert compile_settings(document, None)
    if message is None:
        assert compile_settings(document, {"KEY": "x", "IT": value})
        return
    with pytest.raises(ConfigErrors) as caught:
        compile_settings(document, {"KEY": "x", "IT": value})
    (problem,) = caught.value.problems
    assert f"{problem.path}: {problem.message}".startswith(message)
    assert value not in str(problem)
