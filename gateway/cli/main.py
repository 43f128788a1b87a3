"""The `gateway` command. Each command group has a file of its own, imported when it is called."""

import io
import sys
from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import check, demo, diff, doctor, explain, init, keys, quota, schema, serve, simulate, usage, why
from gateway.cli.options import ConfigOption

app = typer.Typer(
    name="gateway",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold secrets
)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("init")(init.init)
app.command("check")(check.check)
app.command("diff")(diff.diff)
app.command("schema")(schema.schema)
app.command("doctor")(doctor.doctor)
app.command("explain")(explain.explain)
app.command("usage")(usage.usage)
app.command("why")(why.why)
app.add_typer(keys.app, name="keys")
app.add_typer(quota.app, name="quota")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gateway {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """A company's own door to the 3xCoder image API: a key per team, quotas that hold, usage you can see.

    Example: gateway demo --once
    """
    del version, config


def main() -> None:
    if sys.stdin is None:  # closed by who started this: there is nothing to read
        sys.stdin = io.StringIO()
    app()
