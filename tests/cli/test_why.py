"""`gateway why`: what each of two hosts refused, from either's config, without what the order said."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from tests.cli.two_hosts import Hosts, running_hosts
from tests.ledger.store import connected
from tests.support.running import SECRETS
from tests.support.site import wait_until

PROMPT = "a lighthouse that nobody may read about"

TEAMS: dict[str, dict[str, Any]] = {
    "full": {"quotas": [{"images": 3, "per": "day"}, {"usd": 0.12, "per": "month"}]},
    "small": {"sizes": ["1024x1024"], "unlimited": True},
    "out": {"suspended": "budget review", "unlimited": True},
    "quiet": {"unlimited": True},
}


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with running_hosts(TEAMS) as running:
        yield running


def why(hosts: Hosts, *words: str) -> list[dict[str, Any]]:
    result = hosts.command("why", *words, "--json")
    return list(json.loads(result.stdout))


def refused(hosts: Hosts, team: str, status: int, **order: Any) -> dict[str, Any]:
    """Refuse an order at the second host, and what `why` says of it as soon as that is kept."""
    answer = hosts.order(team, at=hosts.second, prompt=PROMPT, **order)
    assert answer.status_code == status
    (told,) = wait_until(lambda: why(hosts, answer.headers["x-request-id"]))
    return told


def test_a_refusal_by_quota_is_told_with_each_rule(hosts: Hosts) -> None:
    """Time, key, order, code, and of both refusing rules what was used and the limit then; what would help fits."""
    assert hosts.order("full", n=2).status_code == 200
    told = refused(hosts, "full", 429, n=2)
    order = [told[name] for name in ("team", "key", "endpoint", "model", "size", "quality", "n", "status", "code")]
    assert order == ["full", "test", "generations", "dall-e-3", "1024x1024", "standard", 2, 429, "insufficient_quota"]
    rules = {rule["rule"]: (rule["used"], rule["limit"], rule["requested"]) for rule in told["rules"]}
    assert rules == {"images-day": (2, 3, 2), "usd-month": (0.08, 0.12, 0.08)}
    assert all(datetime.fromisoformat(rule["resets_at"]) > datetime.now(UTC) for rule in told["rules"])
    for words in told["would_help"]:
        assert "lets it pass as an order of at most" in words
        hosts.told(
            "quota",
            *words.split("(gateway quota ")[1].split(" --until")[0].split(),
            "--until",
            "2035-01-01",
            "--reason",
            "x",
        )
    assert hosts.order("full", n=2).status_code == 200


@pytest.mark.parametrize(
    ("team", "order", "status", "code", "words"),
    [
        ("small", {"size": "1792x1024"}, 403, "size_not_allowed", "(1024x1024)"),
        ("out", {}, 403, "team_suspended", "suspended (budget review)"),
        ("small", {"model": "dall-e-9"}, 404, "model_not_found", "dall-e-3"),
        ("small", {"n": 11}, 400, "invalid_value", "The request itself"),
    ],
)
def test_other_refusals_to_a_known_team_are_told(
    hosts: Hosts, *, team: str, order: dict[str, Any], status: int, code: str, words: str
) -> None:
    """Policy and orders that are wrong: the code, and what in the config would change it."""
    told = refused(hosts, team, status, **order)
    assert (told["team"], told["key"], told["code"]) == (team, "test", code)
    assert words in told["would_help"][0]


def test_a_teams_refusals_are_listed_latest_first(hosts: Hosts) -> None:
    """Those of both hosts, and with --since only the later ones; a team without any has an empty list."""
    ids = []
    for host in (*hosts.both, *hosts.both):
        ids.append(hosts.order("small", at=host, size="1792x1024").headers["x-request-id"])
        wait_until(lambda: why(hosts, ids[-1]))
    listed = [told["id"] for told in why(hosts, "--team", "small")]
    assert listed[:4] == ids[::-1]
    assert [told["id"] for told in why(hosts, "--team", "small", "--since", "1d")] == listed
    assert why(hosts, "--team", "quiet") == []
    none = hosts.command("why", "--team", "quiet", "--since", "1d")
    assert (none.exit_code, none.stdout) == (0, "")
    assert none.stderr == "No refusal of team quiet is kept, not older than 1d.\n"
    plain = hosts.command("why", "--team", "small", "--since", "1h").stdout
    assert plain.startswith(f"{ids[-1]}  ")
    assert "  order    generations, dall-e-3, 1792x1024, standard, n 1\n  refused  403 size_not_allowed\n" in plain


def test_nothing_of_the_order_or_the_key_is_kept(hosts: Hosts) -> None:
    """Whatever stands in the store has no prompt and no secret in it."""
    refused(hosts, "out", 403)
    with connected(hosts.store_url) as client:
        kept = [text for key in client.scan_iter("*:refused:*") for text in client.zrange(key, 0, -1)]
    assert len(kept) > 0
    assert [text for text in kept if PROMPT in text or SECRETS["out"] in text or "lighthouse" in text] == []


def test_an_id_that_is_not_kept_is_found_nowhere(hosts: Hosts) -> None:
    """An answered order, a made-up id and one with a pattern's signs end with 1 and say what may be the reason."""
    answered = hosts.order("quiet").headers["x-request-id"]
    for request_id in (answered, "req_0", "*", "[a-z]*"):
        result = hosts.command("why", request_id)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "was not refused by the gateway" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["req_1", "--team", "full"],
        ["req_1", "--since", "1d"],
        ["--team", "fool"],
        ["--team", "full", "--since", "soon"],
    ],
)
def test_a_question_that_is_none_is_a_usage_error(hosts: Hosts, words: list[str]) -> None:
    """It needs an id or a team that is there, and a duration goes with a team."""
    assert hosts.command("why", *words).exit_code == 2


def test_a_store_that_is_away_is_said_to_be(hosts: Hosts) -> None:
    """Nobody takes it for an answer that nothing was refused."""
    words = ["why", "--team", "full", "-c", str(hosts.first.folder / "config.yaml")]
    result = CliRunner(env={"TEST_STORE_URL": "redis://127.0.0.1:1"}).invoke(app, words)
    assert (result.exit_code, result.stdout) == (1, "")
