"""`gateway usage` and `gateway explain` beside real gateways, held against the upstream's own record."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from PIL import Image
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.cli.usage import _same_days as same_days
from gateway.core.usage import Spent, entries, grouped, periods, total
from gateway.simulator.record import RecordedRequest
from tests.cli.two_hosts import Hosts, running_hosts
from tests.support.site import wait_until

TEAMS: dict[str, dict[str, Any]] = {
    "made": {"unlimited": True},
    "tight": {"quotas": [{"images": 3, "per": "day"}, {"usd": 1, "per": "month"}, {"concurrent": 2}]},
    "paused": {"unlimited": True, "suspended": "budget review"},
    "faraway": {"unlimited": True, "timezone": "Pacific/Kiritimati"},
}

PRICES = {("1024x1024", "standard"): 40_000, ("1792x1024", "standard"): 80_000, ("1024x1024", "hd"): 80_000}


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with running_hosts(TEAMS) as running:
        yield running


def team_of(request: RecordedRequest) -> str:
    """The prompt says it: nothing else of the team goes up."""
    return str(request.field("prompt")).split()[-1]


@pytest.fixture(scope="module")
def orders(hosts: Hosts) -> list[RecordedRequest]:
    """Orders of all ends on both hosts: whole, partial, of unknown outcome, refused by the upstream and given back."""
    small, wide, fine = {"size": "1024x1024"}, {"size": "1792x1024"}, {"quality": "hd", "size": "1024x1024"}
    for number, (behaviour, n, more, status) in enumerate([
        (None, 2, small, 200),
        (None, 1, wide, 200),
        ({"images": 2}, 3, fine, 200),
        ({"status": 504}, 2, fine, 424),
        ({"fault": "drop"}, 1, wide, 424),
        ({"status": 500}, 4, small, 502),
        (None, 1, fine, 200),
    ]):  # fmt: skip
        for team in ("made", "faraway"):
            if behaviour is not None:
                hosts.simulator.script(behaviour)
            answer = hosts.order(team, n=n, at=hosts.both[number % 2], prompt=f"a lighthouse {team}", **more)
            assert answer.status_code == status, answer.text
    return [request for request in hosts.simulator.record.requests if request.endpoint]


def key(request: RecordedRequest, team: str) -> tuple[str, str, str]:
    return team, str(request.field("size")), str(request.field("quality"))


def test_the_report_is_what_the_upstream_made(hosts: Hosts, orders: list[RecordedRequest]) -> None:
    """By team, size and quality: delivered is what the record made and answered, unknown what it never answered."""
    delivered: Counter[tuple[str, str, str]] = Counter()
    unknown: Counter[tuple[str, str, str]] = Counter()
    for request in orders:
        place = key(request, team_of(request))
        if request.status == 200 and request.fault is None:
            delivered[place] += request.images_made
        elif request.status != 500:
            unknown[place] += int(str(request.field("n")))
    assert delivered.total() == 12
    assert unknown.total() == 6
    told = hosts.told("usage", "--by", "team,size,quality", "--from", _day(-2), "--to", _day(2))
    assert {(r["team"], r["size"], r["quality"]): (r["delivered"], r["unknown"]) for r in told["rows"]} == {
        place: (delivered[place], unknown[place]) for place in {*delivered, *unknown}
    }
    for row in told["rows"]:
        price = PRICES[row["size"], row["quality"]]
        assert round(row["usd"] * 1_000_000) == row["images"] * price
        assert round(row["usd_unknown"] * 1_000_000) == row["unknown"] * price
    assert (told["total"]["images"], told["total"]["unknown"]) == (18, 6)


def test_whole_months_are_the_sum_of_their_days(hosts: Hosts, orders: list[RecordedRequest]) -> None:
    """Read from the tables of months and from those of days, every label's sums are the same."""
    assert orders
    first = (datetime.now(UTC).date().replace(day=1) - timedelta(days=1)).replace(day=1)
    last = (datetime.now(UTC).date().replace(day=1) + timedelta(days=63)).replace(day=1) - timedelta(days=1)
    span = ["--from", first.isoformat(), "--to", last.isoformat()]
    labels = "team,key,account,model,size,quality,endpoint"
    by_month = hosts.told("usage", "--by", labels, *span)
    by_day = hosts.told("usage", "--by", f"{labels},day", *span)
    assert {(row["key"], row["account"], row["model"], row["endpoint"]) for row in by_month["rows"]} == {
        ("test", "main", "dall-e-3", "generations")
    }
    days = {row["team"]: row["day"] for row in by_day["rows"]}
    gap = date.fromisoformat(days["faraway"]) - datetime.now(ZoneInfo("Pacific/Kiritimati")).date()
    assert abs(gap.days) <= 1
    assert [{**row, "day": None} for row in by_day["rows"]] == [{**row, "day": None} for row in by_month["rows"]]
    assert by_day["total"] == by_month["total"]


