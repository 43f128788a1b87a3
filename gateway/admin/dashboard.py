"""The pages for people who would rather look than read: all teams, one team, the config, as they are now.

They are whole without a script. With one they are fetched anew every few seconds, and what has changed is put in its
place. Nothing is loaded from elsewhere.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway import __version__
from gateway.admin import guard, overview, traffic
from gateway.admin.figures import Figures, Reading
from gateway.core.catalog import Settings, Team
from gateway.core.errors import StoreUnavailable
from gateway.core.quota import ORGANIZATION
from gateway.core.refusals import dollars, local_time, measured
from gateway.core.remedies import remedies
from gateway.core.usage import Spent
from gateway.core.windows import Calendar
from gateway.parts import Parts
from gateway.slots import told_configs

REFUSALS = 20  #: of a team, that are shown

#: Nothing comes from elsewhere, and no script or style stands in a page. uPlot and htmx set styles by script alone.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
_FOR_EVER = "public, max-age=31536000, immutable"


def routes(parts: Parts, folder: Path) -> list[Route]:
    """folder: where the workers' metrics files are."""
    pages = Pages(parts, folder)
    return [
        Route("/", pages.of_all, methods=["GET"]),
        Route("/config", pages.of_config, methods=["GET"]),
        Route("/teams/{team}", pages.of_team, methods=["GET"]),
        Route("/static/{name}", pages.static, methods=["GET"]),
    ]


