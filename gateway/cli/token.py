"""`gateway keys token`: a JWT for a team, for tests and for small installations without an identity provider."""

import os
import secrets
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from gateway.cli.options import ConfigOption, check_known, config_path, loaded, span


def token(
    *,
    team: Annotated[str, typer.Option(metavar="T", help="The team's id.", show_default=False)],
    issuer: Annotated[str, typer.Option(metavar="NAME", help="Of the config's jwt_issuers.", show_default=False)],
    expires: Annotated[str, typer.Option(metavar="D", help="How long it is good: 30m, 12h; a day at most.")] = "1h",
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The private key in PEM, where the issuer has no `secret`.", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Mint a JWT for a team, signed with the issuer's secret or with a private key from a file.

    It is printed and kept nowhere. Beside it, on standard error, stands the jti by which it may be revoked.

    Example: gateway keys token --team design --issuer corp --expires 30m
    """
    from gateway.config.compile import compile_issuer
    from gateway.config.problems import ConfigErrors
    from gateway.tokens import LIFETIME, mint

    lifetime = span(expires, "--expires")
    if lifetime > LIFETIME:
        raise typer.BadParameter("the gateway takes no token that is good for more than a day", param_hint="--expires")
    document = loaded(config_path(config))
    check_known("--team", team, document.config.teams)
    check_known("--issuer", issuer, document.config.jwt_issuers)
    has_secret = document.config.jwt_issuers[issuer].secret is not None
    if has_secret is (key is not None):
        lacking = "signs with its secret" if has_secret else "has no secret here: give its private key"
        raise typer.BadParameter(f"issuer {issuer} {lacking}", param_hint="--key")
    try:
        found = compile_issuer(document, issuer, os.environ)
    except ConfigErrors as error:
        _fail(str(error))
    try:
        signing = found.secret.reveal() if found.secret is not None else Path(str(key)).read_text("utf-8")
        algorithm, now, jti = found.algorithms[0], int(time.time()), secrets.token_hex(8)
        made = mint(found, team, signing, algorithm=algorithm, jti=jti, now=now, lifetime=lifetime)
    except OSError as error:
        _fail(f"{key}: {error.strerror}")
    except ValueError as error:
        _fail(str(error))
    typer.echo(made)
    typer.echo(f'To revoke it: revoked_tokens: ["{jti}"] in jwt_issuers.{issuer}', err=True)


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)
