"""`gateway quota` and thresholds, on two gateways that share a store: what one is told, both know at once."""

import os
import pwd
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import redis
from typer.testing import CliRunner

from gateway.cli.main import app
from tests.cli.two_hosts import Hosts, running_hosts
from tests.support.engines import VALKEY, server
from tests.support.running import NO_TLS, Running, base_config, running_gateway
from tests.support.simulated import running_simulator
from tests.support.site import wait_until

LATER = "2035-06-30"

TEAMS: dict[str, dict[str, Any]] = {
    "warned": {"quotas": [{"images": 10, "per": "day", "warn_at": ["50%", "80%"]}]},
    "lent": {"quotas": [{"images": 2, "per": "day"}, {"images": 1, "per": "day", "mode": "shadow", "name": "trial"}]},
    "brief": {"quotas": [{"images": 1, "per": "day"}]},
    "racing": {"quotas": [{"images": 5, "per": "month"}]},
    "corrected": {"quotas": [{"images": 4, "per": "day"}, {"usd": 2, "per": "month"}, {"concurrent": 9}]},
    "rich": {"timezone": "Europe/Berlin", "quotas": [{"usd": 0.04, "per": "month"}]},
    "shown": {"quotas": [{"images": 4, "per": "day", "warn_at": ["50%"]}, {"usd": 1.5, "per": "total"}]},
}


def organization(config: dict[str, Any]) -> None:
    config["organization"] = {"quotas": [{"usd": 400, "per": "month"}]}
    config["teams"]["shown"]["quotas"].append(
        {"images": 3, "per": "day", "adds_to": "images-day", "until": "2034-01-31"}
    )


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with running_hosts(TEAMS, organization) as running:
        yield running


def grant(hosts: Hosts, team: str, rule: str, add: str, *, until: str = LATER) -> dict[str, Any]:
    words = ["--team", team, "--rule", rule, "--add", add, "--until", until, "--reason", "trade fair"]
    return dict(hosts.told("quota", "grant", *words))


def reset(hosts: Hosts, team: str, rule: str, to: str) -> dict[str, Any]:
    return dict(hosts.told("quota", "reset", "--team", team, "--rule", rule, "--to", to, "--reason", "gone wild"))


# Thresholds


def warnings(host: Running, team: str) -> dict[str, float]:
    """The team's thresholds as a scrape finds them."""
    lines = httpx.get(f"{host.admin_url}/metrics", timeout=10, verify=NO_TLS).text.splitlines()
    series = [line for line in lines if line.startswith("gateway_quota_warning{") and f'team="{team}"' in line]
    return {line.split('threshold="')[1].split('"')[0]: float(line.split()[-1]) for line in series}


def test_a_threshold_is_told_once_by_one_of_all_hosts(hosts: Hosts) -> None:
    """Orders that come to both hosts pass 50% and 80% of ten images: each is logged once, and every host shows both."""
    assert [warnings(host, "warned") for host in hosts.both] == [{"50%": 0.0, "80%": 0.0}] * 2
    for i in range(9):
        assert hosts.order("warned", at=hosts.both[i % 2]).status_code == 200
    assert [warnings(host, "warned") for host in hosts.both] == [{"50%": 1.0, "80%": 1.0}] * 2
    told = sorted(hosts.logged("quota warning", team="warned"), key=itemgetter("ts"))
    assert [(line["threshold"], line["used"], line["limit"]) for line in told] == [("50%", 5, 10), ("80%", 8, 10)]
    assert {(line["level"], line["rule"]) for line in told} == {("warning", "images-day")}
    grant(hosts, "warned", "images-day", "10")
    assert [warnings(host, "warned") for host in hosts.both] == [{"50%": 0.0, "80%": 0.0}] * 2


# Grants


