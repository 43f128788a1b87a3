"""Which server to ask: the one of a URL, a Sentinel's master, or the node of a Cluster that holds our keys.

It is found anew for every connection, so a failover needs nothing more than that the old one is given up; and each is
looked at before it is trusted with counters. Addresses, TLS and the topologies are the library's business.
"""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import RedisSSLContext, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway.core.catalog import Store
from gateway.core.hosts import is_this_one
from gateway.ledger.resp import command
from gateway.ledger.scripts import keys

ASIDE = 0.3  #: seconds that one sentinel or node may take to tell of the others

_TLS = (
    "keyfile",
    "certfile",
    "cert_reqs",
    "ca_certs",
    "ca_data",
    "ca_path",
    "check_hostname",
    "min_version",
    "ciphers",
)


OLDEST = 7  #: Redis's version with which scripts can say `#!lua`; Valkey's first is 7.2

_EXPECTED = (
    "expected an address like redis://user:password@host:6379/0, with options of its kind if any; "
    "/ ? # @ and % in a password are written as %2F %3F %23 %40 and %25"
)

_LOOK = (command("INFO", "server"), command("INFO", "memory"))


class StoreUnfit(RedisConnectionError):
    """A server that would forget counters, cannot run the scripts, or is no master. The message holds no secret."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a connection goes (path: a Unix socket's), and what is said first there. master: it must be one."""

    path: str | None
    host: str
    port: int
    tls: ssl.SSLContext | None
    login: tuple[bytes, ...] = field(repr=False)
    master: bool = False

    @property
    def greeting(self) -> tuple[bytes, ...]:
        return (*self.login, *_LOOK, *((command("ROLE"),) if self.master else ()))

    def check(self, answers: Sequence[Any]) -> None:
        """The greeting's answers, errors among them. Raises what the server refused, or StoreUnfit."""
        for answer in answers[: len(self.login)]:
            if isinstance(answer, BaseException):
                raise answer
        about, memory, *role = answers[len(self.login) :]
        for answer in (about, memory, *role):
            # A user may be kept from asking; that the store is loading, or wants a password, is another matter.
            if isinstance(answer, RedisConnectionError):
                raise answer
        if role and isinstance(role[0], list) and role[0][0] != "master":
            raise StoreUnfit("the sentinels' master is none, or no more")
        _check_fitness({**_facts(about), **_facts(memory)})


def _facts(info: object) -> dict[str, str]:
    lines = info.splitlines() if isinstance(info, str) else ()
    return {name: value for name, found, value in (line.partition(":") for line in lines) if found}


def _check_fitness(facts: Mapping[str, str]) -> None:
    version = facts.get("redis_version", "")
    if version and int(version.partition(".")[0]) < OLDEST:
        raise StoreUnfit(f"the store is Redis {version}; Redis {OLDEST} or Valkey is needed")
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreUnfit(f"the store's maxmemory-policy is {policy}, which forgets counters; it must be noeviction")


class Finder(Protocol):
    """Raises RedisError, OSError or TimeoutError."""

    async def find(self) -> Server: ...

    async def close(self) -> None: ...


class WrongAddress(Exception):
    """The store's URL, or a file it names, cannot be used; the message says why, without the URL."""


def finder(store: Store, url: str | None) -> Finder:
    """By the store's kind. url: its address, of the embedded one too; with sentinels it may be None."""
    try:
        return _finder(store, url)
    except OSError as error:  # ssl's errors too
        raise WrongAddress(f"store.url cannot be used: {error}") from error
    except (ValueError, RedisError):
        # Their words repeat what was no port or no option, which may be half a password. Neither goes on as a cause.
        raise WrongAddress(f"store.url cannot be used: {_EXPECTED}") from None


def _finder(store: Store, url: str | None) -> Finder:
    if store.kind == "sentinel":
        return SentinelMaster(store.sentinel_nodes, store.sentinel_name or "", url=url)
    if url is None:
        raise AssertionError("the config has an address for every store but sentinels'")
    if store.kind == "cluster":
        return ClusterKeeper(url, keys(store.namespace)[0])
    return Address(url)


def is_open(store: Store, url: str | None) -> bool:
    """Whether, by its address, the store asks for no password or certificate, and other hosts may reach it.

    url: as for `finder`, which takes it.
    """
    parsed: Mapping[str, Any] = parse_url(url) if url is not None else {}
    if store.kind == "embedded" or any(parsed.get(name) is not None for name in ("password", "ssl_certfile", "path")):
        return False
    if store.kind == "sentinel":
        return not all(is_this_one(host) for host, _ in store.sentinel_nodes)
    return not is_this_one(str(parsed.get("host", "localhost")))


