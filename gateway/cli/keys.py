"""`gateway keys`: makes keys, changes them for new ones, lists them, hashes secrets that a company already has.

Only hashes go into the config.
"""

import json
import re
import secrets
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from getpass import getpass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gateway.cli import store
from gateway.cli.options import ConfigOption, JsonOption, before_commands, check_known, config_path, loaded, span
from gateway.cli.token import token
from gateway.core import keys

if TYPE_CHECKING:
    from gateway.config.document import Document

#: Seconds by which a day may end later somewhere on earth than in UTC.
_FURTHEST_ZONE = 12 * 3600

EXPIRES_SOON = timedelta(days=14)  #: as long as answers carry x-gateway-key-expires

_COLUMNS = ("team", "id", "expires", "state", "last used")
_STYLES = {"active": "green", "expiring": "yellow", "expired": "red", "placeholder": "dim"}

app = typer.Typer(
    no_args_is_help=True,
    callback=before_commands,
    help="Make, change, list and hash the teams' keys.\n\nExample: gateway keys new --team design --id laptop",
)
app.command("token")(token)


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A line of the list. expires: as the config writes it; expires_at: that moment, RFC 3339 in UTC, exclusive.

    last_used: RFC 3339 in UTC; None where it was not used in 400 days, or the store could not be asked.
    """

    team: str
    id: str
    expires: str | None
    expires_at: str | None
    state: str
    last_used: str | None = None


@app.command("new")
def new(
    *,
    team: Annotated[str, typer.Option(metavar="T", help="The team's id.", show_default=False)],
    key_id: Annotated[str, typer.Option("--id", metavar="ID", help="Names the key in metrics.", show_default=False)],
    expires: Annotated[
        str | None,
        typer.Option(metavar="D", help="Last day in the team's zone, or an RFC 3339 time.", show_default=False),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put the entry into the config, which else stays as it is.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key: prints the secret, this once, and under it the entry for the team's `keys:` in the config.

    With a config, the team must be in it, and its keys must not have the id yet. With --write the entry is put there,
    all else in the file stays as it is written, and the gateway takes the key within 2 s.

    Example: gateway keys new --team design --id laptop --expires 2030-06-30 --write
    """
    _check_words(team, key_id, expires)
    secret = keys.make(secrets.token_bytes(keys.RANDOM_BYTES))
    facts, written = _facts(key_id, secret, expires), None
    path = config_path(config)
    if config is not None or write or path.exists():
        document = loaded(path)
        _check_place(document, team, key_id)
        if write:
            _write(document, team, facts, {})
            written = document.path
    if as_json:
        _print_json(team, secret, facts, written)
    elif written is not None:
        _show(team, secret, f"Written into {written}.", None)
    else:
        _show(team, secret, f"Into the config, under teams: {team}: keys:", entry(facts))


@app.command("rotate")
def rotate(
    *,
    team: Annotated[str, typer.Option(metavar="T", help="The team's id.", show_default=False)],
    key_id: Annotated[str, typer.Option("--id", metavar="ID", help="The key that is to go.", show_default=False)],
    overlap: Annotated[str, typer.Option(metavar="D", help="How long both work: 30m, 12h, 7d.")] = "7d",
    expires: Annotated[
        str | None, typer.Option(metavar="D", help="When the new key ends, as for `new`.", show_default=False)
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put both into the config, which else stays as it is.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new key beside an old one, which then ends after the overlap: its users change over meanwhile.

    The new one is named after the old: ci, ci-2, ci-3. The secret is printed this once. An old key that ends before
    the overlap does keeps its end.

    Example: gateway keys rotate --team design --id ci --overlap 7d
    """
    _check_words(team, key_id, expires)
    document = loaded(config_path(config))
    end = datetime.fromtimestamp(int(time.time()) + span(overlap, "--overlap"), UTC)
    check_known("--team", team, document.config.teams)
    listed = [key for key in listing(document, now=time.time()) if key.team == team]
    old = next((key for key in listed if key.id == key_id), None)
    if old is None:
        has = ", ".join(key.id for key in listed) or "none"
        raise typer.BadParameter(f"team {team} has no key {key_id}; it has: {has}", param_hint="--id")
    if old.state == "expired":
        _fail(f"key {key_id} of team {team} has ended already: make another with `gateway keys new`")
    stays = old.expires_at is not None and datetime.fromisoformat(old.expires_at) <= end
    moment = f"{end:%Y-%m-%dT%H:%M:%SZ}"
    new_id = _next_id(key_id, {key.id for key in listed})
    secret = keys.make(secrets.token_bytes(keys.RANDOM_BYTES))
    facts, ends = _facts(new_id, secret, expires), {} if stays else {key_id: moment}
    if write:
        _write(document, team, facts, ends)
    if as_json:
        _print_json(team, secret, facts, document.path if write else None, ends=ends)
    elif write:
        words = f"Written into {document.path} as {new_id}; {key_id} works until {old.expires if stays else moment}."
        _show(team, secret, words, None)
    else:
        also = "," if stays else f': expires: "{moment}" with key {key_id}, and'
        _show(team, secret, f"Into the config{also} under teams: {team}: keys:", entry(facts))


@app.command("list")
def list_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all keys of the config with their expiry and state: active, expiring (in 14 days), expired, placeholder.

    The last use is asked of the store, which is told once a minute. Without the store the rest is listed.

    Example: gateway keys list -c config.yaml --json
    """
    document = loaded(config_path(config))
    listed, known = listing(document, now=time.time()), True
    try:
        uses = store.reach(document, lambda ledger: ledger.last_uses())
    except store.Unreachable as error:
        uses, known = {}, False
        typer.echo(f"{error} So it is not known when keys were last used.", err=True)
    listed = [replace(key, last_used=_utc(uses.get(f"{key.team}|{key.id}"))) for key in listed]
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in listed], indent=2))
    elif sys.stdout.isatty():
        _print_table(listed, known=known)
    else:
        typer.echo("\t".join(_COLUMNS))
        for key in listed:
            typer.echo("\t".join((key.team, key.id, key.expires or "never", key.state, _use(key, known=known))))


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


