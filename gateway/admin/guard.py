"""Who may look at the admin port's figures: anyone who reaches it, or who has the token if the config names one."""

import base64
import binascii
import hmac

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.core.catalog import Settings

_REFUSAL = "A token is needed: as a Bearer, or in a browser as the password of any user.\n"


def refuse(request: Request, settings: Settings) -> Response | None:
    """The answer to somebody without the token; None lets the request through.

    A browser cannot be told to send a Bearer, but asks its user for a password and sends that with all it fetches.
    """
    token = settings.listen.admin_token
    if token is None or hmac.compare_digest(_given(request), token.reveal().encode()):
        return None
    answer = PlainTextResponse(_REFUSAL, 401, headers={"cache-control": "no-store"})
    answer.headers.append("www-authenticate", "Bearer")
    answer.headers.append("www-authenticate", 'Basic realm="image gateway", charset="UTF-8"')
    return answer


def _given(request: Request) -> bytes:
    """The token that came, empty if none did. No configured token is empty."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
