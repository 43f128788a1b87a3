"""/metrics: what all workers of this host counted, and what the store knows at this moment."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admin import guard
from gateway.core.catalog import Settings
from gateway.core.errors import StoreUnavailable
from gateway.core.quota import MICRO, Per, Rule, RuleState, Unit
from gateway.metrics import Readings, exposition
from gateway.parts import Parts
from gateway.slots import told_configs

Samples = list[tuple[Sequence[str], float]]
Family = tuple[str, str, Sequence[str], Samples]


def routes(parts: Parts, folder: Path) -> list[Route]:
    return [Route("/metrics", partial(_metrics, parts=parts, folder=folder), methods=["GET"])]


async def _metrics(request: Request, *, parts: Parts, folder: Path) -> Response:
    settings = parts.settings()
    if refusal := guard.refuse(request, settings):
        return refusal
    readings = Readings(
        [*_of_workers(folder), *_of_config(settings), *_of_history(parts), *await _families(parts, settings)]
    )
    # With a hundred teams it takes a second or more, in which the loop would do nothing for anybody.
    body, content_type = await asyncio.to_thread(exposition, folder, readings, request.headers.get("accept", ""))
    return Response(body, media_type=None, headers={"content-type": content_type, "cache-control": "no-store"})


def _of_workers(folder: Path) -> list[Family]:
    workers: Samples = [((config,), number) for config, number in told_configs(folder).items()]
    return [("gateway_config_info", "Workers on a version of the config.", ("hash",), workers)]


def _of_config(settings: Settings) -> list[Family]:
    """What the config says by itself. A collector would keep the series of a key or an account that has gone."""
    expiries: Samples = [((k.team, k.id), k.expires) for k in settings.keys.values() if k.expires is not None]
    limits: Samples = [((account.name,), account.max_concurrent) for account in settings.upstream.accounts]
    return [
        ("gateway_key_expiry_timestamp_seconds", "When a key ends.", ("team", "key"), expiries),
        (
            "gateway_upstream_concurrency_limit",
            "Requests in flight that an account allows over all hosts.",
            ("account",),
            limits,
        ),
    ]


def _of_history(parts: Parts) -> list[Family]:
    """As the store last said, so that every host and worker says the same; nothing before it has."""
    lost = parts.ledger.lost
    told: Samples = [((), lost)] if lost is not None else []
    return [("gateway_store_history_lost_total", "How often the store has turned out to have forgotten.", (), told)]


async def _families(parts: Parts, settings: Settings) -> list[Family]:
    """Quotas and periods as the store has them: the same on every host. None while the store is away."""
    rules = [*(rule for team in settings.teams.values() for rule in team.rules), *settings.organization]
    teams = [(team.id, team.zone) for team in settings.teams.values()]
    try:
        states = await parts.ledger.states(rules)
        usage = await parts.ledger.usage(teams)
    except StoreUnavailable:
        return []
    images: Samples = []
    cost: Samples = []
    for team, periods in usage.items():
        for name, period in (("today", "day"), ("month", "month")):
            images.append(((team, name), _total(periods[period], "images")))
            cost.append(((team, name), _total(periods[period], "usd") / MICRO))
    limits: Samples = []
    used: Samples = []
    resets: Samples = []
    for state in states:
        labels = _labels(state.rule)
        limits.append((labels, _number(state.rule, state.limit)))
        used.append((labels, _number(state.rule, state.used)))
    now = parts.ledger.now()
    resets.extend((_labels(s.rule), _seconds_left(s, now)) for s in states if s.rule.per not in (None, Per.TOTAL))
    rule_labels = ("team", "rule", "unit", "per", "mode")
    return [
        ("gateway_period_images", "Images charged in the team's present day and month.", ("team", "period"), images),
        ("gateway_period_cost_usd", "Dollars charged in the team's present day and month.", ("team", "period"), cost),
        ("gateway_quota_limit", "A rule's limit, with grants.", rule_labels, limits),
        ("gateway_quota_used", "What is used of a rule.", rule_labels, used),
        ("gateway_quota_reset_seconds", "Seconds until a rule's window is empty again.", rule_labels, resets),
        (
            "gateway_quota_warning",
            "1 while what is used of a rule has passed a threshold of its limit.",
            ("team", "rule", "threshold"),
            _warnings(states),
        ),
    ]


def _warnings(states: Sequence[RuleState]) -> Samples:
    return [
        ((state.rule.scope, state.rule.name, f"{percent}%"), state.has_passed(percent))
        for state in states
        for percent in state.rule.warn_at
    ]


def _labels(rule: Rule) -> tuple[str, str, str, str, str]:
    return rule.scope, rule.name, rule.unit.value, rule.per or "now", rule.mode


def _seconds_left(state: RuleState, now: float) -> float:
    """0 for a sliding window in which nothing is used."""
    return max(0.0, state.resets_at - now) if state.resets_at is not None else 0.0


def _number(rule: Rule, amount: int) -> float:
    return amount / MICRO if rule.unit is Unit.USD else amount


def _total(table: dict[str, int], unit: str) -> int:
    return sum(amount for field, amount in table.items() if field.endswith(f"|{unit}"))