def _check_words(team: str, key_id: str, expires: str | None) -> None:
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


def _check_place(document: "Document", team: str, key_id: str) -> None:
    """Fails where the config has no such team, or the team such a key already."""
    check_known("--team", team, document.config.teams)
    if any(key.id == key_id for key in document.config.teams[team].keys):
        _fail(f"team {team} has a key {key_id} already; take another id")


def _next_id(key_id: str, taken: set[str]) -> str:
    """``ci``, ``ci-2``, ``ci-3``: the first that is free."""
    from gateway.config.values import identifier

    stem = re.sub(r"-[0-9]{1,4}$", "", key_id)
    found = next(name for number in count(2) if (name := f"{stem}-{number}") not in taken)
    try:
        return identifier(found)
    except ValueError:
        _fail(f"{found} would be too long for an id: make the key with `gateway keys new`")


def _facts(key_id: str, secret: str, expires: str | None) -> dict[str, str]:
    ending = {"expires": expires} if expires else {}
    return {"id": key_id, "sha256": keys.digest(secret).hex(), **ending}


def _write(document: "Document", team: str, facts: dict[str, str], ends: dict[str, str]) -> None:
    """Into the file that the document was read from, if it still says the same."""
    from gateway.config.edit import NotEditable, replace_file, with_key

    try:
        data = document.path.read_bytes()
        replace_file(document.path, data, with_key(document, data, team, facts, ends))
    except NotEditable as error:
        _fail(f"nothing was written: {error}")
    except OSError as error:
        _fail(f"nothing was written: {document.path}: {error.strerror}")


def _show(team: str, secret: str, words: str, line: str | None) -> None:
    """The words go to the terminal, the lines that count to whoever reads the pipe."""
    typer.secho(f"A key for team {team}. It is shown this once and kept nowhere:", bold=True, err=True)
    typer.echo(secret)
    typer.secho(f"\n{words}", bold=True, err=True)
    if line is not None:
        typer.echo(line)


def _print_json(team: str, secret: str, facts: dict[str, str], written: Path | None, **more: object) -> None:
    """written: the file that has the entry now; None where it is still to be put into one."""
    told = {
        "team": team,
        "id": facts["id"],
        "key": secret,
        "sha256": facts["sha256"],
        "expires": facts.get("expires"),
        "entry": entry(facts),
        "written": None if written is None else str(written),
    }
    typer.echo(json.dumps(told | more, indent=2))


def entry(facts: dict[str, str]) -> str:
    """The key's line in the config. The id is quoted: an id like 12 or null would be no text in YAML."""
    return "- {" + ", ".join(f'{name}: "{value}"' for name, value in facts.items()) + "}"


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


def _use(key: ListedKey, *, known: bool) -> str:
    return key.last_used or ("never" if known else "?")


def _print_table(listed: list[ListedKey], *, known: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*_COLUMNS, box=None, header_style="bold")
    for key in listed:
        table.add_row(
            key.team, key.id, key.expires or "never", f"[{_STYLES[key.state]}]{key.state}[/]", _use(key, known=known)
        )
    Console().print(table)


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)
