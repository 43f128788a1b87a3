"""The 3xCoder client: what goes up, over TLS too, and which error comes of what."""

import asyncio
import datetime as dt
import ipaddress
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.types import Message

from gateway import __version__
from gateway import exchange as exchanges
from gateway.answer import Progress
from gateway.app import Upstreams
from gateway.core import catalog
from gateway.core.errors import OutcomeUnknown, UpstreamUnreachable
from gateway.core.secret import Secret
from gateway.exchange import Exchange
from gateway.pipeline.forward import Forward
from gateway.transport import Closing, Transport, _lines
from gateway.upstream import Upstream
from tests.support.rawserver import OK, Peer, RawServer, answering

GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"data":[{"url":"x"}]}'

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])

ACCOUNT = catalog.Account(name="main", api_key=Secret("sk-upstream"), max_concurrent=4)


def settings(base_url: str, *, connect: float = 1.0, total: float = 5.0) -> catalog.Upstream:
    return catalog.Upstream(
        base_url=base_url, accounts=(ACCOUNT,), connect_timeout=connect, total_timeout=total, edit_framing="auto"
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a key and its self-signed certificate for localhost and 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream under test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def client_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_alpn_protocols(["http/1.1"])
    return context


def test_the_head_of_a_generation(run: Run) -> None:
    """A generation goes up with exactly these headers, to the path below the base URL."""

    async def scenario() -> None:
        async with RawServer(answering(OK)) as server:
            transport = Transport()
            upstream = Upstream(settings(f"{server.url}/v1"), transport)
            request = upstream.request("generations", ACCOUNT, b'{"n":1}', content_type="application/json")
            response = await upstream.send(request, Progress())
            assert await response.aread() == b"ok"
            assert server.requests[0].head.decode().split("\r\n") == [
                "POST /v1/images/generations HTTP/1.1",
                f"Host: 127.0.0.1:{server.port}",
                "Authorization: Bearer sk-upstream",
                "Accept: application/json",
                "Accept-Encoding: identity",
                f"User-Agent: image-gateway/{__version__}",
                "Content-Type: application/json",
                "Content-Length: 7",
                "",
                "",
            ]
            await transport.aclose()

    run(scenario())


def test_a_changed_config_leaves_no_key_behind(run: Run) -> None:
    """What was put together with an account's key is gone once the next config has its client."""

    async def scenario() -> None:
        async with RawServer(answering(OK)) as server:
            transport = Transport()
            upstream = Upstream(settings(f"{server.url}/v1"), transport)
            request = upstream.request("generations", ACCOUNT, b'{"n":1}', content_type="application/json")
            await (await upstream.send(request, Progress())).aread()
            await transport.aclose()
            assert _lines.cache_info().currsize > 0
            Upstream(settings(f"{server.url}/v2"), transport)
            assert _lines.cache_info().currsize == 0

    run(scenario())


def test_an_upload_from_before_a_change_leaves_no_key_behind(run: Run) -> None:
    """An edit that is spooled while the config changes goes up by its own, and the next request lets go of its head."""

    async def scenario() -> None:
        async with RawServer(answering(GOOD)) as server:
            transport = Transport()
            forward = Forward(upstream=Upstreams(transport).of, answered=lambda *_: None)
            as_it_is = replace(settings(f"{server.url}/v1"), edit_framing="spool")
            old, new = (
                replace(as_it_is, accounts=(replace(ACCOUNT, api_key=Secret(key)),)) for key in ("sk-old", "sk-new")
            )
            changed = asyncio.Event()
            upload = asyncio.create_task(_forwarded(forward, old, "edits", b"a", b"b", held=changed))
            await asyncio.sleep(0)
            await _forwarded(forward, new, "generations", b"{}")
            changed.set()
            await upload
            kept = _lines.cache_info().currsize
            await _forwarded(forward, new, "generations", b"{}")
            await transport.aclose()
            keys = [request.headers["authorization"] for request in server.requests]
            assert keys == ["Bearer sk-new", "Bearer sk-old", "Bearer sk-new"]
            assert (kept, _lines.cache_info().currsize) == (1, 1)

    run(scenario())


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a config is asked for on the way up."""

    upstream: catalog.Upstream


async def _forwarded(
    forward: Forward, upstream: catalog.Upstream, endpoint: str, *pieces: bytes, held: asyncio.Event | None = None
) -> None:
    """held: what the last piece waits for."""
    exchange = Exchange("req_1", Settings(upstream), endpoint, "", [], time.monotonic(), "")  # type: ignore[arg-type]
    exchange.account = upstream.accounts[0]
    left = list(pieces)

    async def receive() -> Message:
        if held is not None and len(left) == 1:
            await held.wait()
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Message) -> None:
        del message

    await forward(exchanges.bind({}, exchange), receive, send)


@pytest.mark.parametrize("length", [None, 5])
def test_the_body_of_an_edit(run: Run, length: int | None) -> None:
    """An edit's stream goes up chunked, or under its length where that is known, and never under both."""

    async def scenario() -> None:
        async def body() -> AsyncGenerator[bytes, None]:
            yield b"ab"
            yield Closing(b"cde")

        async with RawServer(answering(OK)) as server:
            transport = Transport()
            upstream = Upstream(settings(f"{server.url}/v1"), transport)
            request = upstream.request("edits", ACCOUNT, body(), content_type="multipart/form-data", length=length)
            progress = Progress()
            await (await upstream.send(request, progress)).aread()
            (received,) = server.requests
            assert received.head.startswith(b"POST /v1/images/edits HTTP/1.1\r\n")
            assert received.body == b"abcde"
            assert received.headers.get("content-length") == (str(length) if length else None)
            assert received.headers.get("transfer-encoding") == (None if length else "chunked")
            assert progress.released
            await transport.aclose()

    run(scenario())


def test_nothing_is_followed_stored_or_decoded(run: Run) -> None:
    """A redirect, a cookie and a compressed body come back as they are; the next request carries no cookie."""

    async def scenario() -> None:
        moved = (
            b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nSet-Cookie: a=b\r\n"
            b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain"
        )
        async with RawServer(answering(moved)) as server:
            transport = Transport()
            upstream = Upstream(settings(server.url), transport)
            for _ in range(2):
                request = upstream.request("generations", ACCOUNT, b"{}", content_type="application/json")
                response = await upstream.send(request, Progress())
                assert response.status_code == 307
                assert b"".join([piece async for piece in response.aiter_raw()]) == b"plain"
            assert server.executed == 2
            assert "cookie" not in server.requests[1].headers
            await transport.aclose()

    run(scenario())


def test_the_total_timeout_starts_at_the_closing_bytes(run: Run) -> None:
    """An upload longer than the total time-out is none of it; an answer later than that is unknown."""

    async def scenario() -> None:
        async def slow() -> AsyncGenerator[bytes, None]:
            for _ in range(4):
                yield b"x"
                await asyncio.sleep(0.05)
            yield Closing(b"y")

        async def script(peer: Peer) -> None:
            await peer.read_request()
            if server.accepted == 1:
                await peer.send(OK)
            await peer.gone()

        async with RawServer(script) as server:
            transport = Transport()
            upstream = Upstream(settings(server.url, total=0.1), transport)
            response = await upstream.send(
                upstream.request("edits", ACCOUNT, slow(), content_type="multipart/form-data"), Progress()
            )
            assert await response.aread() == b"ok"
            await response.aclose()
            progress = Progress()
            request = upstream.request("edits", ACCOUNT, slow(), content_type="multipart/form-data")
            with pytest.raises(OutcomeUnknown):
                await upstream.send(request, progress)
            assert progress == Progress(began=True, released=True, bytes_sent=progress.bytes_sent, failure="timeout")
            await transport.aclose()

    run(scenario())


def test_over_tls(run: Run, certificate: Path) -> None:
    """Over TLS both ways up work, HTTP/1.1 is agreed on, and the connection is kept."""

    async def scenario() -> None:
        agreed: list[str | None] = []

        async def script(peer: Peer) -> None:
            agreed.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
            await answering(OK)(peer)

        async def body() -> AsyncGenerator[bytes, None]:
            yield bytes(1_000_000)
            yield Closing(b"end")

        async with RawServer(script, tls=server_tls(certificate)) as server:
            transport = Transport(tls=client_tls(certificate))
            upstream = Upstream(settings(f"https://localhost:{server.port}/v1"), transport)
            for _ in range(3):
                request = upstream.request("generations", ACCOUNT, b"{}", content_type="application/json")
                assert await (await upstream.send(request, Progress())).aread() == b"ok"
                await asyncio.sleep(0.06)
            assert agreed == ["http/1.1"]
            edit = upstream.request("edits", ACCOUNT, body(), content_type="multipart/form-data")
            assert await (await upstream.send(edit, Progress())).aread() == b"ok"
            assert server.requests[-1].body == bytes(1_000_000) + b"end"
            assert server.accepted == 1
            await transport.aclose()

    run(scenario())


@pytest.mark.parametrize("clean", [True, False], ids=["close_notify", "fin"])
def test_the_end_of_a_tls_connection(run: Run, certificate: Path, clean: bool) -> None:
    """Over TLS close_notify ends an answer that has no other end; a FIN alone may have cut it: unknown."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.read_request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall of it?")
            await asyncio.sleep(0.02)
            if not clean:
                peer.writer.transport.abort()

        async with RawServer(script, tls=server_tls(certificate)) as server:
            transport = Transport(tls=client_tls(certificate))
            upstream = Upstream(settings(server.url), transport)
            request = upstream.request("generations", ACCOUNT, b"{}", content_type="application/json")
            progress = Progress()
            response = await upstream.send(request, progress)
            if clean:
                assert await response.aread() == b"all of it?"
            else:
                with pytest.raises(OutcomeUnknown):
                    await response.aread()
                assert progress.failure == "cut"
            await transport.aclose()

    run(scenario())


def test_an_untrusted_certificate(run: Run, certificate: Path) -> None:
    """A certificate that the system does not trust, or of another name, gets no request."""

    async def scenario() -> None:
        async with RawServer(answering(OK), tls=server_tls(certificate)) as server:
            for transport, host in (
                (Transport(), "localhost"),
                (Transport(tls=client_tls(certificate)), "127.0.0.2"),
            ):
                upstream = Upstream(settings(f"https://{host}:{server.port}"), transport)
                request = upstream.request("generations", ACCOUNT, b"{}", content_type="application/json")
                progress = Progress()
                with pytest.raises(UpstreamUnreachable) as caught:
                    await upstream.send(request, progress)
                assert isinstance(caught.value.__cause__, OSError)
                assert progress == Progress(failure="connect_error")
                assert not transport._open
            assert server.executed == 0

    run(scenario())


def test_the_connect_timeout(run: Run, certificate: Path) -> None:
    """A TLS handshake that never ends is given up after the connect time-out, and nothing began."""

    async def scenario() -> None:
        async def script(peer: Peer) -> None:
            await peer.gone()

        async with RawServer(script) as server:
            transport = Transport(tls=client_tls(certificate))
            upstream = Upstream(settings(f"https://127.0.0.1:{server.port}", connect=0.05), transport)
            request = upstream.request("generations", ACCOUNT, b"{}", content_type="application/json")
            progress = Progress()
            with pytest.raises(UpstreamUnreachable) as caught:
                await upstream.send(request, progress)
            assert isinstance(caught.value.__cause__, TimeoutError)
            assert progress == Progress(failure="connect_error")
            await asyncio.sleep(0.02)
            assert server.open == 0

    run(scenario())


def test_reachable(run: Run) -> None:
    """The look at the upstream connects and sends nothing; without a listener it says so."""

    async def scenario() -> None:
        async with RawServer(answering(OK)) as server:
            transport = Transport()
            upstream = Upstream(settings(f"{server.url}/v1"), transport)
            assert 0 < await upstream.reachable() < 1
            await asyncio.sleep(0.02)
            assert (server.accepted, server.open, server.requests) == (1, 0, [])
        with pytest.raises(UpstreamUnreachable):
            await upstream.reachable()

    run(scenario())