def test_a_grant_counts_everywhere_at_once(hosts: Hosts) -> None:
    """Verdict, headers, message, /v1/usage and metric of both hosts have the new limit; a shadow beside it has not."""
    assert hosts.order("lent", n=2).status_code == 200
    assert hosts.order("lent", at=hosts.second).status_code == 429
    told = grant(hosts, "lent", "images-day", "3")
    assert (told["before"], told["after"], told["difference"]) == (2, 5, 3)
    for host in hosts.both:
        made = hosts.order("lent", at=host)
        assert (made.status_code, made.headers["x-ratelimit-limit-images"]) == (200, "5")
        assert hosts.usage("lent", "images-day", at=host)["limit"] == 5
        assert hosts.usage("lent", "trial", at=host)["limit"] == 1
        assert host.metric("gateway_quota_limit", team="lent", rule="images-day") == 5
    refused = hosts.order("lent", n=2).json()["error"]
    assert "Team lent has used 4 of 5 images today" in refused["message"]
    assert refused["quota"][0]["limit"] == 5


def test_a_grant_ends_with_its_moment(hosts: Hosts) -> None:
    """An order that only the grant lets pass is refused as soon as that is over, and the limit is the config's."""
    hosts.order("brief")
    ends = datetime.now(UTC) + timedelta(seconds=4)
    grant(hosts, "brief", "images-day", "1", until=ends.isoformat(timespec="milliseconds"))
    assert hosts.usage("brief", "images-day")["limit"] == 2
    wait_until(lambda: hosts.usage("brief", "images-day", at=hosts.second)["limit"] == 1)
    assert datetime.now(UTC) >= ends
    assert hosts.order("brief").status_code == 429


def test_a_grant_is_never_passed(hosts: Hosts) -> None:
    """Twenty orders at once on two hosts while a grant of three arrives: 5 + 3 images are made, and not one more."""
    before = hosts.simulator.record.totals.images_made
    with ThreadPoolExecutor(21) as pool:
        orders = [pool.submit(hosts.order, "racing", at=hosts.both[i % 2]) for i in range(20)]
        pool.submit(grant, hosts, "racing", "images-month", "3").result()
        first = [order.result().status_code for order in orders]
        late = [pool.submit(hosts.order, "racing", at=hosts.both[i % 2]) for i in range(10)]
        second = [order.result().status_code for order in late]
    assert (first + second).count(200) == 8
    assert set(first + second) == {200, 429}
    assert hosts.simulator.record.totals.images_made - before == 8
    assert hosts.usage("racing", "images-month")["used"] == 8


def test_dollars_are_granted_as_dollars_to_teams_and_the_organization(hosts: Hosts) -> None:
    """The amount is read as the config reads it, and the day ends in the team's zone."""
    told = grant(hosts, "rich", "usd-month", "0.05")
    assert (told["before"], told["after"], told["difference"]) == (0.04, 0.09, 0.05)
    assert told["until"] == "2035-07-01T00:00:00+02:00"
    assert hosts.order("rich", n=2).headers["x-ratelimit-limit-usd"] == "0.09"
    assert hosts.order("rich").status_code == 429
    assert grant(hosts, "organization", "usd-month", "20.5")["after"] == 420.5
    assert hosts.second.metric("gateway_quota_limit", team="organization", rule="usd-month") == 420.5


# Corrections


def test_a_reset_says_what_is_used(hosts: Hosts) -> None:
    """What is used is the new number on both hosts, further orders count on from it, and what was made stays booked."""
    hosts.order("corrected", n=4)
    assert hosts.order("corrected").status_code == 429
    told = reset(hosts, "corrected", "images-day", "1")
    assert (told["before"], told["after"], told["difference"]) == (4, 1, -3)
    assert reset(hosts, "corrected", "usd-month", "0.5")["difference"] == 0.34
    made = hosts.order("corrected", n=2, at=hosts.second)
    assert (made.status_code, made.headers["x-ratelimit-remaining-images"]) == (200, "1")
    assert hosts.usage("corrected", "images-day")["used"] == 3
    assert hosts.usage("corrected", "usd-month")["used"] == 0.58
    assert hosts.order("corrected", n=2).status_code == 429
    for host in hosts.both:
        assert host.metric("gateway_period_images", team="corrected", period="today") == 6


