"""`gateway usage`: what was made and charged, by team, key, model and so on; an invoice, a picture."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from gateway.cli import store
from gateway.cli.options import ConfigOption, JsonOption, config_path, loaded
from gateway.cli.tables import print_table
from gateway.core.usage import LABELS, Entry, Spent, entries, grouped, periods, total

if TYPE_CHECKING:
    from gateway.config.document import Document
    from gateway.ledger.redis import RedisLedger

KEPT = timedelta(days=400)  #: how long the store has what was booked
AT_ONCE = 100  #: tables that are read in one write, so that no other call waits long for them

_COLUMNS = ("images", "delivered", "unknown", "usd", "usd_unknown")
_MONTH = re.compile(r"[2-8][0-9]{3}-(0[1-9]|1[0-2])")  # of the years that a day may be of


class Form(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def usage(
    *,
    month: Annotated[
        str | None, typer.Option(metavar="YYYY-MM", help="A month. Default: the present one.", show_default=False)
    ] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="D", help="First day, like 2026-10-01.", show_default=False)
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="D", help="Last day, included. Default: today.", show_default=False)
    ] = None,
    by: Annotated[str, typer.Option(metavar="LIST", help=f"What to tell apart, of {', '.join(LABELS)}.")] = "team",
    zone: Annotated[
        str | None,
        typer.Option(
            "--timezone",
            metavar="Z",
            help="Whose days these must be: refused where a team's own days are others.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="CSV has no total line.")] = Form.TABLE,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the dollars, too; needs the extra `plot`.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report images and dollars charged, and of both what nobody can know to have been made (unknown).

    Days are those of each team's own time zone. The store keeps them for 400 days, also of teams that have left the
    config. An invoice: --by team,model,size,quality,endpoint.

    Example: gateway usage --by team,day --format csv
    """
    labels = _labels(by)
    document = loaded(config_path(config))
    today = datetime.now(ZoneInfo(_zone(zone) or document.config.timezone)).date()
    begin, end = _span(month, first, last, today)
    if plot is not None:
        _check_plot(plot)
    found = store.ask(document, lambda ledger: _read(ledger, document, _kept(begin, end, today, labels)))
    _check_days(document, {entry["team"] for entry, _ in found}, begin, end, zone)
    groups = grouped(found, labels)
    if as_json or form is Form.JSON:
        _print_json(groups, labels, begin, end, zone)
    elif form is Form.CSV:
        _print_csv(groups, labels)
    else:
        _print_table(groups, labels)
    if plot is not None:
        from gateway.cli.chart import draw

        title = f"US dollars charged by {', '.join(labels)}, {begin} to {end}"
        try:
            draw(plot, title, [(" ".join(group), spent) for group, spent in groups.items()])
        except OSError as error:
            typer.echo(f"{plot} cannot be written: {(error.strerror or type(error).__name__).lower()}", err=True)
            raise typer.Exit(1) from error
        typer.echo(f"Drawn: {plot}", err=True)


# What is asked for


def _labels(text: str) -> tuple[str, ...]:
    from gateway.config.problems import or_else

    labels = tuple(text.split(","))
    for name in labels:
        if name not in LABELS:
            raise typer.BadParameter(f"unknown {name!r}{or_else(name, LABELS)}", param_hint="--by")
    if len(set(labels)) < len(labels):
        raise typer.BadParameter("names something twice", param_hint="--by")
    return labels