class Address:
    """The server of a redis://, rediss:// or unix:// URL, with the library's options in its query."""

    def __init__(self, url: str) -> None:
        self._parsed: dict[str, Any] = dict(parse_url(url))
        self._tls = _tls(self._parsed)

    async def find(self) -> Server:
        parsed = self._parsed
        return Server(
            path=parsed.get("path"),
            host=parsed.get("host", "localhost"),
            port=parsed.get("port", 6379),
            tls=self._tls,
            login=_login(parsed),
        )

    async def close(self) -> None:
        """There is nothing to let go."""


class SentinelMaster:
    """The master that sentinels know by a name.

    url: user, password, database and TLS of the master, if it has any; `sentinel_username` and `sentinel_password` in
    its query are for the sentinels, which speak TLS where their master does.
    """

    def __init__(self, nodes: Sequence[tuple[str, int]], name: str, *, url: str | None) -> None:
        self._name = name
        self._parsed: dict[str, Any] = dict(parse_url(url)) if url is not None else {}
        self._tls = _tls(self._parsed)
        login = {name: self._parsed.get(f"sentinel_{name}") for name in ("username", "password")}
        self._sentinels = Sentinel(  # type: ignore[no-untyped-call]
            nodes, sentinel_kwargs={**login, **_brief(), **_library_tls(self._parsed)}
        )

    async def find(self) -> Server:
        host, port = await self._sentinels.discover_master(self._name)
        return Server(None, host, int(port), self._tls, _login(self._parsed), master=True)

    async def close(self) -> None:
        for sentinel in self._sentinels.sentinels:
            await sentinel.aclose()


class ClusterKeeper:
    """The node that holds `key`, as the nodes of a Cluster tell. url: one of them, with user, password and TLS."""

    def __init__(self, url: str, key: str) -> None:
        self._key = key
        self._parsed: dict[str, Any] = dict(parse_url(url))
        self._tls = _tls(self._parsed)
        self._known = [(str(self._parsed.get("host", "localhost")), int(self._parsed.get("port", 6379)))]

    async def find(self) -> Server:
        """Of all nodes that were ever heard of, the first that answers tells the present ones."""
        cluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in self._known],
            username=self._parsed.get("username"),
            password=self._parsed.get("password"),
            require_full_coverage=False,
            **_brief(),
            **_library_tls(self._parsed),
        )
        try:
            await cluster.initialize()
            node = cluster.get_node_from_key(self._key)
            heard = [(str(n.host), int(n.port)) for n in cluster.get_nodes()]
        except (IndexError, KeyError) as error:
            raise RedisConnectionError("no node holds the keys") from error
        finally:
            await cluster.aclose()
        if node is None:
            raise RedisConnectionError("no node holds the keys")
        # Who answered comes first next time, and nobody is forgotten for being away.
        self._known = heard + [address for address in self._known if address not in heard]
        return Server(None, str(node.host), int(node.port), self._tls, _login(self._parsed))

    async def close(self) -> None:
        """Each search lets go of its own connections."""


def _brief() -> dict[str, Any]:
    """For connections that only ask where to go."""
    return {
        "socket_timeout": ASIDE,
        "socket_connect_timeout": ASIDE,
        "retry": Retry(NoBackoff(), 0, supported_errors=(RedisError,)),
    }


def _login(parsed: dict[str, Any]) -> tuple[bytes, ...]:
    said = []
    user, password, database = parsed.get("username"), parsed.get("password"), parsed.get("db")
    if password is not None:
        said.append(command("AUTH", user, password) if user is not None else command("AUTH", password))
    if database:
        said.append(command("SELECT", str(database)))
    return tuple(said)


def _tls(parsed: dict[str, Any]) -> ssl.SSLContext | None:
    if parsed.get("connection_class") is not SSLConnection:
        return None
    given = {name: parsed[f"ssl_{name}"] for name in _TLS if f"ssl_{name}" in parsed}
    return RedisSSLContext(**{"cert_reqs": "required", "check_hostname": True, **given}).get()


def _library_tls(parsed: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in parsed.items() if name.startswith("ssl_")}
    return {"ssl": True, **given} if parsed.get("connection_class") is SSLConnection else {}