def test_changes_are_kept_and_logged_with_who_and_why(hosts: Hosts) -> None:
    """Each change stands once in all hosts' logs, and in the store, with the user, the host, the reason and the sum."""
    grant(hosts, "shown", "usd-total", "0.5")
    reset(hosts, "shown", "images-day", "3")
    facts = {"by": f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}", "team": "shown"}
    wait_until(lambda: hosts.logged("quota reset", **facts))
    assert hosts.logged("quota grant", **facts, reason="trade fair", before=1.5, after=2.0, difference=0.5)
    assert len(hosts.logged("quota grant", team="shown")) == 1
    changes = hosts.told("quota", "show", "--team", "shown")["changes"]
    assert [(c["act"], c["before"], c["after"], c["reason"]) for c in changes] == [
        ("reset", 0, 3, "gone wild"),
        ("grant", 1.5, 2.0, "trade fair"),
    ]
    assert {c["by"] for c in changes} == {facts["by"]}
    # What is told is whole: here the store is asked again, and has nothing new.
    assert hosts.told("quota", "show", "--team", "warned")["rules"][0]["team"] == "warned"
    assert len(hosts.logged("quota reset", team="shown")) == 1


# The state of every rule


def test_show_has_every_rule_as_it_stands(hosts: Hosts) -> None:
    """Limits with grants of the config and by command, use, thresholds; all teams and the organization."""
    grant(hosts, "shown", "images-day", "1", until="2034-05-01")
    reset(hosts, "shown", "images-day", "4")
    rules = {(rule["team"], rule["rule"]): rule for rule in hosts.told("quota", "show")["rules"]}
    assert {team for team, _ in rules} == {*TEAMS, "design", "research", "organization"}
    day = rules["shown", "images-day"]
    numbers = [day[name] for name in ("unit", "per", "mode", "limit", "used", "remaining")]
    assert numbers == ["images", "day", "enforce", 8, 4, 4]
    assert day["warnings"] == [{"threshold": "50%", "passed": True}]
    assert [(g["add"], g["until"][:19], g["by"] == "config") for g in day["grants"]] == [
        (3, "2034-02-01T00:00:00", True),
        (1, "2034-05-02T00:00:00", False),
    ]
    assert datetime.fromisoformat(day["resets_at"]) > datetime.now(UTC)
    assert rules["shown", "usd-total"]["resets_at"] is None
    assert rules["corrected", "concurrent"]["per"] is None


def test_show_is_lines_with_tabs_in_a_pipe(hosts: Hosts) -> None:
    """Each rule is a line of ten fields, below their names; grants and changes follow, each behind an empty line."""
    result = hosts.command("quota", "show", "--team", "rich")
    assert result.exit_code == 0
    groups = [[line.split("\t") for line in group.splitlines()] for group in result.stdout.strip().split("\n\n")]
    assert [len(group[0]) for group in groups] in ([10], [10, 6, 8])
    assert [line[:5] for line in groups[0]] == [
        ["team", "rule", "unit", "per", "mode"],
        ["rich", "usd-month", "usd", "month", "enforce"],
    ]


