"""The audit line of a reload is written whatever the store says, and is not lost when a worker leaves."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog.testing

from gateway.audit import Audit, States
from gateway.core.catalog import Key
from gateway.core.errors import StoreUnavailable
from gateway.core.quota import Per, Rule, RuleState, Unit
from gateway.metrics import Metrics
from gateway.reloads import Reloads
from tests.core import sample

LIMIT = Rule("organization", "usd-month", Unit.USD, Per.MONTH, 420_000_000)
OLD = replace(sample.settings(), organization=(LIMIT,))
NEW = replace(OLD, hash="1" * 12, organization=(replace(LIMIT, limit=500_000_000),), contact="new@example.com")

CONTACT = "all teams: contact ops@example.com -> new@example.com"
RAISED = "organization: usd-month $420.00 -> $500.00"


def lines_of(states: States, folder: Path, *, workers: int = 1) -> list[dict[str, object]]:
    """What is logged by the time a worker has left that took the change up just before; others did so too."""

    async def leave() -> None:
        audits = [Audit(Reloads(folder), Metrics(), states) for _ in range(workers)]
        for audit in audits:
            audit.applied(OLD, NEW)
        for audit in audits:
            await audit.written()

    with structlog.testing.capture_logs() as lines:
        asyncio.run(leave())
    return [{**line} for line in lines if line["event"] == "config reloaded"]


async def known(rules: Sequence[Rule]) -> list[RuleState]:
    await asyncio.sleep(0)  # as long as a store takes at least
    return [RuleState(rule, 0, 12_500_000, rule.limit, None, None, refused=False) for rule in rules]


async def away(rules: Sequence[Rule]) -> list[RuleState]:
    raise StoreUnavailable(str(len(rules)))


def test_what_is_used_stands_beside_the_limit(tmp_path: Path) -> None:
    """One line for two workers, with the money spent so far behind the change of the rule and behind nothing else."""
    (line,) = lines_of(known, tmp_path, workers=2)
    assert line["changes"] == [f"{RAISED}; $12.50 used", CONTACT]
    assert (line["config_hash"], line["old_hash"]) == (NEW.hash, OLD.hash)


def test_a_store_that_is_away_takes_no_line(tmp_path: Path) -> None:
    """The change is told without what is used."""
    (line,) = lines_of(away, tmp_path)
    assert line["changes"] == [RAISED, CONTACT]


def test_a_change_that_cannot_be_told_is_in_force_all_the_same(tmp_path: Path) -> None:
    """It is counted and logged without its words, and why stands in a line of its own."""
    team = replace(OLD.teams["design"], zone="Nowhere/At-All")
    key = Key("design", "ci", b"1" * 32, expires=2_000_000_000.0)
    odd = replace(NEW, teams={**OLD.teams, "design": team}, keys={key.digest: key})

    async def leave() -> None:
        audit = Audit(Reloads(tmp_path), Metrics(), known)
        audit.applied(OLD, odd)
        await audit.written()

    with structlog.testing.capture_logs() as lines:
        asyncio.run(leave())
    assert [line["event"] for line in lines] == ["fault", "config reloaded"]
    assert (lines[0]["error"], lines[1]["changes"]) == ("ZoneInfoNotFoundError", [])
    (reload,) = Reloads(tmp_path).latest()
    assert (reload.result, reload.version) == ("success", odd.hash)
