"""What is allowed but hardly meant."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.config.file import parse
from gateway.config.warn import MOST_SERIES
from tests.config.conftest import SMALLEST, Read

NOW = datetime(2030, 6, 15, tzinfo=UTC).timestamp()
KEY = f"keys: [{{id: ci, sha256: {'ab' * 32}}}]"


def told(read: Read, text: str) -> list[str]:
    """Return the warnings on what is added to a config, without file and line."""
    return [f"{problem.path}: {problem.message}" for problem in read(text).warnings(NOW)]


def test_a_team_nobody_can_call_as(read: Read) -> None:
    """A team without a key is told, unless tokens may name it."""
    team = "teams: {a: {unlimited: true}}\n"
    assert told(read, team) == ["teams.a: has no key: nobody can call as this team"]
    assert told(read, team + "jwt_issuers: {c: {issuer: i, audience: a, jwks_url: https://id.example.com}}\n") == []


def test_what_is_over(read: Read) -> None:
    """An expired key and a grant that is over are told; on their last day they are not."""
    text = f"""
teams:
  a:
    keys: [{{id: ci, sha256: {"ab" * 32}, expires: DAY}}]
    quotas: [{{images: 1, per: day}}, {{images: 1, per: day, adds_to: images-day, until: DAY}}]
"""
    assert told(read, text.replace("DAY", "2030-06-14")) == [
        "teams.a.keys[0].expires: key ci has expired; take it out",
        "teams.a.quotas[1].until: this grant to images-day is over; take it out",
    ]
    assert told(read, text.replace("DAY", "2030-06-15")) == [
        "teams.a.keys[0].expires: key ci ends in 1 d or less; give the team its next one"
    ]


def test_a_key_that_ends_soon(read: Read) -> None:
    """From fourteen days before its end on a key is told, for the team needs another one beside it by then."""
    text = f"teams: {{a: {{unlimited: true, keys: [{{id: ci, sha256: {'ab' * 32}, expires: DAY}}]}}}}"
    assert told(read, text.replace("DAY", "2030-06-28")) == [
        "teams.a.keys[0].expires: key ci ends in 14 d or less; give the team its next one"
    ]
    assert told(read, text.replace("DAY", "2030-06-29")) == []


@pytest.mark.parametrize(
    ("quotas", "permissions", "message"),
    [
        ("{images: 9, per: day}, {images: 5, per: month}", "", "0: rule images-month stops at 5 images before it"),
        ("{usd: 9, per: day}, {usd: 5.5, per: month}", "", "0: rule usd-month stops at 5.50 usd before it"),
        (
            "{images: 9, per: day, size: 1024x1024}, {images: 5, per: day}",
            "",
            "0: rule images-day stops at 5 images before it",
        ),
        (
            "{requests: 9, per: minute}, {requests: 5, per: hour}",
            "",
            "0: rule requests-hour stops at 5 requests before it",
        ),
        ("{concurrent: 9, endpoint: edits}, {concurrent: 5}", "", "0: rule concurrent stops at 5 concurrent before it"),
        ("{images: 9, per: day}, {images: 8, per: total}", "", "0: rule images-total stops at 8 images before it"),
        ("{images: 9, per: day, size: 1792x1024}", "sizes: [1024x1024]", "0: the team may order nothing that it binds"),
        # A week may lie in two months, and an hour in two days: only twice the limit is never reached.
        ("{images: 9, per: week}, {images: 5, per: month}", "", None),
        ("{images: 11, per: week}, {images: 5, per: month}", "", "0: rule images-month stops at 5 images before it"),
        ("{images: 10, per: hour}, {images: 5, per: day}", "", None),
        # These may bite: the other rule is wider in its limit, narrower in what it binds, or only a trial.
        ("{images: 5, per: day}, {images: 5, per: month}", "", None),
        ("{images: 9, per: day}, {images: 5, per: day, size: 1024x1024}", "", None),
        ("{images: 9, per: day}, {images: 5, per: month, mode: shadow}", "", None),
        (
            "{usd: 9, per: day}, {usd: 5, per: month}, {usd: 5, per: month, adds_to: usd-month, until: 2031-01-31}",
            "",
            None,
        ),
        ("{images: 9, per: day}, {requests: 5, per: month}", "", None),
    ],
)
def test_a_rule_that_can_never_bite(read_priced: Read, quotas: str, permissions: str, message: str | None) -> None:
    """A rule is told if another one of its unit always refuses first, or if it binds nothing; else not."""
    lines = f"teams:\n  a:\n    {KEY}\n    {permissions}\n    quotas: [{quotas}]\n"
    found = [warning.replace("teams.a.quotas[", "").replace("]: rule", ":", 1) for warning in told(read_priced, lines)]
    assert [f"{text[0]}: {text.split('can never bite: ')[1]}" for text in found] == ([message] if message else [])


def test_the_organizations_rule_may_be_the_lower_one(read_priced: Read) -> None:
    """A team's rule above the organization's never bites."""
    text = (
        f"teams: {{a: {{{KEY}, quotas: [{{usd: 9, per: month}}]}}}}\norganization: {{quotas: [{{usd: 5, per: month}}]}}"
    )
    (warning,) = told(read_priced, text)
    assert warning.endswith("can never bite: the organization's rule usd-month stops at 5.00 usd before it")


def test_a_secret_that_everybody_can_read(tmp_path: Path) -> None:
    """A secret's file is told while others may read it."""
    secret = tmp_path / "key"
    secret.write_text("sk-1")
    document = parse(SMALLEST.replace("env:KEY", f"file:{secret}").encode(), tmp_path / "c.yaml")
    secret.chmod(0o644)
    assert [problem.message for problem in document.warnings(NOW)] == [
        f"every user of this host can read {secret}; chmod o-r it"
    ]
    secret.chmod(0o640)
    assert document.warnings(NOW) == []


def test_proxies_of_everybody(read: Read) -> None:
    """Trusting the whole address space is told."""
    assert told(read, 'listen: {trusted_proxies: ["::/0"]}') == [
        "listen.trusted_proxies[0]: believes X-Forwarded-For of everybody"
    ]


def test_too_many_series(read: Read) -> None:
    """A config that comes to more series than a scrape bears is told."""
    teams = "\n".join(f"  t{i}: {{unlimited: true, keys: [{{id: k, sha256: '{i:064x}'}}]}}" for i in range(1, 500))
    found = told(read, f"teams:\n{teams}\n")
    assert len(found) == 1
    assert found[0].endswith(f"series at most, over {MOST_SERIES}")
