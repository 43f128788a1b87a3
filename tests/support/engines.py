"""Stores beyond one process, for tests: real servers over TCP, sentinels, a cluster, TLS with a certificate of its own.

Both engines have one command line: `program` is Valkey of the wheel or Debian's redis-server 7.
"""

import datetime as dt
import ipaddress
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.ledger.valkey import find_server
from tests.support.running import free_port

START_LIMIT = 10.0  # seconds
ELECTION_LIMIT = 20.0

VALKEY = find_server()
REDIS = Path(shutil.which("redis-server") or "redis-server")  # Debian's package of that name; see .ci/run

_OPTIONS = {"bind": "127.0.0.1", "save": "", "appendonly": "no", "maxmemory-policy": "noeviction", "logfile": "log"}


@dataclass
class Node:
    """One server process. words: its command line behind the options that all have."""

    program: Path
    folder: Path
    port: int
    words: tuple[str, ...] = ()
    password: str | None = None
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> "redis.Redis":
        login = {"password": self.password, **options}
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=5, **login)

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        options = [word for name, value in _OPTIONS.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [str(self.program), *(self.words or ("--port", str(self.port))), *options],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            restore_signals=False,  # SIGXFSZ stays ignored, so a file that may not grow is an error, as a full disk is
        )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def until(ask: Callable[[], object], *, limit: float) -> None:
    """Wait for `ask` to be true; a server that is not there yet is not true."""
    ends = time.monotonic() + limit
    while True:
        with suppress(redis.RedisError):
            if ask():
                return
        assert time.monotonic() < ends, f"not so within {limit} s"
        time.sleep(0.05)


@contextmanager
def server(program: Path, *words: str) -> Iterator[Node]:
    """One server on a port of its own. words: more of its command line."""
    with TemporaryDirectory(prefix="gateway-engine-") as name:
        port = free_port()
        node = Node(program, Path(name), port, ("--port", str(port), *words))
        node.start()
        try:
            until(lambda: _answers(node), limit=START_LIMIT)
            yield node
        finally:
            node.stop()


def _answers(node: Node) -> bool:
    with node.client() as client:
        try:
            return bool(client.ping())
        except redis.AuthenticationError:
            return True


@dataclass
class Sentinels:
    """A master with a replica, and three sentinels that watch them and give a silent master one second."""

    master: Node
    replica: Node
    sentinels: list[Node]
    name: str = "mymaster"

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", node.port) for node in self.sentinels]

    def master_port(self) -> int:
        """Whom the sentinels call master, all of them; 0 where they differ."""
        said = set()
        for node in self.sentinels:
            with node.client() as client:
                said.add(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)[1])
        return int(said.pop()) if len(said) == 1 else 0


@contextmanager
def sentinels(program: Path, *, password: str = "") -> Iterator[Sentinels]:
    """password: of the sentinels, if they ask for one."""
    with ExitStack() as stack, TemporaryDirectory(prefix="gateway-sentinels-") as name:
        master = stack.enter_context(server(program))
        replica = stack.enter_context(server(program, "--replicaof", "127.0.0.1", str(master.port)))
        watchers = []
        for i in range(3):
            port = free_port()
            folder = Path(name, str(i))
            folder.mkdir()
            (folder / "sentinel.conf").write_text(
                f"port {port}\n"
                f"sentinel monitor mymaster 127.0.0.1 {master.port} 2\n"
                "sentinel down-after-milliseconds mymaster 1000\n"
                "sentinel failover-timeout mymaster 5000\n" + (f"requirepass {password}\n" if password else "")
            )
            # A program of either engine is a sentinel by this word alone.
            node = Node(program, folder, port, password=password or None)
            process = subprocess.Popen(
                [str(program), "sentinel.conf", "--sentinel", "--logfile", "log"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            node.process = process
            stack.callback(node.stop)
            watchers.append(node)
        whole = Sentinels(master, replica, watchers)
        until(lambda: _replicas(master) == 1, limit=START_LIMIT)
        until(lambda: all(_sees_all(node) for node in watchers), limit=START_LIMIT)
        yield whole


def _replicas(master: Node) -> int:
    with master.client() as client:
        replication: Any = client.info("replication")
        online = [v for k, v in replication.items() if k.startswith("slave") and isinstance(v, dict)]
        return sum(1 for each in online if each["state"] == "online")


def _sees_all(sentinel: Node) -> bool:
    with sentinel.client() as client:
        state: Any = client.execute_command("SENTINEL", "MASTER", "mymaster")
        facts = state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))
        return (int(facts["num-slaves"]), int(facts["num-other-sentinels"])) == (1, 2)


@dataclass
class Cluster:
    """Three masters with a replica each; a master that is silent for a second is replaced."""

    nodes: list[Node] = field(default_factory=list)

    def holder(self, key: str) -> Node:
        """The node that is master for the key, as a majority of the living say."""
        said: dict[int, int] = {}
        for node in self.nodes:
            with suppress(redis.RedisError), node.client() as client:
                slot: Any = client.execute_command("CLUSTER", "KEYSLOT", key)
                for row in client.execute_command("CLUSTER", "SLOTS"):
                    if row[0] <= slot <= row[1]:
                        said[int(row[2][1])] = said.get(int(row[2][1]), 0) + 1
        port = max(said, key=lambda p: said[p])
        return next(node for node in self.nodes if node.port == port)


@contextmanager
def cluster(program: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        nodes = []
        for _ in range(6):
            words = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(free_port()))
            nodes.append(stack.enter_context(server(program, *words)))
        thirds = ((0, 5460), (5461, 10922), (10923, 16383))
        ids = []
        for node in nodes:
            with node.client() as client:
                ids.append(client.execute_command("CLUSTER", "MYID"))
                for other in nodes:
                    bus = other.words[other.words.index("--cluster-port") + 1]
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", str(other.port), bus)
        for node, (first, last) in zip(nodes, thirds, strict=False):
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        for i, node in enumerate(nodes[3:]):
            with node.client() as client:
                until(partial(_knows, client, ids[i]), limit=START_LIMIT)
                client.execute_command("CLUSTER", "REPLICATE", ids[i])
        until(lambda: all(_is_whole(node) for node in nodes), limit=ELECTION_LIMIT)
        until(lambda: all(_replicas(node) == 1 for node in nodes[:3]), limit=ELECTION_LIMIT)
        yield Cluster(nodes)


def _knows(client: Any, node_id: str) -> bool:
    return node_id in str(client.execute_command("CLUSTER", "NODES"))


def _is_whole(node: Node) -> bool:
    with node.client() as opened:
        client: Any = opened
        info: Any = client.execute_command("CLUSTER", "INFO")
        facts = info if isinstance(info, dict) else dict(line.split(":") for line in info.split())
        links = str(client.execute_command("CLUSTER", "NODES"))
        replicas = links.count(" slave ") + links.count("myself,slave")
        return facts["cluster_state"] == "ok" and "handshake" not in links and replicas == 3


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, and what it has signed for 127.0.0.1 and localhost."""

    authority: Path
    certificate: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    """Valid for a day; the authority is trusted by nobody who is not told to."""
    authority_key, authority = _signed("test authority", None, None)
    key, certificate = _signed("localhost", authority_key, authority)
    made = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def _signed(
    name: str, by_key: ec.EllipticCurvePrivateKey | None, by: x509.Certificate | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    names: Sequence[x509.GeneralName] = (
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.subject if by is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return key, builder.sign(by_key or key, hashes.SHA256())
