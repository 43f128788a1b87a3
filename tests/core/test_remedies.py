"""What would have to change: the sentence for each kind of refusal, and that following it helps."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.compile import compile_settings
from gateway.config.file import parse
from gateway.core.catalog import Settings
from gateway.core.quota import Per, Rule, RuleState, Unit, Verdict
from gateway.core.refusals import quota_error
from gateway.core.remedies import remedies

CONFIG = b"""
listen: {public: "127.0.0.1:8080", admin: "127.0.0.1:9464"}
upstream: {accounts: [{name: main, api_key: env:X, max_concurrent: 7}]}
store: {kind: embedded}
models: {dall-e-3: {price_usd: {standard: {1024x1024: 0.040, 1792x1024: 0.080, 1024x1792: 0.080}}}}
teams:
  design: {unlimited: true, suspended: budget review, sizes: [1024x1024], endpoints: [generations]}
  free: {unlimited: true}
"""

DAY = Rule("design", "images-day", Unit.IMAGES, Per.DAY, 10)


@pytest.fixture(scope="module")
def settings() -> Settings:
    text = CONFIG.replace(b"models: {dall-e-3: {", b"models: {dall-e-3: {qualities: [standard], ")
    return compile_settings(parse(text, Path(os.devnull)), None)


def refused(rule: Rule, *, used: int, amount: int, fits_at: float | None = 1_794_950_000.0) -> dict[str, Any]:
    """A refusal by this rule, with the facts that its answer has."""
    state = RuleState(rule, amount, used, rule.limit, resets_at=fits_at, fits_at=fits_at, refused=True)
    error = quota_error(Verdict(admitted=False, now=0.0, states=(state,)), team="design", contact="x")
    return {"team": "design", "code": error.code, "rules": error.extra["quota"]}


@pytest.mark.parametrize(
    ("rule", "used", "amount", "add"),
    [
        (DAY, 8, 5, "3"),
        (DAY, 10, 1, "1"),
        (DAY, 0, 11, "1"),
        (replace(DAY, unit=Unit.USD, limit=400_000), 390_001, 40_000, "0.030001"),
        (replace(DAY, unit=Unit.USD, limit=100), 0, 80_000, "0.0799"),
    ],
)
def test_the_grant_that_is_named_is_just_enough(
    settings: Settings, rule: Rule, used: int, amount: int, add: str
) -> None:
    """The amount in the command makes the order fit and not one unit more, in images and to the micro-dollar."""
    (sentence,) = remedies(refused(rule, used=used, amount=amount), settings)
    assert re.findall(r"grant --team design --rule images-day --add (\S+) ", sentence) == [add]
    scale = 1_000_000 if rule.unit is Unit.USD else 1
    assert used + amount == rule.limit + round(float(add) * scale)


def test_a_smaller_order_and_time_are_named_where_they_help(settings: Settings) -> None:
    """What is left may be ordered now, the limit after the reset, and by waiting never more than that."""
    (left,) = remedies(refused(DAY, used=8, amount=5), settings)
    assert "as an order of at most 2 images, or from 2026-11-17T" in left
    (full,) = remedies(refused(DAY, used=10, amount=1), settings)
    assert "as an order" not in full
    (never,) = remedies(refused(DAY, used=3, amount=11), settings)
    assert "as an order of at most 7 images, or from 2026-11-17T" in never
    assert "on as an order of at most 10 images, or with a limit of at least 14 images" in never
    (total,) = remedies(refused(replace(DAY, per=Per.TOTAL), used=8, amount=5, fits_at=None), settings)
    assert "as an order of at most 2 images, or with a limit of at least 13 images, 3 more than then" in total


def test_each_refusing_rule_has_its_sentence(settings: Settings) -> None:
    """An order that two rules refuse needs both to change."""
    slots = replace(DAY, name="slots", unit=Unit.CONCURRENT, per=None, limit=2)
    both = refused(DAY, used=10, amount=1)
    both["rules"] = [*both["rules"], *refused(slots, used=2, amount=1, fits_at=None)["rules"]]
    first, second = remedies(both, settings)
    assert first.startswith("Rule images-day")
    assert (
        second == "Rule slots lets it pass with fewer than 2 requests of team design in flight, or with a higher limit."
    )


@pytest.mark.parametrize(
    ("code", "team", "words"),
    [
        ("team_suspended", "design", "suspended (budget review)"),
        ("team_suspended", "free", "Nothing any more"),
        ("size_not_allowed", "design", "Another of the sizes that team design may use (1024x1024)"),
        ("size_not_allowed", "free", "lets team free use all sizes now"),
        ("endpoint_not_allowed", "design", "(generations)"),
        ("quality_not_allowed", "design", "lets team design use all qualities now"),
        ("model_not_allowed", "design", "(dall-e-3)"),
        ("model_not_found", "design", "which has: dall-e-3"),
        ("invalid_api_key", "design", "gateway keys new --team design"),
        ("overloaded", "design", "main 7 (max_concurrent)"),
        ("invalid_value", "design", "The request itself"),
        ("model_not_allowed", "gone", "The request itself"),
    ],
)
def test_every_other_refusal_has_its_sentence(settings: Settings, code: str, team: str, words: str) -> None:
    """By the config as it is now, which may have changed since."""
    (sentence,) = remedies({"team": team, "code": code}, settings)
    assert words in sentence


@pytest.mark.parametrize(
    ("team", "words"),
    [("design", "issued after 2030-06-30 18:00 UTC"), ("free", "A new token")],
)
def test_no_key_is_advised_to_who_sent_a_revoked_token(settings: Settings, team: str, words: str) -> None:
    """A token that a time of its team has voided is helped by a later one."""
    void = replace(settings.teams["design"], tokens_revoked_before=1_909_072_800.0)
    revoked = replace(settings, teams={**settings.teams, "design": void})
    (sentence,) = remedies({"team": team, "code": "invalid_api_key", "reason": "token_revoked"}, revoked)
    assert words in sentence
    assert "gateway keys" not in sentence
