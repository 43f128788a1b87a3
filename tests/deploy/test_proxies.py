"""nginx and HAProxy on the files of deploy/, really started before a gateway."""

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.e2e import wire
from tests.support.engines import Certificates, certificates
from tests.support.running import SECRETS, Running, base_config, free_port, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import wait_until

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parent.parent.parent / "deploy"

#: Where clients come from: not the proxy's address, which is the one the gateway trusts.
CLIENT = "127.0.0.2"

PATIENCE = 20.0  # seconds for an answer


@dataclass
class Proxy:
    """A proxy that runs before a port of this host."""

    port: int
    certificates: Certificates

    def connect(self) -> ssl.SSLSocket:
        """A client's connection, with the certificate verified."""
        context = ssl.create_default_context(cafile=str(self.certificates.authority))
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE, source_address=(CLIENT, 0))
        return context.wrap_socket(plain, server_hostname="localhost")

    def ask(self, request: bytes) -> wire.Answer:
        with self.connect() as connection:
            connection.sendall(request)
            return answer(connection)


def answer(connection: ssl.SSLSocket) -> wire.Answer:
    """The answer that comes on a connection."""
    line = wire.Wire.__new__(wire.Wire)
    line.socket = connection
    return line.read()


def settings(text: str, *pairs: tuple[str, str]) -> str:
    """A file of deploy/ with the lines changed that its first comment says are to be changed."""
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def nginx(
    folder: Path, made: Certificates, port: int, gateway: int, *, shorter: bool, connections: int = 200
) -> list[str]:
    text = (DEPLOY / "nginx" / "image-gateway.conf").read_text("utf-8")
    site = settings(
        text,
        ("server 127.0.0.1:8080", f"server 127.0.0.1:{gateway}"),
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("/etc/ssl/image-gateway/cert.pem", str(made.certificate)),
        ("/etc/ssl/image-gateway/key.pem", str(made.key)),
        ("limit_conn image_gateway_clients 200", f"limit_conn image_gateway_clients {connections}"),
        *((("header_timeout 10s", "header_timeout 1s"), ("body_timeout 15s", "body_timeout 1s")) if shorter else ()),
    )
    (folder / "site.conf").write_text(site, "utf-8")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary} include {folder}/site.conf; }}\n"
    )
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, made: Certificates, port: int, gateway: int, *, shorter: bool) -> list[str]:
    (folder / "both.pem").write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text("utf-8")
    config = settings(
        text,
        ("server host1 127.0.0.1:8080", f"server host1 127.0.0.1:{gateway}"),
        ("bind :443 ", f"bind 127.0.0.1:{port} "),
        ("/etc/haproxy/image-gateway.pem", str(folder / "both.pem")),
        ("/etc/haproxy/unknown.http", str(DEPLOY / "haproxy" / "unknown.http")),
        *((("http-request 10s", "http-request 1s"), ("client 15s", "client 1s")) if shorter else ()),
    )
    (folder / "haproxy.cfg").write_text(config, "utf-8")
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


Kind = Callable[..., list[str]]

PROXIES = [
    pytest.param(nginx, id="nginx", marks=pytest.mark.debian("nginx")),
    pytest.param(haproxy, id="haproxy", marks=pytest.mark.debian("haproxy")),
]


@contextlib.contextmanager
def running_proxy(kind: Kind, folder: Path, gateway: int, *, shorter: bool = False) -> Iterator[Proxy]:
    """shorter: give clients one second where the file gives them ten or more."""
    made, port = certificates(folder), free_port()
    command = kind(folder, made, port, gateway, shorter=shorter)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        proxy = Proxy(port, made)

        def listens() -> bool:
            assert process.poll() is None, (folder / "log").read_text("utf-8")
            with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        wait_until(listens)
        yield proxy
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorThread) -> Iterator[Running]:
    config = base_config(upstream=simulator.base_url)
    config["listen"]["trusted_proxies"] = ["127.0.0.1/32"]
    config["request_limits"] = {"body_idle_timeout": "2s"}
    with running_gateway(config=config) as running:
        yield running


def port_of(gateway: Running) -> int:
    return int(gateway.url.rpartition(":")[2])


