"""Who may look at the admin port's figures: anyone who reaches it, or who has the token if the config names one."""

import hmac

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.core.catalog import Settings


def refuse(request: Request, settings: Settings) -> Response | None:
    """The answer to somebody without the token; None lets the request through."""
    token = settings.listen.admin_token
    if token is None:
        return None
    given = request.headers.get("authorization", "").encode()
    if hmac.compare_digest(given, f"Bearer {token.reveal()}".encode()):
        return None
    return PlainTextResponse("A Bearer token is needed.\n", 401, headers={"www-authenticate": "Bearer"})
