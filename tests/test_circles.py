"""What a request held is given back when it ends, not at the garbage collector's next round, which may be far."""

import asyncio
import gc
import time
import weakref
from collections.abc import Iterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core.errors import ClientGone, GatewayError, RequestTimeout, RequestTooLarge
from gateway.exchange import Exchange
from gateway.pipeline.refuse import Refuse
from tests.core import sample


class Buffer:
    """Stands for what of an upload was on its way."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", [ClientGone, RequestTooLarge, RequestTimeout])
def test_a_refused_request_lets_its_buffers_go(kind: type[GatewayError], no_collector: None) -> None:
    """An error that passed frames with buffers keeps none of them once it is answered, nor does what caused it."""
    held: list[weakref.ref[Buffer]] = []
    exchange = Exchange(
        id="req_1",
        settings=sample.settings(),
        endpoint="edits",
        trace_id="0" * 32,
        client_ip="",
        headers=[],
        began=time.monotonic(),
    )

    async def late(buffer: Buffer, exchange: Exchange) -> None:
        raise TimeoutError(id(buffer), exchange.id)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        buffer, exchange = Buffer(), exchanges.of(scope)
        held.append(weakref.ref(buffer))
        try:
            await late(buffer, exchange)
        except TimeoutError as error:
            raise kind("It came too late.") from error

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        del message

    scope = exchanges.bind(
        {
            "type": "http",
            "method": "POST",
            "path": "/",
            "raw_path": b"/",
            "headers": [(b"host", b"x")],
            "extensions": {"gateway.abort": lambda: None},
        },
        exchange,
    )
    asyncio.run(Refuse(app, failed=lambda _, __: None)(scope, receive, send))
    assert isinstance(exchange.error, kind)
    assert [each() for each in held] == [None]
