"""The page for people who would rather look than read: images, cost and rules as the store has them now."""

from functools import partial
from importlib.resources import files

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import __version__
from gateway.admin import guard
from gateway.admin.team import spent
from gateway.core.errors import StoreUnavailable
from gateway.core.refusals import local_time, rule_facts
from gateway.parts import Parts

#: Nothing is loaded from elsewhere and nothing runs.
_POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def routes(parts: Parts) -> list[Route]:
    pages = Environment(loader=PackageLoader("gateway.admin"), autoescape=select_autoescape())
    style = (files("gateway.admin") / "templates" / "overview.css").read_bytes()
    return [
        Route("/", partial(_overview, parts=parts, pages=pages), methods=["GET"]),
        Route("/overview.css", partial(_style, style=style), methods=["GET"]),
    ]


async def _style(request: Request, *, style: bytes) -> Response:
    del request
    return Response(style, media_type="text/css")


async def _overview(request: Request, *, parts: Parts, pages: Environment) -> Response:
    settings = parts.settings()
    if refusal := guard.refuse(request, settings):
        return refusal
    teams = list(settings.teams.values())
    rules = [*(rule for team in teams for rule in team.rules), *settings.organization]
    facts: dict[str, object] = {"teams": [], "rules": [], "store_up": True}
    try:
        states = await parts.ledger.states(rules)
        usage = await parts.ledger.usage([(team.id, team.zone) for team in teams])
    except StoreUnavailable:
        facts["store_up"] = False
    else:
        facts["rules"] = [rule_facts(state) for state in states]
        facts["teams"] = [
            {"id": team.id, "today": spent(usage[team.id]["day"]), "month": spent(usage[team.id]["month"])}
            for team in teams
        ]
    page = pages.get_template("overview.html").render(
        version=__version__,
        config_hash=settings.hash,
        problems=parts.settings.problems,
        reloads=[{"at": local_time(each.at // 1, settings.zone), "reload": each} for each in parts.reloads.latest()],
        store_kind=settings.store.kind,
        **facts,
    )
    headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff", "cache-control": "no-store"}
    return Response(page, media_type="text/html", headers=headers)
