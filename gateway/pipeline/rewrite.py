"""Rewrite: what closes the upstream's request is written from the decision, never from the client's bytes."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core.rewriting import generation_body
from gateway.exchange import Exchange


class Rewrite:
    """Fills the last, empty message: a generation's whole JSON, or all texts of an edit and its closing delimiter."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchanges.of(scope)
        exchange.content_type = exchange.writer.content_type if exchange.writer is not None else "application/json"

        async def rewritten() -> Message:
            message = await receive()
            if not message["more_body"]:
                message = {**message, "body": _closing(exchange)}
            return message

        await self.app(scope, rewritten, send)


def _closing(exchange: Exchange) -> bytes:
    order, model = exchange.ordered()
    if exchange.writer is not None:
        return exchange.writer.closing(order, model)
    return generation_body(order, model)
