"""Whether requests are traced: where the environment names a collector and the extra `otel` is installed."""

import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Protocol, cast

from gateway import logs
from gateway.exchange import Exchange


class Traces(Protocol):
    """One worker's."""

    def note(self, exchange: Exchange) -> None:
        """A request has ended."""

    async def close(self) -> None:
        """Send what is left, within seconds."""


class Untraced:
    """Nobody asks for traces: nothing is imported, nothing done."""

    def note(self, exchange: Exchange) -> None:
        pass

    async def close(self) -> None:
        pass


def begun(environ: Mapping[str, str]) -> Traces:
    """As the standard variables of the environment say (opentelemetry.io, "OTLP Exporter Configuration")."""
    named = any(environ.get(f"OTEL_EXPORTER_OTLP_{what}ENDPOINT") for what in ("", "TRACES_"))
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not named or disabled or environ.get("OTEL_TRACES_EXPORTER", "").lower() == "none":
        return Untraced()
    try:
        return cast("Traces", import_module("gateway.otel").Traces())
    except ImportError:
        logs.line("no traces are sent: pip install 'image-gateway[otel]' has what that takes", logging.WARNING)
    except ValueError as error:  # of the library's own variables; orders need no traces
        logs.line("no traces are sent: the environment is not understood", logging.WARNING, error=str(error))
    return Untraced()
