"""`gateway why`: what was refused, by which rule, and what would have to change."""

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import store
from gateway.cli.options import ConfigOption, JsonOption, check_known, config_path, loaded, span

if TYPE_CHECKING:
    from gateway.core.catalog import Settings
    from gateway.ledger.administration import Administration
    from gateway.ledger.redis import RedisLedger

AT_ONCE = 50  #: teams whose refusals are looked through in one call, so that no other call waits long for it

_NONE = (
    "No refusal of {} is kept. It was not refused by the gateway, no team was known, or 200 later refusals of its team "
    "or 30 days have passed."
)


def why(
    request_id: Annotated[
        str | None, typer.Argument(metavar="[REQUEST_ID]", help="From x-request-id.", show_default=False)
    ] = None,
    team: Annotated[
        str | None, typer.Option("--team", metavar="T", help="All of this team instead.", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="D", help="With --team: not older than 30m, 12h, 1d.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a request was refused, or what was refused to a team: rules, limits and use then, and what would help.

    The store keeps the last 200 refusals of a team for 30 days. Exit 1: there is none of that id among them.

    Example: gateway why --team design --since 1d
    """
    from gateway.config.compile import compile_settings

    if (request_id is None) is (team is None):
        raise typer.BadParameter("give a request's id, or --team", param_hint="REQUEST_ID")
    if since is not None and team is None:
        raise typer.BadParameter("goes with --team", param_hint="--since")
    beginning = _beginning(since)
    document = loaded(config_path(config))
    settings = compile_settings(document, None)
    teams = [*settings.teams]
    if team is not None:
        check_known("--team", team, teams)

    async def work(ledger: "RedisLedger") -> list[str]:
        administration = ledger.administration(probing=True)
        if team is not None:
            return await administration.refusals([team], since=beginning)
        return await _of_request(str(request_id), administration, teams)

    refusals = [json.loads(text) for text in store.ask(document, work)]
    if as_json:
        _print_json(refusals, settings)
    else:
        _print(refusals, settings)
    if not refusals and team is not None:
        typer.echo(f"No refusal of team {team} is kept{f', not older than {since}' if since else ''}.", err=True)
    elif not refusals:
        typer.echo(_NONE.format(request_id), err=True)
        raise typer.Exit(1)


async def _of_request(request_id: str, administration: "Administration", teams: Sequence[str]) -> list[str]:
    for i in range(0, len(teams), AT_ONCE):
        if found := await administration.refusals(teams[i : i + AT_ONCE], containing=f'"id":"{request_id}"'):
            return found
    return []


def _beginning(since: str | None) -> float:
    """Unix seconds; 0 for all there is."""
    if since is None:
        return 0.0
    return time.time() - span(since, "--since")


def _print_json(refusals: list[dict[str, Any]], settings: "Settings") -> None:
    from gateway.core.refusals import iso
    from gateway.core.remedies import remedies

    told = [
        {**refusal, "at": iso(refusal["at"] // 1, _zone(refusal, settings)), "would_help": remedies(refusal, settings)}
        for refusal in refusals
    ]
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False))


def _print(refusals: list[dict[str, Any]], settings: "Settings") -> None:
    from rich.console import Console
    from rich.text import Text

    from gateway.core.refusals import local_time
    from gateway.core.remedies import remedies

    console = Console(soft_wrap=True, highlight=False)
    for refusal in refusals:
        who = f"team {refusal['team']}" + (f", key {refusal['key']}" if "key" in refusal else "")
        at = local_time(refusal["at"] // 1, _zone(refusal, settings))
        console.print(Text.assemble((refusal["id"], "bold"), f"  {at}  {who}"))
        told = {**refusal, "model": "an unknown model"} if refusal.get("model") == "other" else refusal
        ordered = [str(told[name]) for name in ("endpoint", "model", "size", "quality") if name in told]
        images = [f"n {refusal['n']}"] if "n" in refusal else []
        console.print(Text(f"  order    {', '.join(ordered + images)}"))
        reason = f" ({refusal['reason']})" if "reason" in refusal else ""
        console.print(Text.assemble("  refused  ", (f"{refusal['status']} {refusal['code']}{reason}", "red")))
        for rule in refusal.get("rules", ()):
            of = f"{rule['used']} of {rule['limit']} {rule['unit']} used, {rule['requested']} asked for"
            resets = f", resets {rule['resets_at']}" if rule["resets_at"] else ""
            console.print(Text(f"  rule     {rule['rule']} ({rule['scope']}): {of}{resets}"))
        for remedy in remedies(refusal, settings):
            console.print(Text.assemble("  helps    ", (remedy, "green")))


def _zone(refusal: dict[str, Any], settings: "Settings") -> str:
    team = settings.teams.get(refusal["team"])
    return team.zone if team is not None else settings.zone
