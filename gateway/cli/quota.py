"""`gateway quota`: how rules stand, a temporary extra, a correction. Changes are kept with who made them and why."""

import json
import os
import pwd
import secrets
import socket
import time
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import store
from gateway.cli.options import ConfigOption, JsonOption, before_commands, check_known, config_path, loaded
from gateway.cli.standing import Standing, json_of, print_tables, zone_of

if TYPE_CHECKING:
    from gateway.config.document import Document
    from gateway.core.catalog import Settings
    from gateway.core.quota import Rule
    from gateway.ledger.administration import Change
    from gateway.ledger.redis import RedisLedger

LATEST = 30 * 86_400  #: seconds for which `show` lists changes; the store keeps them for 400 days
LONGEST_REASON = 200  #: characters

TeamOption = Annotated[
    str, typer.Option("--team", metavar="T", help="The team's id, or organization.", show_default=False)
]
RuleOption = Annotated[
    str,
    typer.Option("--rule", metavar="R", help="The rule's name, as `gateway quota show` has it.", show_default=False),
]
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with your name.", show_default=False)
]

app = typer.Typer(
    no_args_is_help=True,
    callback=before_commands,
    help="How quotas stand; grants and corrections, which are kept with who and why.\n\n"
    "Example: gateway quota show --team design",
)


@app.command("show")
def show(
    team: Annotated[
        str | None,
        typer.Option("--team", metavar="T", help="Only this team's rules, or organization.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every rule as it stands: limit with grants, used, what is left, when it resets, thresholds passed.

    Below it: the grants that run, and what commands changed in the last 30 days.

    Example: gateway quota show --team design
    """
    document = loaded(config_path(config))
    settings = _settings(document)
    scopes = {**{id_: found.rules for id_, found in settings.teams.items()}, "organization": settings.organization}
    if team is not None:
        scopes = {team: _rules_of(settings, team)}
    rules = [rule for found in scopes.values() for rule in found]

    async def work(ledger: "RedisLedger") -> Standing:
        since = time.time() - LATEST
        grants, changes = await ledger.administration(probing=True).recall(rules, since=since)
        return Standing(await ledger.states(rules), grants, [c for c in changes if c.team in scopes], ledger.now())

    standing = store.ask(document, work)
    if as_json:
        typer.echo(json.dumps(json_of(standing, settings), indent=2))
    else:
        print_tables(standing, settings)


@app.command("grant")
def grant(
    *,
    team: TeamOption,
    rule: RuleOption,
    add: Annotated[str, typer.Option("--add", metavar="N", help="Images, requests or dollars.", show_default=False)],
    until: Annotated[
        str,
        typer.Option(
            "--until", metavar="D", help="Last day in the team's zone, or an RFC 3339 time.", show_default=False
        ),
    ],
    reason: ReasonOption,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add to a rule's limit for some time: at once, for all workers and hosts.

    It goes with the rule if that is renamed, and adds to what the config grants.

    Example: gateway quota grant --team design --rule images-day --add 200 --until 2030-01-31 --reason "trade fair"
    """
    from gateway.config.values import end_of, moment

    document = loaded(config_path(config))
    settings = _settings(document)
    found = _rule(settings, team, rule)
    amount = _amount(found, add, "--add")
    if amount == 0:
        raise typer.BadParameter("must be more than 0", param_hint="--add")
    try:
        ends = end_of(moment(until), zone_of(settings, team))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--until") from error
    if ends <= time.time():
        raise typer.BadParameter(f"{until} is over", param_hint="--until")
    reason = _reason(reason)
    id_ = secrets.token_hex(8)
    change = store.ask(
        document,
        lambda ledger: ledger.administration(probing=True).grant(
            id_, found, amount, until=ends, by=_caller(), reason=reason
        ),
    )
    _tell(change, settings, as_json=as_json)


@app.command("reset")
def reset(
    *,
    team: TeamOption,
    rule: RuleOption,
    to: Annotated[
        str, typer.Option("--to", metavar="N", help="What is used from now on: 0 or more.", show_default=False)
    ],
    reason: ReasonOption,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Correct what is used of a rule in its present window: at once, for all workers and hosts.

    What was charged before and comes back later comes out of the new number alone. The usage ledger, which says what
    was made, stays as it is.

    Example: gateway quota reset --team design --rule images-day --to 0 --reason "a script gone wild"
    """
    from gateway.core.quota import Unit

    document = loaded(config_path(config))
    settings = _settings(document)
    found = _rule(settings, team, rule)
    if found.unit is Unit.CONCURRENT:
        message = "requests in flight are what they are: a slot comes free with its request, or in 30 s without one"
        raise typer.BadParameter(message, param_hint="--rule")
    amount, reason, id_ = _amount(found, to, "--to"), _reason(reason), secrets.token_hex(8)
    change = store.ask(
        document,
        lambda ledger: ledger.administration(probing=True).reset(id_, found, amount, by=_caller(), reason=reason),
    )
    _tell(change, settings, as_json=as_json)


def _settings(document: "Document") -> "Settings":
    from gateway.config.compile import compile_settings

    return compile_settings(document, None)


def _rules_of(settings: "Settings", team: str) -> "tuple[Rule, ...]":
    if team == "organization":
        return settings.organization
    check_known("--team", team, settings.teams)
    return settings.teams[team].rules


def _rule(settings: "Settings", team: str, name: str) -> "Rule":
    rules = {rule.name: rule for rule in _rules_of(settings, team)}
    check_known("--rule", name, rules)
    return rules[name]


def _amount(rule: "Rule", text: str, option: str) -> int:
    """In the rule's unit, as the config would write it."""
    from gateway.config.quantities import Number, count, money
    from gateway.core.quota import Unit

    if text == "0":
        return 0
    try:
        return (money if rule.unit is Unit.USD else count)(Number(text))
    except ValueError as error:
        zero = "; 0 is taken as well" if option == "--to" else ""
        raise typer.BadParameter(f"{error}{zero}", param_hint=option) from error


def _reason(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > LONGEST_REASON:
        raise typer.BadParameter(f"expected one line of 1 to {LONGEST_REASON} characters", param_hint="--reason")
    return text.strip()


def _caller() -> str:
    """The user by the kernel's word, not the environment's."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _tell(change: "Change", settings: "Settings", *, as_json: bool) -> None:
    from gateway.core.refusals import local_time, measured
    from gateway.ledger.administration import told

    zone = zone_of(settings, change.team)
    if as_json:
        typer.echo(json.dumps({"act": change.act, **told(change, zone)}, indent=2))
        return
    what = "limit" if change.act == "grant" else "used"
    line = f"Team {change.team}, rule {change.rule}: {what} {measured(change.unit, change.after)}, "
    line += f"before {measured(change.unit, change.before)}"
    typer.echo(line + (f", until {local_time(change.until, zone)}." if change.until is not None else "."))