# What cannot be done


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["grant", "--team", "desing", "--rule", "images-day", "--add", "1", "--until", LATER],
            "did you mean 'design'?",
        ),
        (
            ["grant", "--team", "lent", "--rule", "images-dya", "--add", "1", "--until", LATER],
            "did you mean 'images-day'?",
        ),
        (["grant", "--team", "lent", "--rule", "images-day", "--add", "1.5", "--until", LATER], "whole number"),
        (["grant", "--team", "lent", "--rule", "images-day", "--add", "0", "--until", LATER], "more than 0"),
        (["grant", "--team", "lent", "--rule", "images-day", "--add", "-3", "--until", LATER], "whole number"),
        (["grant", "--team", "rich", "--rule", "usd-month", "--add", "$5", "--until", LATER], "write 5"),
        (["grant", "--team", "lent", "--rule", "images-day", "--add", "1", "--until", "soon"], "a date like"),
        (["grant", "--team", "lent", "--rule", "images-day", "--add", "1", "--until", "2020-01-01"], "is over"),
        (["reset", "--team", "lent", "--rule", "images-day", "--to", "-1"], "0 is taken"),
        (["reset", "--team", "corrected", "--rule", "concurrent", "--to", "0"], "comes free with its request"),
        (["show", "--team", "nobody"], "unknown team nobody"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(hosts: Hosts, words: list[str], complaint: str) -> None:
    """Names, numbers and dates that are wrong change nothing, end with 2 and say what was expected."""
    reason = [] if words[0] == "show" else ["--reason", "x"]
    result = hosts.command("quota", *words, *reason)
    assert result.exit_code == 2
    assert complaint in " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 201])
def test_a_reason_is_one_line(hosts: Hosts, reason: str) -> None:
    """Whoever reads the changes finds a reason there, and nothing that a terminal would obey."""
    words = ["quota", "reset", "--team", "lent", "--rule", "images-day", "--to", "0", "--reason", reason]
    assert hosts.command(*words).exit_code == 2


def test_a_store_that_is_away_is_said_to_be(hosts: Hosts) -> None:
    """A command ends with 1 and names the kind of trouble, not the URL, which may hold a password."""
    result = CliRunner(env={"TEST_STORE_URL": "redis://:hunter2@127.0.0.1:1"}).invoke(
        app, ["quota", "show", "-c", str(hosts.first.folder / "config.yaml")]
    )
    assert result.exit_code == 1
    assert "The store (kind redis) cannot be reached: " in result.stderr
    assert "hunter2" not in result.output
    unset = CliRunner().invoke(app, ["quota", "show", "-c", str(hosts.first.folder / "config.yaml")])
    assert (unset.exit_code, "TEST_STORE_URL is not set" in unset.stderr) == (1, True)


def test_a_store_whose_user_may_too_little_is_not_called_away(hosts: Hosts) -> None:
    """A command says that a right is lacking where its user may not call what it needs."""
    with server(VALKEY) as store:
        with redis.Redis.from_url(store.url) as client:
            client.execute_command("ACL", "SETUSER", "weak", "on", ">hunter2", "~*", "+@all", "-evalsha", "-eval")
        url = store.url.replace("redis://", "redis://weak:hunter2@")
        result = CliRunner(env={"TEST_STORE_URL": url}).invoke(
            app, ["quota", "show", "-c", str(hosts.first.folder / "config.yaml")]
        )
    assert result.exit_code == 1
    assert "The store (kind redis) refuses its user a command that is needed: " in result.stderr
    assert "hunter2" not in result.output


def test_the_embedded_store_is_found_while_its_gateway_runs() -> None:
    """From another session's runtime directory too; once the gateway has left, the command says where to call it."""
    with running_simulator() as simulator:
        config = base_config(upstream=simulator.base_url)
        with running_gateway(config=config, environ={"XDG_RUNTIME_DIR": ""}) as gateway, TemporaryDirectory() as other:
            words = ["quota", "show", "-c", str(gateway.folder / "config.yaml")]
            shown = CliRunner(env={"XDG_RUNTIME_DIR": other}).invoke(app, words)
            assert (shown.exit_code, shown.stdout.splitlines()[1].split("\t")[:2]) == (0, ["design", "images-day"])
            gateway.stop()
            gone = CliRunner().invoke(app, words)
            assert gone.exit_code == 1
            assert "does not run here: it runs while its gateway does" in gone.stderr
