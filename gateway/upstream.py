"""The client of 3xCoder's image API: the only place that knows where it is and what its requests look like.

`request()` builds, `send()` sends, and nothing of the team's client goes up but the body it is given: the head is
written here, from the config alone. What an answer means is not decided here (gateway/core/settlement.py).
"""

from collections.abc import AsyncIterable, AsyncIterator

import httpx

from gateway import __version__
from gateway.answer import Progress
from gateway.core import catalog
from gateway.core.orders import Endpoint
from gateway.transport import Transport

WRITE_STALL_LIMIT = 30.0  # seconds: an upload that the upstream does not read holds a slot and a client


class Upstream:
    """The API at `settings.base_url`. Cheap to make: a changed config gets a new one on the same transport."""

    def __init__(self, settings: catalog.Upstream, transport: Transport) -> None:
        base = httpx.URL(settings.base_url)
        self._base = base
        self._host = base.netloc
        self._urls: dict[Endpoint, httpx.URL] = {
            "generations": httpx.URL(f"{settings.base_url}/images/generations"),
            "edits": httpx.URL(f"{settings.base_url}/images/edits"),
        }
        self._timeouts = {
            "connect": settings.connect_timeout,
            "write": WRITE_STALL_LIMIT,
            "total": settings.total_timeout,
        }
        self._transport = transport
        transport.forget_heads()  # of the config before this one, whose keys may have been changed
        self._headers = {account.name: self._headers_for(account) for account in settings.accounts}

    def request(
        self,
        endpoint: Endpoint,
        account: catalog.Account,
        body: bytes | AsyncIterable[bytes],
        *,
        content_type: str,
        length: int | None = None,
    ) -> httpx.Request:
        """One paid call, not yet sent.

        body: bytes go up with their length and may be sent again on a dead connection; an iterable goes up once, with
        `length` bytes where that is known and chunked where it is not, ended by a `gateway.transport.Closing`.
        """
        stream = httpx.ByteStream(body) if isinstance(body, bytes) else _Streamed(body)
        request = httpx.Request("POST", self._urls[endpoint], headers=self._headers[account.name], stream=stream)
        request.headers["Content-Type"] = content_type
        if isinstance(body, bytes):
            length = len(body)
        if length is None:
            request.headers["Transfer-Encoding"] = "chunked"
        else:
            request.headers["Content-Length"] = str(length)
        return request

    def _headers_for(self, account: catalog.Account) -> httpx.Headers:
        """What all of an account's requests have in common."""
        return httpx.Headers(
            [
                (b"Host", self._host),
                (b"Authorization", b"Bearer " + account.api_key.reveal().encode()),
                (b"Accept", b"application/json"),
                (b"Accept-Encoding", b"identity"),
                (b"User-Agent", b"image-gateway/" + __version__.encode("ascii")),
            ]
        )

    async def send(self, request: httpx.Request, progress: Progress) -> httpx.Response:
        """Sends and returns at the answer's head; the body is the response's `stream`, undecoded.

        Raises UpstreamUnreachable while `progress.released` is False and OutcomeUnknown after it, here and while the
        stream is iterated; `progress.failure` then has the metric's label. What the body's iterable raises comes out
        unchanged. The caller closes the response (`aclose`) if it does not read it to its end.
        """
        request.extensions = {"progress": progress, "timeout": self._timeouts}
        return await self._transport.handle_async_request(request)

    async def reachable(self) -> float:
        """Seconds to connect, with TLS, and no request: costs nothing. Raises UpstreamUnreachable, with its cause."""
        return await self._transport.probe(self._base, connect_timeout=self._timeouts["connect"])


class _Streamed(httpx.AsyncByteStream):
    """An iterable as httpx wants it. Hands out the iterable's own iterator, so that a generator can be closed."""

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._pieces)
