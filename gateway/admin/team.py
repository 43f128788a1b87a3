"""What a team may ask about itself: the models it may use, what it has used, what is left."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway import exchange as exchanges
from gateway.core.catalog import Model, Settings, Team
from gateway.core.errors import ModelNotFound
from gateway.core.orders import permitted_models, permitted_qualities, permitted_sizes
from gateway.core.quota import MICRO
from gateway.core.refusals import rule_facts
from gateway.core.usage import entries, grouped, total
from gateway.exchange import Exchange
from gateway.ledger.base import Ledger


def _asking(request: Request) -> tuple[Exchange, Settings, Team]:
    exchange = exchanges.of(request.scope)
    return exchange, exchange.settings, exchange.known()


async def models(request: Request) -> Response:
    """``GET /v1/models`` in OpenAI's shape, with what an order may say of each model beside it."""
    _, settings, team = _asking(request)
    return JSONResponse({"object": "list", "data": [_described(m, team) for m in permitted_models(settings, team)]})


async def model(request: Request) -> Response:
    _, settings, team = _asking(request)
    name = request.path_params["id"].rstrip("/")
    for found in permitted_models(settings, team):
        if found.alias == name:
            return JSONResponse(_described(found, team))
    usable = ", ".join(m.alias for m in permitted_models(settings, team)) or "none"
    raise ModelNotFound(f"There is no model of that name for team {team.id}. It may use: {usable}.", param="model")


def _described(found: Model, team: Team) -> dict[str, object]:
    endpoints = [e for e in ("generations", "edits") if e in found.endpoints and _may(team.endpoints, e)]
    sizes = permitted_sizes(found, team)
    return {
        "id": found.alias,
        "object": "model",
        "created": 0,
        "owned_by": "3xcoder",
        "endpoints": endpoints,
        "sizes": sizes,
        "qualities": permitted_qualities(found, team, "generations"),
        "max_n": found.max_n,
        "price_usd": {
            quality: {size: found.prices[quality, size] / MICRO for size in sizes if (quality, size) in found.prices}
            for quality in permitted_qualities(found, team, "generations")
        },
    }


def _may(allowed: frozenset[str] | None, value: str) -> bool:
    return allowed is None or value in allowed


async def usage(request: Request, *, ledger: Ledger) -> Response:
    """``GET /v1/usage``: the rules that bind the team as they stand, and what it used today and this month."""
    _, settings, team = _asking(request)
    states = await ledger.states([*team.rules, *settings.organization])
    used = (await ledger.usage([(team.id, team.zone)]))[team.id]
    return JSONResponse(
        {
            "object": "usage",
            "team": team.id,
            "timezone": team.zone,
            "rules": [rule_facts(state) for state in states],
            "today": spent(used["day"]),
            "month": spent(used["month"]),
        }
    )


def spent(table: dict[str, int]) -> dict[str, object]:
    """Images and dollars in all and by size and quality; unknown outcomes are in the charge and told apart."""
    groups = grouped(entries(table), by=("size", "quality"))
    whole = total(groups)
    return {
        "images": whole.images,
        "unknown": whole.unknown,
        "usd": whole.usd / MICRO,
        "by": [
            {
                "size": size,
                "quality": quality,
                "images": group.images,
                "unknown": group.unknown,
                "usd": group.usd / MICRO,
            }
            for (size, quality), group in groups.items()
            if group.images
        ],
    }
