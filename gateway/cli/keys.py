"""`gateway keys`: makes keys, lists them, hashes secrets that a company already has. Only hashes go into the config."""

import json
import secrets
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from getpass import getpass
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gateway.cli.options import ConfigOption, JsonOption, config_path, loaded
from gateway.core import keys

if TYPE_CHECKING:
    from gateway.config.document import Document

#: Seconds by which a day may end later somewhere on earth than in UTC.
_FURTHEST_ZONE = 12 * 3600

EXPIRES_SOON = timedelta(days=14)  #: as long as answers carry x-gateway-key-expires

_STYLES = {"active": "green", "expiring": "yellow", "expired": "red", "placeholder": "dim"}

app = typer.Typer(no_args_is_help=True, help="Make, list and hash the teams' keys.")


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A line of the list. expires: as the config writes it; expires_at: that moment, RFC 3339 in UTC, exclusive."""

    team: str
    id: str
    expires: str | None
    expires_at: str | None
    state: str


@app.command("new")
def new(
    team: Annotated[str, typer.Option(metavar="T", help="The team's id.", show_default=False)],
    key_id: Annotated[str, typer.Option("--id", metavar="ID", help="Names the key in metrics.", show_default=False)],
    expires: Annotated[
        str | None,
        typer.Option(metavar="D", help="Last day in the team's zone, or an RFC 3339 time.", show_default=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Make a key: prints the secret, this once, and under it the entry for the team's `keys:` in the config.

    With a config, the team must be in it, and its keys must not have the id yet.

    Example: gateway keys new --team design --id ci --expires 2030-06-30
    """
    # pydantic behind it takes longer to load than `keys hash` to run.
    from gateway.config.values import end_of, identifier, moment

    for option, value, read in (
        ("--team", team, identifier),
        ("--id", key_id, identifier),
        ("--expires", expires, moment),
    ):
        try:
            if value is not None:
                read(value)
        except ValueError as exc:
            raise typer.BadParameter(str(exc), param_hint=option) from exc
    if expires is not None and end_of(moment(expires), "UTC") + _FURTHEST_ZONE < time.time():
        raise typer.BadParameter(f"{expires} is over: the key would never work", param_hint="--expires")
    if config is not None:
        _check_place(loaded(config), team, key_id)
    secret = keys.make(secrets.token_bytes(keys.RANDOM_BYTES))
    # The words go to the terminal, the two lines that count to whoever reads the pipe.
    typer.secho(f"A key for team {team}. It is shown this once and kept nowhere:", bold=True, err=True)
    typer.echo(secret)
    typer.secho(f"\nInto the config, under teams: {team}: keys:", bold=True, err=True)
    typer.echo(entry(key_id, secret, expires))


@app.command("list")
def list_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all keys of the config with their expiry and state: active, expiring (in 14 days), expired, placeholder.

    Example: gateway keys list -c config.yaml --json
    """
    listed = listing(loaded(config_path(config)), now=time.time())
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in listed], indent=2))
    elif sys.stdout.isatty():
        _print_table(listed)
    else:
        for key in listed:
            typer.echo("\t".join((key.team, key.id, key.expires or "never", key.state)))


@app.command("hash")
def hash_secret() -> None:
    """Print the SHA-256, for the config, of a secret on standard input: 32 to 512 visible ASCII characters.

    Example: gateway keys hash < secret.txt
    """
    if sys.stdin.isatty():
        data = getpass("Secret (not shown): ").encode()
    else:
        data = typer.get_binary_stream("stdin").read(keys.MAX_SECRET_LENGTH + len("\r\n") + 1)
    # The closing newline is the editor's or echo's; a second one would be part of the secret, and is refused below.
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if len(data) < keys.MIN_SECRET_LENGTH:
        _fail(f"the secret has {len(data)} characters; {keys.MIN_SECRET_LENGTH} at least, or it may be guessed")
    if len(data) > keys.MAX_SECRET_LENGTH:
        _fail(f"the secret has more than {keys.MAX_SECRET_LENGTH} characters")
    if not all(0x21 <= byte <= 0x7E for byte in data):  # what a header carries of a Bearer credential
        _fail("the secret holds blanks or characters outside ASCII, which no header carries")
    secret = data.decode("ascii")
    if secret.startswith(keys.PREFIX) and not keys.looks_like_key(secret):
        _fail(f"the secret begins with {keys.PREFIX}, but its checksum is wrong: it was cut or mistyped")
    typer.echo(keys.digest(secret).hex())


def _check_place(document: "Document", team: str, key_id: str) -> None:
    """Fails where the config has no such team, or the team such a key already."""
    teams = document.config.teams
    if team not in teams:
        near = get_close_matches(team, teams, n=1)
        _fail(f"there is no team {team} in {document.path}" + (f"; did you mean {near[0]}?" if near else ""))
    if any(key.id == key_id for key in teams[team].keys):
        _fail(f"team {team} has a key {key_id} already; take another id")


def entry(key_id: str, secret: str, expires: str | None) -> str:
    """The key's line in the config. The id is quoted: an id like 12 or null would be no text in YAML."""
    ending = f', expires: "{expires}"' if expires else ""
    return f'- {{id: "{key_id}", sha256: "{keys.digest(secret).hex()}"{ending}}}'


def listing(document: "Document", *, now: float) -> list[ListedKey]:
    """All keys of a config with their state at `now` (unix seconds), in the order of the file."""
    from gateway.config.compile import PLACEHOLDER
    from gateway.config.values import end_of

    listed = []
    for team, section in document.config.teams.items():
        for key in section.keys:
            end = None if key.expires is None else end_of(key.expires, section.timezone or document.config.timezone)
            state = "placeholder" if key.sha256 == PLACEHOLDER else state_of(end, now=now)
            listed.append(ListedKey(team, key.id, _iso(key.expires), _utc(end), state))
    return listed


def state_of(end: float | None, *, now: float) -> str:
    """Whether a key that works until `end` (unix seconds, exclusive; None for ever) is good at `now`."""
    if end is None or end - now > EXPIRES_SOON.total_seconds():
        return "active"
    return "expiring" if now < end else "expired"


def _iso(moment: date | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _utc(end: float | None) -> str | None:
    return None if end is None else datetime.fromtimestamp(end, UTC).isoformat().replace("+00:00", "Z")


def _print_table(listed: list[ListedKey]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("team", "id", "expires", "state", box=None, header_style="bold")
    for key in listed:
        table.add_row(key.team, key.id, key.expires or "never", f"[{_STYLES[key.state]}]{key.state}[/]")
    Console().print(table)


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)
