"""Refused: what is kept of a refusal, and that nothing waits for it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gateway.core.errors import (
    AuthenticationFailed,
    GatewayError,
    InsufficientQuota,
    StoreUnavailable,
    TeamSuspended,
    UpstreamFailed,
)
from gateway.exchange import Exchange
from gateway.refused import MOST, Refused
from tests.core.sample import settings

SETTINGS = settings()

Kept = list[Mapping[str, Sequence[tuple[float, str]]]]


def ended(error: GatewayError | None, *, id_: str = "req_1", team: str | None = "design") -> Exchange:
    exchange = Exchange(id_, SETTINGS, "generations", "127.0.0.1", [(b"x-secret", b"sk-secret")], 0.0, "trace")
    exchange.team = SETTINGS.teams[team] if team is not None else None
    exchange.error = error
    if error is not None:
        exchange.outcome, exchange.status = error.outcome, error.status
    return exchange


def written(*exchanges: Exchange, away: bool = False) -> Kept:
    """What reaches the store of these."""
    kept: Kept = []

    async def keep(refusals: Mapping[str, Sequence[tuple[float, str]]]) -> None:
        kept.append(refusals)
        if away:
            raise StoreUnavailable("away")

    async def main() -> None:
        refused = Refused(keep, lambda: 1000.5)
        for exchange in exchanges:
            refused.note(exchange)
        await refused.write()
        await refused.write()

    asyncio.run(main())
    return kept


def test_a_refusal_is_kept_with_its_rules_and_without_its_words() -> None:
    """The rules' facts are kept; the sentence of the answer, which may repeat what was sent, and headers are not."""
    facts = [{"rule": "images-day", "used": 3}]
    error = InsufficientQuota("a sentence with a prompt", extra={"quota": facts})
    ((at, text),) = written(ended(error))[0]["design"]
    told: dict[str, Any] = json.loads(text)
    assert (at, told["at"], told["id"], told["code"], told["rules"]) == (1000.5, 1000.5, "req_1", error.code, facts)
    assert "sentence" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    "exchange",
    [
        ended(None),
        ended(UpstreamFailed("it failed")),
        ended(TeamSuspended("no"), team=None),
        ended(AuthenticationFailed("no", reason="unknown"), team=None),
        ended(AuthenticationFailed("no", reason="expired", team="gone"), team=None),
    ],
)
def test_what_is_no_refusal_to_a_team_is_passed_over(exchange: Exchange) -> None:
    """Answers, the upstream's errors, and refusals to nobody known leave nothing to keep."""
    assert written(exchange) == []


def test_an_expired_key_is_its_teams() -> None:
    """The team of a key that has ended is known, so it is told why."""
    ((_, text),) = written(ended(AuthenticationFailed("no", reason="expired", team="design"), team=None))[0]["design"]
    assert json.loads(text)["reason"] == "expired"


def test_of_a_flood_the_last_are_kept_in_one_write() -> None:
    """However many come at once, what waits to be written is bounded, and the latest are in it."""
    flood = [ended(TeamSuspended("no"), id_=f"req_{i}") for i in range(3 * MOST)]
    (kept,) = written(*flood)
    ids = [json.loads(text)["id"] for _, text in kept["design"]]
    assert ids == [f"req_{i}" for i in range(2 * MOST, 3 * MOST)]


def test_a_store_that_is_away_loses_them_silently() -> None:
    """Nothing is raised, and nothing is kept back for later."""
    assert len(written(ended(TeamSuspended("no")), away=True)) == 1
