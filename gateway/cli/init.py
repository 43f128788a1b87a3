"""`gateway init`: asks what a first configuration needs, and writes one that runs."""

import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

from gateway.cli.options import ConfigOption, config_path
from gateway.core import keys

T = TypeVar("T")

FIRST_KEY = "first"

_FILE = """\
# The image gateway's configuration. A saved change takes effect within 2 s, all of it or nothing; `gateway check` says
# beforehand whether it is right. Every key there is, with its reason: config.example.yaml. `gateway schema` prints
# what an editor needs to complete and check this file.

timezone: {zone}   # for the organization's rules and teams that name none: when a day begins
contact: {contact}   # ends every refusal: "Ask ..."

listen:
  public: 0.0.0.0:8080      # for the teams
  admin: 127.0.0.1:9464     # metrics, health, dashboard: for this host alone

upstream:                   # 3xCoder
  accounts:
    - {{name: main, api_key: {api_key}}}   # where the key is, never the key itself

store:                      # where the counters live
{store}

models:
  dall-e-3:
    price_usd:              # US dollars an image: compare them with your contract
      standard: {{1024x1024: 0.040, 1792x1024: 0.080, 1024x1792: 0.080}}
      hd:       {{1024x1024: 0.080, 1792x1024: 0.120, 1024x1792: 0.120}}

teams:
  {team}:
    keys:                   # hashes; `gateway keys new --team {team} --id ... --write` adds one
      - {{id: {key_id}, sha256: "{digest}"}}
    quotas:
      - {{images: {images}, per: day}}
      # - {{usd: 40, per: month, warn_at: [80%]}}
      # - {{requests: 10, per: minute}}

# organization:             # over all teams together
#   quotas: [{{usd: 420, per: month}}]
"""

_EMBEDDED = "  kind: embedded            # on this host alone; for several hosts: kind: redis, url: env:REDIS_URL"
_BY_URL = "  kind: redis               # one Redis or Valkey for all hosts\n  url: {url}"


def init(
    *,
    team: Annotated[str | None, typer.Option(metavar="T", help="The first team's id. Default: design")] = None,
    images: Annotated[str | None, typer.Option(metavar="N", help="Its images a day. Default: 100")] = None,
    zone: Annotated[str | None, typer.Option("--timezone", metavar="Z", help="Whose days. Default: UTC")] = None,
    contact: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Whom people ask who were refused. Default: the gateway's operators"),
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="WHERE", help="embedded, or where its URL is: env:NAME. Default: embedded")
    ] = None,
    upstream_key: Annotated[
        str | None, typer.Option(metavar="WHERE", help="Where 3xCoder's key is. Default: env:THREEXCODER_API_KEY")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write a first configuration with a team and a key for it, which is printed this once.

    What no option says is asked for: one line for each question, from the keyboard or a pipe. An empty line takes the
    default, and so does the end of a pipe: with < /dev/null all are taken. A file that is there stays.

    Example: gateway init -c first.yaml --team design --contact image-gateway@example.com
    """
    from gateway.config import values
    from gateway.config.file import parse
    from gateway.config.quantities import Number, count

    path = config_path(config)
    if path.exists() and not force:
        _fail(f"{path} is there already, and stays as it is; --force writes over it")
    team = _answer("--team", team, "The first team's id (a-z, 0-9, -)", "design", values.identifier)
    number = _answer("--images", images, "Images it may make in a day", "100", lambda text: count(Number(text)))
    zone = _answer("--timezone", zone, "Time zone in which its days begin", "UTC", values.zone)
    contact = _answer("--contact", contact, "Whom people ask who were refused", "the gateway's operators", _contact)
    place = _answer("--store", store, "Where counters live: embedded, or where a URL is", "embedded", _store)
    where = _answer("--upstream-key", upstream_key, "Where 3xCoder's key is", "env:THREEXCODER_API_KEY", _reference)
    secret = keys.make(secrets.token_bytes(keys.RANDOM_BYTES))
    text = _FILE.format(
        zone=zone,
        contact=json.dumps(contact, ensure_ascii=False),
        api_key=json.dumps(where),
        store=_EMBEDDED if place == "embedded" else _BY_URL.format(url=json.dumps(place)),
        team=json.dumps(team),
        key_id=FIRST_KEY,
        digest=keys.digest(secret).hex(),
        images=number,
    ).replace(f"--team {json.dumps(team)}", f"--team {team}")
    parse(text.encode(), path)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        _fail(f"{path}: {error.strerror}")
    _tell(path, team, secret, [ref for ref in (where, place) if ref.startswith("env:")])


def _answer(option: str, given: str | None, question: str, default: str, read: Callable[[str], T]) -> T:
    """The option's value or the answer to a question, which on a terminal is asked again until it can be used."""
    while True:
        text = _asked(question, default) if given is None else given
        try:
            return read(text)
        except ValueError as error:
            if given is not None or not sys.stdin.isatty():
                raise typer.BadParameter(str(error), param_hint=option) from error
            typer.echo(f"{error}", err=True)


def _asked(question: str, default: str) -> str:
    """One line of standard input. typer's own prompt would leave blanks on standard output, where the key goes."""
    typed = sys.stdin.isatty()
    typer.echo(f"{question} [{default}]: ", nl=False, err=True)
    line = sys.stdin.readline()
    if not typed:
        typer.echo(err=True)  # as the keyboard's own newline would
    elif not line:
        raise typer.Abort
    return line.strip() or default


def _contact(text: str) -> str:
    from gateway.config.values import line

    if not text.strip():
        raise ValueError("expected a name or an address")
    return line(text.strip())


def _store(text: str) -> str:
    if text == "embedded":
        return text
    if "://" in text:
        raise ValueError("a URL may hold a password, so it stands elsewhere: say where, as env:REDIS_URL")
    return _reference(text)


def _reference(text: str) -> str:
    from gateway.config.values import secret_ref

    secret_ref(text)
    return text


def _tell(path: Path, team: str, secret: str, references: list[str]) -> None:
    """The key alone goes to standard output."""
    typer.secho(f"A key for team {team}. It is shown this once and kept nowhere:", bold=True, err=True)
    typer.echo(secret)
    exports = "".join(f"  export {ref.removeprefix('env:')}=...\n" for ref in references)
    option = "" if path == config_path(None) else f" -c {path}"
    typer.secho(f"\nWritten: {path}. What comes next:", bold=True, err=True)
    typer.echo(
        f"{exports}  gateway check {path}\n  gateway serve{option}\n"
        "  curl -sS http://127.0.0.1:8080/v1/images/generations -H 'Authorization: Bearer KEY' \\\n"
        "    -H 'Content-Type: application/json' -d '{\"prompt\": \"A lighthouse at dusk\"}'\n"
        f"More keys: gateway keys new{option} --team {team} --id NAME --write",
        err=True,
    )


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)
