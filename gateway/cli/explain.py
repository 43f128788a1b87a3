"""`gateway explain`: what an order would cost a team, and whether it would pass, without ordering it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import store
from gateway.cli.options import ConfigOption, JsonOption, check_known, config_path, loaded
from gateway.cli.tables import print_table

if TYPE_CHECKING:
    from gateway.config.document import Document
    from gateway.core.catalog import Settings, Team
    from gateway.core.errors import GatewayError
    from gateway.core.orders import Order
    from gateway.core.quota import Charge, Verdict


class Place(StrEnum):
    GENERATIONS = "generations"
    EDITS = "edits"


@dataclass(slots=True)
class Explained:
    """order: None where the config alone refuses it. verdict: None where the store was not asked. cost: micro-dollars.

    refusal: what the gateway would answer, None where the order would pass. unread: why the store did not tell.
    """

    order: "Order | None" = None
    cost: int | None = None
    charges: "tuple[Charge, ...]" = ()
    verdict: "Verdict | None" = None
    refusal: "GatewayError | None" = None
    unread: str = ""


def explain(
    *,
    team: Annotated[str, typer.Option(metavar="T", help="The team's id.", show_default=False)],
    endpoint: Annotated[Place, typer.Option(help="What is ordered.")] = Place.GENERATIONS,
    model: Annotated[str | None, typer.Option(metavar="M", help="Default: the config's.", show_default=False)] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Default: the model's.", show_default=False)] = None,
    quality: Annotated[str | None, typer.Option(metavar="Q", help="Default: the model's.", show_default=False)] = None,
    n: Annotated[int, typer.Option("-n", "--n", metavar="N", help="Images.")] = 1,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what an order costs, each rule that binds it with limit, use and reset, and whether it would pass now.

    Nothing is reserved. Exit 1: it would be refused. Without the store the limits are told, and not what is used.

    Example: gateway explain --team design --size 1792x1024 --quality hd -n 2
    """
    from gateway.config.compile import compile_settings

    document = loaded(config_path(config))
    settings = compile_settings(document, None)
    check_known("--team", team, settings.teams)
    asked = {"model": model, "size": size, "quality": quality, "n": n}
    told = _explained(document, settings, settings.teams[team], endpoint, asked)
    if as_json:
        typer.echo(json.dumps(_json_of(told, team), indent=2, ensure_ascii=False))
    else:
        _print(told, team)
    if told.refusal is not None:
        raise typer.Exit(1)


def _explained(
    document: "Document", settings: "Settings", team: "Team", place: Place, asked: Mapping[str, object]
) -> Explained:
    """The gateway's own order of decisions: suspension, what the team may order, then the quotas."""
    from gateway.core import orders, pricing, quota
    from gateway.core.errors import GatewayError, TeamSuspended
    from gateway.core.refusals import quota_error

    if team.suspended is not None:
        return Explained(refusal=TeamSuspended(f"Team {team.id} is suspended: {team.suspended}. Ask {team.contact}"))
    try:
        if place is Place.EDITS:
            form = {name: str(value) for name, value in {**asked, "prompt": "x"}.items() if value is not None}
            order = orders.from_form(form, ["image"], settings=settings, team=team)
        else:
            order = orders.from_json({**asked, "prompt": "x"}, settings=settings, team=team, endpoint="generations")
    except GatewayError as error:
        return Explained(refusal=error)
    told = Explained(order, pricing.price(order, settings.models[order.model]))
    told.charges = charges = quota.charges(
        (*team.rules, *settings.organization),
        endpoint=order.endpoint,
        model=order.model,
        size=order.size,
        quality=order.quality,
        n=order.n,
        cost=told.cost,
    )

    try:
        told.verdict = store.reach(document, lambda ledger: ledger.weigh(charges, probing=True))
    except store.Unreachable as error:
        told.unread = str(error)
        return told
    if not told.verdict.admitted:
        told.refusal = quota_error(told.verdict, team=team.id, contact=team.contact)
    return told


def _json_of(told: Explained, team: str) -> dict[str, object]:
    from gateway.core.quota import MICRO

    order = told.order
    ordered = None
    if order is not None:
        ordered = {name: getattr(order, name) for name in ("endpoint", "model", "size", "quality", "n")}
    refusal = told.refusal
    return {
        "team": team,
        "order": ordered,
        "price_usd": None if told.cost is None else told.cost / MICRO,
        "rules": _rules(told),
        "store": told.unread or "read",
        "verdict": "refused" if refusal is not None else "unknown" if told.unread else "admitted",
        "refusal": None
        if refusal is None
        else {"status": refusal.status, "code": refusal.code, "message": refusal.message},
    }


def _rules(told: Explained) -> list[dict[str, object]]:
    from gateway.core.refusals import number, rule_facts

    if told.verdict is not None:
        return [
            {**rule_facts(state), "requested": number(state.rule.unit, state.amount), "fits": not state.refused}
            for state in told.verdict.states
        ]
    return [
        {
            "rule": charge.rule.name,
            "scope": charge.rule.scope,
            "unit": charge.rule.unit.value,
            "per": charge.rule.per.value if charge.rule.per else None,
            "mode": charge.rule.mode,
            "limit": number(charge.rule.unit, charge.rule.limit),
            "requested": number(charge.rule.unit, charge.amount),
        }
        for charge in told.charges
    ]


def _print(told: Explained, team: str) -> None:
    from gateway.core.refusals import dollars

    if told.order is not None:
        order = told.order
        price = "without a price" if told.cost is None else f"${dollars(told.cost)}"
        typer.echo(
            f"{order.n} x {order.model} {order.size} {order.quality}, {order.endpoint}, for team {team}: {price}\n"
        )
    print_table("rule,scope,mode,asked,used,limit,resets,verdict", _rows(told))
    if told.unread:
        typer.echo(f"{told.unread} So what is used is not known, nor whether the order would pass.", err=True)
    elif told.refusal is not None:
        typer.echo(f"Refused: {told.refusal.status} {told.refusal.code}. {told.refusal.message}")
    else:
        typer.echo("It would pass.")


def _rows(told: Explained) -> list[list[str]]:
    from gateway.core.refusals import local_time, measured

    if told.verdict is None:
        return [
            [
                rule.name,
                rule.scope,
                rule.mode,
                measured(rule.unit, amount),
                "?",
                measured(rule.unit, rule.limit),
                "?",
                "?",
            ]
            for rule, amount in ((charge.rule, charge.amount) for charge in told.charges)
        ]
    rows = []
    for state in told.verdict.states:
        rule = state.rule
        resets = "-" if state.resets_at is None else local_time(state.resets_at, rule.zone)
        refuses = "refuses" if rule.mode == "enforce" else "would refuse"
        amounts = (measured(rule.unit, amount) for amount in (state.amount, state.used, state.limit))
        rows.append([rule.name, rule.scope, rule.mode, *amounts, resets, refuses if state.refused else "fits"])
    return rows