def _zone(name: str | None) -> str | None:
    from gateway.config import values

    try:
        return None if name is None else values.zone(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--timezone") from error


def _span(month: str | None, first: str | None, last: str | None, today: date) -> tuple[date, date]:
    """The first and the last day, both included."""
    if month is not None and (first is not None or last is not None):
        raise typer.BadParameter("goes without --from and --to", param_hint="--month")
    if last is not None and first is None:
        raise typer.BadParameter("goes with --from", param_hint="--to")
    if first is not None:
        begin, end = _day(first, "--from"), today if last is None else _day(last, "--to")
        if end < begin:
            raise typer.BadParameter(f"{end} is before {begin}", param_hint="--to" if last else "--from")
        return begin, end
    if month is not None and not _MONTH.fullmatch(month):
        raise typer.BadParameter(f"expected a month like {today:%Y-%m}", param_hint="--month")
    begin = today.replace(day=1) if month is None else _day(f"{month}-01", "--month")
    return begin, (begin + timedelta(days=32)).replace(day=1) - timedelta(days=1)


def _day(text: str, option: str) -> date:
    try:
        found = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        found = None
    if found is None or not 2000 <= found.year <= 9000:
        raise typer.BadParameter(f"expected a day like {date(2026, 10, 1)}", param_hint=option)
    return found


def _kept(begin: date, end: date, today: date, labels: Sequence[str]) -> list[str]:
    """The names of the tables that may be there; said, where some cannot be any more."""
    oldest = today - KEPT
    if begin < oldest:
        typer.echo(
            f"Usage is kept for {KEPT.days} days: what was booked before {oldest} is not, or not all, here.", err=True
        )
    end = min(end, (today + timedelta(days=32)).replace(day=1))
    return periods(max(begin, oldest.replace(day=1)), end, daily="day" in labels)


def _check_days(document: "Document", teams: Iterable[str], begin: date, end: date, zone: str | None) -> None:
    """Refuses a zone whose days are not those of a team that has usage: sums of days cannot be cut anew."""
    if zone is None:
        return
    others, unknown = [], []
    for team in sorted(teams):
        if team not in document.config.teams:
            unknown.append(team)
        elif not _same_days(own := document.config.teams[team].timezone or document.config.timezone, zone, begin, end):
            others.append(f"{team} ({own})")
    if others:
        typer.echo(
            f"Usage is booked by days of each team's own time zone, and those of {', '.join(others)} are not the days "
            f"of {zone}, nor can they be cut anew. Ask without --timezone: each team's days are then its own.",
            err=True,
        )
        raise typer.Exit(1)
    if unknown:
        typer.echo(f"No longer in the config, so their days are as booked: {', '.join(unknown)}.", err=True)


def _same_days(one: str, other: str, begin: date, end: date) -> bool:
    first, second = ZoneInfo(one), ZoneInfo(other)
    midnights = (datetime(d.year, d.month, d.day, tzinfo=UTC) for d in _days(begin, end + timedelta(days=1)))
    return all(at.replace(tzinfo=first).utcoffset() == at.replace(tzinfo=second).utcoffset() for at in midnights)


def _days(begin: date, end: date) -> list[date]:
    return [begin + timedelta(days=i) for i in range((end - begin).days + 1)]


async def _read(ledger: "RedisLedger", document: "Document", names: Sequence[str]) -> list[Entry]:
    from rich.console import Console
    from rich.progress import Progress

    teams = sorted({*document.config.teams, *await ledger.booked_teams()})
    asked = [(team, name) for team in teams for name in names]
    found: list[Entry] = []
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("Reading", total=len(asked))
        for i in range(0, len(asked), AT_ONCE):
            some = asked[i : i + AT_ONCE]
            tables = await ledger.booked([f"{team}:{name}" for team, name in some])
            for (team, name), table in zip(some, tables, strict=True):
                found += entries(table, team=team, day=name)
            progress.advance(task, len(some))
    return found


# How it is told


def _print_table(groups: Mapping[tuple[str, ...], Spent], labels: Sequence[str]) -> None:
    if not groups:
        typer.echo("No usage.", err=True)
        return
    rows = [[*group, *_numbers(spent)] for group, spent in groups.items()]
    rows.append(["total", *[""] * (len(labels) - 1), *_numbers(total(groups))])
    print_table(",".join([*labels, *_COLUMNS]), rows, numbers=len(_COLUMNS))


def _print_csv(groups: Mapping[tuple[str, ...], Spent], labels: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*labels, *_COLUMNS])
    writer.writerows([*group, *_numbers(spent)] for group, spent in groups.items())
    typer.echo(text.getvalue(), nl=False)


def _print_json(
    groups: Mapping[tuple[str, ...], Spent], labels: Sequence[str], begin: date, end: date, zone: str | None
) -> None:
    told = {
        "from": begin.isoformat(),
        "to": end.isoformat(),
        "timezone": zone,
        "rows": [{**dict(zip(labels, group, strict=True)), **_facts(spent)} for group, spent in groups.items()],
        "total": _facts(total(groups)),
    }
    typer.echo(json.dumps(told, indent=2))


def _numbers(spent: Spent) -> list[str]:
    from gateway.core.refusals import dollars

    counts = map(str, (spent.images, spent.delivered, spent.unknown))
    return [*counts, dollars(spent.usd), dollars(spent.usd_unknown)]


def _facts(spent: Spent) -> dict[str, int | float]:
    from gateway.core.quota import MICRO

    # The division is rounded to the nearest double, which is written out with just the decimals there are.
    money = {"usd": spent.usd / MICRO, "usd_unknown": spent.usd_unknown / MICRO}
    return {"images": spent.images, "delivered": spent.delivered, "unknown": spent.unknown, **money}


def _check_plot(path: Path) -> None:
    from importlib.util import find_spec

    if path.suffix.lower() != ".png":
        raise typer.BadParameter("expected the name of a .png file", param_hint="--plot")
    if find_spec("PIL") is None:
        raise typer.BadParameter("drawing needs the extra `plot`: pip install '.[plot]'", param_hint="--plot")
