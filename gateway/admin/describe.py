"""``GET /openapi.json``: the public port's description. It asks for no key: tools fetch it without one."""

import json

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway import exchange as exchanges
from gateway.core import openapi
from gateway.core.catalog import Settings


class Describe:
    """An ASGI application. Written anew only when the config has changed."""

    def __init__(self) -> None:
        self._last: tuple[Settings, bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = exchanges.of(scope).settings
        if self._last is None or self._last[0] is not settings:
            self._last = (settings, json.dumps(openapi.description(settings, version=__version__)).encode())
        await Response(self._last[1], media_type="application/json")(scope, receive, send)