@pytest.mark.parametrize("kind", PROXIES)
def test_orders_go_through(kind: Kind, gateway: Running, simulator: SimulatorThread, tmp_path: Path) -> None:
    """A generation and an edit of 2 MB over TLS are made once each; the log has the client's address, whatever the
    client says it is; an edit reaches the gateway while its client still sends; what is too long is refused.
    """
    simulator.record.clear()
    logged = len(gateway.requests_logged())
    with running_proxy(kind, tmp_path, port_of(gateway)) as proxy:
        assert proxy.ask(wire.generation(SECRETS["free"], "X-Forwarded-For: 192.0.2.1")).status == 200
        edit = wire.edit(SECRETS["free"], wire.image(wire.png(length=2_000_000)), wire.text("prompt", "x"))
        with proxy.connect() as connection:
            connection.sendall(edit[:-200])
            wait_until(lambda: gateway.metric("gateway_inflight_requests", endpoint="edits") == 1)
            connection.sendall(edit[-200:])
            assert answer(connection).status == 200
        long = wire.head(wire.EDITS, "Content-Length: 10000000", key=SECRETS["free"])
        refused = proxy.ask(long)
        assert (refused.status, refused.error["code"]) == (413, "request_too_large")
    assert [request.images_made for request in simulator.record.requests] == [1, 1]
    assert [line["client_ip"] for line in gateway.requests_logged()[logged:]] == [CLIENT, CLIENT]


@pytest.mark.debian("nginx")
def test_an_address_has_so_many_connections_and_no_more(gateway: Running, tmp_path: Path) -> None:
    """Above nginx's bound of requests from one address the next is told in the shape of the gateway's own refusals."""
    edit = wire.edit(SECRETS["free"], wire.image(wire.png()), wire.text("prompt", "x"))
    with (
        running_proxy(partial(nginx, connections=2), tmp_path, port_of(gateway)) as proxy,
        contextlib.ExitStack() as held,
    ):
        for _ in range(2):
            held.enter_context(proxy.connect()).sendall(edit[:-200])
        wait_until(lambda: gateway.metric("gateway_inflight_requests", endpoint="edits") == 2)
        refused = proxy.ask(wire.generation(SECRETS["free"]))
        assert (refused.status, refused.error["code"], refused.header("retry-after")) == (
            429,
            "rate_limit_exceeded",
            "1",
        )
    wait_until(lambda: gateway.metric("gateway_inflight_requests", endpoint="edits") == 0)


@pytest.mark.parametrize("kind", PROXIES)
def test_slow_clients_are_let_go_and_slow_answers_awaited(
    kind: Kind, gateway: Running, simulator: SimulatorThread, tmp_path: Path
) -> None:
    """A client that stalls in its head or its body is let go, by the proxy or by the gateway behind it; one that waits
    for its images longer than the proxy waits for clients gets them.
    """
    with running_proxy(kind, tmp_path, port_of(gateway), shorter=True) as proxy:
        with proxy.connect() as stalled:
            stalled.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\n")
            assert ended(stalled)
        edit = wire.edit(SECRETS["free"], wire.image(wire.png()), wire.text("prompt", "x"))
        with proxy.connect() as stalled:
            stalled.sendall(edit[:-200])
            assert ended(stalled)
        wait_until(lambda: gateway.metric("gateway_inflight_requests") == 0)
        simulator.script({"latency": 2.5})
        assert proxy.ask(wire.generation(SECRETS["free"])).status == 200


def ended(connection: ssl.SSLSocket) -> bool:
    """Whether the other side ends the connection, with an error's answer or without one, before patience does."""
    try:
        told = b""
        while piece := connection.recv(65536):
            told += piece
    except TimeoutError:
        return False
    except (ConnectionError, ssl.SSLError):
        return True
    return not told or b" 408 " in told.splitlines()[0]


@pytest.mark.parametrize("kind", PROXIES)
def test_a_fault_of_the_proxys_own_buys_nothing_twice(kind: Kind, tmp_path: Path) -> None:
    """A gateway that cannot be reached is a 503, to be tried again; one that took the order and died is a 424."""
    port = free_port()
    order = wire.generation(SECRETS["free"])
    with running_proxy(kind, tmp_path, port) as proxy:
        away = proxy.ask(order)
        assert (away.status, away.error["code"], away.header("x-should-retry")) == (503, "overloaded", "true")
        with dying_gateway(port) as orders:

            def lost() -> wire.Answer | None:
                found = proxy.ask(order)  # a proxy may not have noticed yet that somebody is there
                return found if found.status != 503 else None

            told = wait_until(lost, seconds=PATIENCE, interval=0.2)
        assert told is not None
        assert (told.status, told.error["code"]) == (424, "upstream_outcome_unknown")
        assert told.header("x-should-retry") == "false"
        assert orders == [1]


@contextlib.contextmanager
def dying_gateway(port: int) -> Iterator[list[int]]:
    """Is ready, takes orders whole, and closes; how many it has taken."""
    orders: list[int] = [0]
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(0.2)
        going = threading.Event()

        def serve() -> None:
            while not going.is_set():
                with contextlib.suppress(TimeoutError), listener.accept()[0] as connection:
                    connection.settimeout(PATIENCE)
                    request = connection.recv(65536)
                    if request.startswith(b"GET /readyz"):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    elif request:
                        while b"prompt" not in request:
                            request += connection.recv(65536)
                        orders[0] += 1

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield orders
        finally:
            going.set()
            thread.join()
