"""The path of a request, in order.

client ── /healthz /readyz
  │
Observe        id, client's address, times; the log line at the end
Meter          requests in flight
Refuse         a broken head is refused; every error inside becomes one shape of answer
  ├── /v1/openapi.json
  │
Authenticate   whose key; suspension; endpoint; room in this worker
  ├── /v1/models /v1/usage
  └── /v1/images/generations, /v1/images/edits
        Read       strict reading: bytes in, an order and the gateway's own bytes out
        Remember   an Idempotency-Key's order once, and its answer again
        Settle     commits or refunds once, however the request ends
        Reserve    an edit's slots from its head; all quota before the closing byte
        Rewrite    the closing bytes, written from the order
        Forward    up and down
          │
        3xCoder
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import jwks, logs
from gateway.admin import dashboard, health, scrape, team
from gateway.admin.describe import Describe
from gateway.core import catalog, framing
from gateway.core.errors import MalformedRequest, MethodNotAllowed, UnknownUrl, UpstreamAccountExhausted
from gateway.core.parameters import covered
from gateway.core.quota import Verdict
from gateway.core.refusals import rule_facts
from gateway.exchange import Exchange, facts
from gateway.parts import Parts
from gateway.pipeline.authenticate import Authenticate, Room
from gateway.pipeline.forward import Forward
from gateway.pipeline.meter import Meter
from gateway.pipeline.observe import Observe
from gateway.pipeline.read import Read
from gateway.pipeline.refuse import Refuse
from gateway.pipeline.remember import Remember
from gateway.pipeline.reserve import Reserve
from gateway.pipeline.rewrite import Rewrite
from gateway.pipeline.settle import Settle
from gateway.tokens import Tokens
from gateway.transport import Transport
from gateway.upstream import Upstream


def build_app(parts: Parts) -> ASGIApp:
    """The public port's application. Health checks stand before all steps: they are no requests of anyone's."""
    tally, room, tokens = parts.tally, Room(), Tokens(jwks.fetch, failed=_no_keys)
    # Outermost first. Settle stands outside Reserve, so that whatever happens once quota is taken passes it; Reserve
    # outside Rewrite, so that the closing bytes are written from an order that is paid for.
    images = _chain(
        Forward(upstream=Upstreams(parts.transport).of, answered=partial(_answered, parts)),
        partial(Authenticate, room=room, tokens=tokens),
        Read,
        partial(Remember, ledger=parts.ledger),
        partial(Settle, ledger=parts.ledger, settled=tally.settled),
        partial(Reserve, ledger=parts.ledger, accounts=parts.accounts, decided=partial(_decided, parts)),
        Rewrite,
    )

    def routes(path: str, app: ASGIApp, method: str) -> list[Route]:
        # Base URLs differ in having the version, clients in adding a slash.
        return [Route(f"{prefix}{path}{end}", app, methods=[method]) for prefix in ("/v1", "") for end in ("", "/")]

    def known(endpoint: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
        return Authenticate(request_response(endpoint), room=room, tokens=tokens)

    checks = health.routes(parts, public=True)
    # A path with a slash too many gets no redirect: its client would send the order again, or lose it.
    router = Router(
        routes=[
            *routes("/images/generations", images, "POST"),
            *routes("/images/edits", images, "POST"),
            *routes("/models", known(team.models), "GET"),
            *routes("/models/{id:path}", known(team.model), "GET"),
            *routes("/usage", known(partial(team.usage, ledger=parts.ledger)), "GET"),
            *routes("/openapi.json", Describe(), "GET"),
            *checks,  # for other methods than theirs, which they leave to the gateway
        ],
        redirect_slashes=False,
        default=_nothing_there,
    )
    gateway = _chain(
        partial(_routed, router),
        partial(Observe, settings=parts.settings, ended=partial(_ended, parts)),
        partial(Meter, metrics=parts.metrics),
        partial(Refuse, failed=_failed),
    )
    return partial(_open, {route.path for route in checks}, Router(routes=checks, redirect_slashes=False), gateway)


def _open(paths: set[str], health_checks: ASGIApp, gateway: ASGIApp, scope: Scope, *io: Any) -> Awaitable[None]:
    """Health checks to theirs, all else to the gateway, as are other methods on those paths."""
    return (health_checks if _is_check(paths, scope) else gateway)(scope, *io)


def _is_check(paths: set[str], scope: Scope) -> bool:
    if scope["type"] != "http" or scope["path"] not in paths or scope["method"] not in ("GET", "HEAD"):
        return False
    try:
        _check_framing(scope)
    except MalformedRequest:
        return False  # Refuse closes the connection: what follows on it could be anybody's
    return True


def _check_framing(scope: Scope) -> None:
    framing.check(headers=scope["headers"], http_version=scope.get("http_version", "1.1"), method=scope["method"])


async def _routed(router: Router, scope: Scope, receive: Receive, send: Send) -> None:
    """Starlette's own refusals become ours, with the shape that all errors have."""
    scope["app"] = router  # so that a wrong method is raised and not answered
    try:
        await router(scope, receive, send)
    except HTTPException as error:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        raise MethodNotAllowed(
            f"{scope['method']} is not taken here; send {allowed}.", headers={"allow": allowed}
        ) from error