def test_csv_and_lines_say_what_json_says(hosts: Hosts, orders: list[RecordedRequest]) -> None:
    """CSV has a header and a row a group; a pipe gets the same header and rows between tabs, the total last."""
    assert orders
    words = ["--by", "team,quality", "--from", _day(-2), "--to", _day(2)]
    told = hosts.told("usage", *words)
    rows = list(csv.DictReader(io.StringIO(hosts.command("usage", *words, "--format", "csv").stdout)))
    assert [(r["team"], r["quality"], int(r["images"]), float(r["usd"])) for r in rows] == [
        (r["team"], r["quality"], r["images"], r["usd"]) for r in told["rows"]
    ]
    lines = [line.split("\t") for line in hosts.command("usage", *words).stdout.strip().splitlines()]
    assert lines[0] == list(rows[0])
    assert [line[2:] for line in lines[1:-1]] == [[r[c] for c in list(r)[2:]] for r in rows]
    assert lines[-1] == ["total", "", "18", "12", "6", "1.28", "0.48"]


def test_a_team_that_has_left_the_config_is_still_billed(hosts: Hosts, orders: list[RecordedRequest]) -> None:
    """Taken out of the file, its usage stands in the report as before."""
    assert orders
    words = ["--from", _day(-2), "--to", _day(2)]
    before = hosts.told("usage", *words)
    path = hosts.first.folder / "config.yaml"
    text = path.read_text("utf-8")
    start = text.index("  made:\n")
    other = hosts.first.folder / "later.yaml"
    other.write_text(text[:start] + text[text.index("  tight:\n") :], "utf-8")
    assert "made" in {row["team"] for row in before["rows"]}
    assert json.loads(hosts.command("usage", *words, "--json", "-c", str(other)).stdout) == before


def test_a_time_zone_with_other_days_is_refused(hosts: Hosts, orders: list[RecordedRequest]) -> None:
    """Days cannot be cut anew: the teams whose days are others are named. A zone with the same days is taken."""
    assert orders
    words = ["usage", "--from", _day(-2), "--to", _day(2)]
    refused = hosts.command(*words, "--timezone", "Pacific/Kiritimati")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "made" in refused.stderr
    assert "faraway" not in refused.stderr
    assert refused.stderr.endswith("Ask without --timezone: each team's days are then its own.\n")
    day = date(2026, 10, 20)
    assert same_days("Europe/Berlin", "Europe/Paris", day, day)
    assert not same_days("Europe/Berlin", "Africa/Lagos", date(2026, 10, 20), date(2026, 10, 25))
    assert same_days("Europe/Berlin", "Africa/Lagos", date(2026, 10, 26), date(2026, 10, 31))


def test_a_plot_is_a_png(hosts: Hosts, orders: list[RecordedRequest], tmp_path: Path) -> None:
    """One bar a group: the picture decodes, is as high as it has bars, and shows both colours."""
    assert orders
    path = tmp_path / "usage.png"
    words = ["usage", "--from", _day(-2), "--to", _day(2), "--by", "team,size,quality", "--plot", str(path)]
    assert hosts.command(*words).exit_code == 0
    with Image.open(path) as picture:
        colors = {color for _, color in picture.getcolors(1 << 20) or ()}
        assert picture.format == "PNG"
    assert {(44, 102, 176), (222, 140, 36)} <= colors


