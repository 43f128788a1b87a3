"""`gateway demo`: the whole gateway on this machine, with a simulator for an upstream. No account, no network."""

import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.demo import Demo


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Make one image and one edit, save them, say what they cost, and end.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The gateway's port. With --once a free one is taken.")
    ] = 8080,
) -> None:
    """Start a 3xCoder simulator, a store and the gateway with two teams, and print all that is needed to try it.

    Example: gateway demo --once
    """
    from gateway.demo import Demo, DemoError

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended either way, it clears up
    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as folder:
        try:
            with Demo(Path(folder), port=0 if once else port) as running:
                if once:
                    _once(running)
                else:
                    _until_ended(running)
        except DemoError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from error


def _once(running: "Demo") -> None:
    for made in running.make_both(Path("gateway-demo")):
        typer.echo(f"{made.what}: {made.path} ({made.width}x{made.height}), charged ${made.cost_usd}")
    used = running.usage()["today"]
    typer.echo(f"Team {running.team} has used {used['images']} images, ${used['usd']:.2f}, today.")


def _until_ended(running: "Demo") -> None:
    url, key = running.url, running.key
    typer.echo(
        f"""
The gateway listens on {url}

  key for team {running.team}:    {key}
  key for team {running.other_team}:  {running.other_key}

Generate, with curl:

  curl {url}/v1/images/generations \\
    -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
    -d '{{"prompt": "A lighthouse at dusk", "size": "1024x1024"}}'

Edit, with curl:

  curl {url}/v1/images/edits \\
    -H "Authorization: Bearer {key}" \\
    -F image=@{running.photo} -F prompt="Add a rainbow in the sky"

Both, with Python (pip install openai):

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  print(client.images.generate(model="dall-e-3", prompt="A lighthouse at dusk").data[0].url)
  print(client.images.edit(model="dall-e-3", image=open("{running.photo}", "rb"), prompt="Add a rainbow").data[0].url)

For operators:  {running.admin_url}/  and  {running.admin_url}/metrics
Ctrl-C ends it; nothing is kept."""
    )
    sys.stdout.flush()
    try:
        running.wait()
    except KeyboardInterrupt:
        typer.echo("\nEnding.")