async def _nothing_there(scope: Scope, receive: Receive, send: Send) -> None:
    del receive, send
    raise UnknownUrl(f"There is nothing at {scope['method']} {covered(scope['path'])[:200]}.")


def build_admin(parts: Parts, folder: Path) -> ASGIApp:
    """The admin port's application. folder: where the workers' metrics files are."""
    admin = Starlette(
        routes=[*health.routes(parts, public=False), *scrape.routes(parts, folder), *dashboard.routes(parts, folder)]
    )
    return partial(_framed, admin)


async def _framed(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """What is no clear request is no request on the admin port either."""
    try:
        _check_framing(scope)
    except MalformedRequest as error:
        await JSONResponse(error.body(), error.status, {"connection": "close"})(scope, receive, send)
    else:
        await app(scope, receive, send)


def _chain(inner: ASGIApp, *steps: Callable[[ASGIApp], ASGIApp]) -> ASGIApp:
    return reduce(lambda app, step: step(app), reversed(steps), inner)


class Upstreams:
    """The upstream's client for an exchange's config: made anew only when that part of the config has changed."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._last: tuple[catalog.Upstream, Upstream] | None = None

    def of(self, exchange: Exchange) -> Upstream:
        wanted = exchange.settings.upstream
        if self._last is None or self._last[0] is not wanted:
            self._last = (wanted, Upstream(wanted, self._transport))
        return self._last[1]


def _no_keys(issuer: str, error: str) -> None:
    logs.line("key set not had", logging.WARNING, issuer=issuer, error=error)


def _decided(parts: Parts, exchange: Exchange, verdict: Verdict) -> None:
    parts.tally.decided(exchange, verdict)
    for state, percent in verdict.passed:
        facts = rule_facts(state)
        team = facts.pop("scope")
        logs.line("quota warning", logging.WARNING, team=team, threshold=f"{percent}%", **facts, request_id=exchange.id)


def _answered(parts: Parts, exchange: Exchange, status: str) -> None:
    parts.tally.answered(exchange, status)
    if exchange.account is not None:
        parts.accounts.heard(exchange.account, status)


def _ended(parts: Parts, exchange: Exchange) -> None:
    parts.tally.ended(exchange)
    if exchange.account is not None and isinstance(exchange.error, UpstreamAccountExhausted):
        parts.accounts.set_aside(exchange.account)  # a 429 may be about credit too: its status does not tell
    parts.refused.note(exchange)
    parts.last_use.note(exchange)
    parts.traced(exchange)
    logs.request(facts(exchange))


def _failed(exchange: Exchange, error: BaseException) -> None:
    logs.fault(error, request_id=exchange.id, endpoint=exchange.endpoint, stage=exchange.stage.value)