def test_a_plot_that_cannot_be_written_costs_no_report(
    hosts: Hosts, orders: list[RecordedRequest], tmp_path: Path
) -> None:
    """The table is printed all the same, and the exit status 1 goes with a sentence about the file."""
    assert orders
    path = tmp_path / "nowhere" / "usage.png"
    result = hosts.command("usage", "--from", _day(-2), "--to", _day(2), "--plot", str(path))
    assert result.exit_code == 1
    assert "total" in result.stdout
    assert result.stderr == f"{path} cannot be written: no such file or directory\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--month", "2026-13"], "expected a month like"),
        (["--month", "0001-01"], "expected a month like"),
        (["--month", "2026-10", "--from", "2026-10-01"], "goes without"),
        (["--to", "2026-10-01"], "goes with --from"),
        (["--from", "2026-10-02", "--to", "2026-10-01"], "is before"),
        (["--from", "1.10.2026"], "expected a day like"),
        (["--by", "team,modle"], "did you mean 'model'?"),
        (["--by", "team,team"], "twice"),
        (["--timezone", "Europe/Berln"], "Europe/Berlin"),
        (["--plot", "usage.pdf"], ".png"),
    ],
)
def test_a_report_that_cannot_be_meant_is_a_usage_error(hosts: Hosts, words: list[str], complaint: str) -> None:
    """Exit 2, with what was expected."""
    result = hosts.command("usage", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in plain(result.stderr)


def test_what_is_older_than_400_days_is_said_to_be_gone(hosts: Hosts) -> None:
    """A report that may not be whole says so, and one of nothing says that."""
    result = hosts.command("usage", "--month", "2020-01")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "kept for 400 days" in result.stderr
    assert "No usage." in result.stderr


# Keys


def test_the_last_use_of_a_key_is_listed(hosts: Hosts, orders: list[RecordedRequest]) -> None:
    """Soon after it was used, on whichever host; a key that nobody used has none."""
    assert orders

    def uses() -> dict[str, str | None]:
        return {key["team"]: key["last_used"] for key in hosts.told("keys", "list")}

    wait_until(lambda: uses()["made"] and uses()["faraway"])
    found = uses()
    age = datetime.now(UTC) - datetime.fromisoformat(str(found["made"]))
    assert timedelta(0) <= age < timedelta(minutes=2)
    assert found["research"] is None


# The sums


def test_days_are_read_as_months_where_they_are_whole() -> None:
    """A span is the days before, the whole months, the days after; by day it is days alone."""
    names = periods(date(2027, 1, 30), date(2027, 3, 2), daily=False)
    assert names == ["2027-01-30", "2027-01-31", "2027-02", "2027-03-01", "2027-03-02"]
    assert periods(date(2028, 2, 1), date(2028, 2, 29), daily=False) == ["2028-02"]
    assert len(periods(date(2028, 2, 1), date(2028, 2, 29), daily=True)) == 29


def test_what_came_to_nothing_is_left_out() -> None:
    """A presumption that was replaced leaves zeros in the store, and no line in a report."""
    place = "ci|main|dall-e-3|1024x1024|hd|edits"
    table = {f"{place}|unknown|images": 0, f"{place}|unknown|usd": 0}
    assert grouped(entries(table, team="a"), ("team",)) == {}
    sums = grouped(entries({f"{place}|delivered|images": 3, f"{place}|delivered|usd": 7}, team="a"), ("team", "key"))
    assert sums == {("a", "ci"): Spent(3, 0, 7, 0)}
    assert total(sums).usd == 7


# Before an order


def explained(hosts: Hosts, *words: str, status: int = 0) -> dict[str, Any]:
    result = hosts.command("explain", *words, "--json")
    assert result.exit_code == status, result.output
    return dict(json.loads(result.stdout))


def test_explain_foretells_what_the_gateway_does(hosts: Hosts) -> None:
    """Price, use and verdict are those that the order then meets; explaining takes nothing."""
    for n, status in ((3, 200), (1, 429)):
        told = explained(hosts, "--team", "tight", "-n", str(n), status=0 if status == 200 else 1)
        again = explained(hosts, "--team", "tight", "-n", str(n), status=0 if status == 200 else 1)
        assert told["rules"] == again["rules"]
        answer = hosts.order("tight", n=n)
        assert answer.status_code == status
        if status == 200:
            assert told["verdict"] == "admitted"
            assert float(answer.headers["x-gateway-cost-usd"]) == told["price_usd"] == 0.12
            assert {r["rule"]: (r["used"], r["fits"]) for r in told["rules"]} == {
                "images-day": (0, True),
                "usd-month": (0.0, True),
                "concurrent": (0, True),
            }
        else:
            assert told["refusal"] == {
                "status": 429,
                "code": answer.json()["error"]["code"],
                "message": answer.json()["error"]["message"],
            }


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["--team", "paused"], {}),
        (["--team", "tight", "--size", "1x1"], {"size": "1x1"}),
        (["--team", "tight", "--model", "dall-e-9"], {"model": "dall-e-9"}),
        (["--team", "tight", "-n", "11"], {"n": 11}),
    ],
)
def test_explain_refuses_as_the_gateway_does(hosts: Hosts, words: list[str], order: dict[str, Any]) -> None:
    """What the config alone refuses: the same status, code and message, and exit 1."""
    answer = hosts.order(words[1], **order)
    told = explained(hosts, *words, status=1)["refusal"]
    error = answer.json()["error"]
    assert (told["status"], told["code"], told["message"]) == (answer.status_code, error["code"], error["message"])


def test_explain_does_without_a_store(hosts: Hosts) -> None:
    """It tells price and limits, says that it does not know what is used, and fails nobody's script for that."""
    away = {"TEST_STORE_URL": "redis://:hunter2@127.0.0.1:1"}
    words = ["explain", "--team", "tight", "--endpoint", "edits", "-c", str(hosts.first.folder / "config.yaml")]
    result = CliRunner(env=away).invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "edits, for team tight: $0.04" in result.stdout
    assert "rule\tscope\tmode\tasked\tused\tlimit\tresets\tverdict\n" in result.stdout
    assert "images-day\ttight\tenforce\t1 image\t?\t3 images" in result.stdout
    assert "cannot be reached" in result.stderr
    assert "hunter2" not in result.output
    told = json.loads(CliRunner(env=away).invoke(app, [*words, "--json"]).stdout)
    assert (told["verdict"], told["price_usd"]) == ("unknown", 0.04)


def test_explain_knows_no_other_team(hosts: Hosts) -> None:
    """A mistyped team is a usage error with a suggestion."""
    result = hosts.command("explain", "--team", "tigth")
    assert result.exit_code == 2
    assert "did you mean 'tight'?" in plain(result.stderr)


def plain(text: str) -> str:
    """Without the frame that typer draws."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def _day(offset: int) -> str:
    return (datetime.now(UTC) + timedelta(days=offset)).date().isoformat()
