"""`gateway simulate`: the 3xCoder simulator alone, on a loopback port, till it is told to stop."""

import asyncio
import signal
from typing import Annotated

import typer

_HINTS = """\
3xCoder simulator at {base_url} (key {api_key}); Ctrl-C ends it.

  curl {base_url}/images/generations -H 'Authorization: Bearer {api_key}' \\
    -H 'Content-Type: application/json' -d '{{"prompt": "a lighthouse at dusk"}}'

Let the next request fail, and see what was asked and made:
  curl {origin}/_simulator/script -d '[{{"status": 429, "headers": {{"retry-after": "7"}}}}]'
  curl {origin}/_simulator/script -d '[{{"endpoint": "edits", "fault": "drop", "times": 2}}]'
  curl {origin}/_simulator/record
  curl -X DELETE {origin}/_simulator/record"""


def simulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8090,
    api_key: Annotated[
        str, typer.Option(envvar="GATEWAY_SIMULATOR_KEY", help="The key it accepts.", show_envvar=True)
    ] = "sk-simulator",
    latency: Annotated[float, typer.Option(min=0.0, help="Seconds before each answer.")] = 0.0,
) -> None:
    """Run the 3xCoder simulator: validates as the API document says, answers real PNGs, fails on request.

    Example: gateway simulate --port 8090 --latency 2.5
    """
    try:
        asyncio.run(_serve(port, api_key, latency))
    except ImportError as exc:
        typer.echo(f"The simulator draws with Pillow: pip install 'image-gateway[demo]' ({exc})", err=True)
        raise typer.Exit(1) from exc
    except OSError as exc:
        typer.echo(f"Cannot listen on 127.0.0.1:{port}: {exc.strerror or exc}", err=True)
        raise typer.Exit(1) from exc


async def _serve(port: int, api_key: str, latency: float) -> None:
    # Pillow is an extra, and costs start-up time that no other command should pay.
    from gateway.simulator.server import Simulator

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    simulator = Simulator(api_keys=[api_key], latency=latency, port=port)
    await simulator.start()
    try:
        typer.echo(_HINTS.format(base_url=simulator.base_url, origin=simulator.origin, api_key=api_key))
        await stop.wait()
    finally:
        await simulator.close()