class Pages:
    """One worker's."""

    def __init__(self, parts: Parts, folder: Path) -> None:
        self._parts, self._folder = parts, folder
        self._figures = Figures(parts)
        self._static = _static_files()
        self._templates = Environment(
            loader=PackageLoader("gateway.admin"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # A file's address changes with its bytes, so that a browser may keep it.
        versions = {name: hashlib.sha256(data).hexdigest()[:12] for name, data in self._static.items()}
        self._templates.globals |= {"version": __version__, "versions": versions, "measured": measured}
        self._templates.filters |= {"usd": _usd, "count": "{:,}".format, "seconds": _seconds, "moment": _moment}

    async def static(self, request: Request) -> Response:
        """The files that come along. They are no secret, so they ask for no token."""
        name = request.path_params["name"]
        data = self._static.get(name)
        if data is None:
            return PlainTextResponse("Not found.\n", 404, headers=_HEADERS)
        return Response(data, media_type=_TYPES[Path(name).suffix], headers={**_HEADERS, "cache-control": _FOR_EVER})

    async def of_all(self, request: Request) -> Response:
        if refusal := guard.refuse(request, self._parts.settings()):
            return refusal
        settings, reading = await self._present()
        days: Mapping[date, Spent] = {}
        if reading is not None:
            try:
                days = await self._figures.days(reading, list(reading.members))
            except StoreUnavailable:  # since the reading, which serves for a moment
                reading = None
        return await _made(self._overview, settings, reading, days)

    def _overview(self, settings: Settings, reading: Reading | None, days: Mapping[date, Spent]) -> str:
        notices = self._notices(settings)
        facts: dict[str, Any] = {"traffic": traffic.read(self._folder), "days": days}
        if reading is not None:
            calendar = Calendar()
            notices += overview.notices_of_rules(reading)
            facts |= {
                "teams": overview.team_lines(reading, calendar),
                "total": overview.totals(reading),
                "by_size": overview.by_labels(reading, ("size", "quality"), reading.members),
                "rules": overview.bars(reading, ORGANIZATION, calendar),
            }
        facts["notices"], facts["more_notices"] = notices[: overview.MOST], max(0, len(notices) - overview.MOST)
        return self._rendered("overview.html", settings, reading, facts, own="./")

    async def of_team(self, request: Request) -> Response:
        if refusal := guard.refuse(request, self._parts.settings()):
            return refusal
        name = request.path_params["team"]
        settings, reading = await self._present()
        if name not in settings.teams and (reading is None or name not in reading.members):
            return PlainTextResponse("There is no team of that name.\n", 404, headers=_HEADERS)
        kept: Mapping[str, Any] = {}
        if reading is not None:
            try:
                days = await self._figures.days(reading, [name])
                kept = {"days": days, **await self._kept_of(name, settings.teams.get(name))}
            except StoreUnavailable:  # as above
                reading = None
        return await _made(self._team, name, settings, reading, kept)

    def _team(self, name: str, settings: Settings, reading: Reading | None, kept: Mapping[str, Any]) -> str:
        team = settings.teams.get(name)
        facts: dict[str, Any] = {
            "name": name,
            "team": team,
            "keys": sorted((k for k in settings.keys.values() if k.team == name), key=lambda key: key.id),
            "outcomes": traffic.read(self._folder).outcomes(name),
            "zone": team.zone if team is not None else settings.zone,
            **kept,
        }
        if reading is not None:
            facts |= {
                "total": overview.totals(reading, [name]),
                "by_size": overview.by_labels(reading, ("size", "quality"), [name]),
                "by_key": overview.by_labels(reading, ("key", "endpoint", "model"), [name]),
                "rules": overview.bars(reading, name, Calendar()),
                "refusals": [{**refusal, "helps": remedies(refusal, settings)} for refusal in kept["refusals"]],
            }
        return self._rendered("team.html", settings, reading, facts, own=name, root="../")

    async def of_config(self, request: Request) -> Response:
        if refusal := guard.refuse(request, self._parts.settings()):
            return refusal
        settings, reading = await self._present()
        return await _made(self._config, settings, reading)

    def _config(self, settings: Settings, reading: Reading | None) -> str:
        facts = {
            "problems": self._parts.settings.problems,
            "workers": told_configs(self._folder),
            "reloads": self._parts.reloads.latest(),
            "keys": sorted(settings.keys.values(), key=lambda key: (key.team, key.id)),
        }
        return self._rendered("config.html", settings, reading, facts, own="config")

    async def _present(self) -> tuple[Settings, Reading | None]:
        """The config in force and what the store says of it; None while the store is away."""
        try:
            reading = await self._figures.reading()
        except StoreUnavailable:
            return self._parts.settings(), None
        return reading.settings, reading

    async def _kept_of(self, name: str, team: Team | None) -> Mapping[str, Any]:
        """The team's latest refusals, and what was granted and corrected of its rules in the last month."""
        administration, rules = self._parts.ledger.administration(), team.rules if team is not None else ()
        refusals = await administration.refusals([name])
        grants, changes = await administration.recall(rules, since=self._parts.ledger.now() - 31 * 86_400)
        return {
            "refusals": [json.loads(text) for text in refusals[:REFUSALS]],
            "grants": grants,
            "changes": [change for change in changes if change.team == name],
        }

    def _notices(self, settings: Settings) -> list[overview.Notice]:
        ledger, problems = self._parts.ledger, self._parts.settings.problems
        notices = list(overview.notices_of_config(problems, told_configs(self._folder)))
        if ledger.lost:
            often = "once" if ledger.lost == 1 else f"{ledger.lost} times"
            words = f"The store has lost history {often} since it began: windows that were open then count too little"
            notices.append(overview.Notice("near", words))
        return notices + list(overview.notices_of_keys(settings, ledger.now()))

    def _rendered(
        self,
        template: str,
        settings: Settings,
        reading: Reading | None,
        facts: Mapping[str, Any],
        *,
        own: str,
        root: str = "./",
    ) -> str:
        """root: the way to `/` from here, own: to this page, so that a proxy may put all of it below a path."""
        return self._templates.get_template(template).render(
            root=root, own=own, settings=settings, reading=reading, now=self._parts.ledger.now(), **facts
        )


async def _made(make: Callable[..., str], *facts: object) -> Response:
    """A page of what has been read. With hundreds of teams it takes a while, in which orders must not wait."""
    return Response(await asyncio.to_thread(make, *facts), media_type="text/html", headers=_HEADERS)


def _static_files() -> Mapping[str, bytes]:
    folder = files("gateway.admin") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if re.search(r"\.(js|css|svg|txt)$", file.name)}


def _usd(micro: int) -> str:
    """All decimals that `gateway usage` shows, and none more."""
    whole, _, decimals = dollars(micro).partition(".")
    return f"${int(whole):,}.{decimals}"


def _seconds(seconds: float | None) -> str:
    """In the unit that fits."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _moment(at: float, zone: str) -> str:
    return local_time(at // 1, zone)
