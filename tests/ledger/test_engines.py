"""The ledger on Redis 7 and Valkey: over TCP, TLS and ACL, behind sentinels through a failover, in a cluster that loses
a node.
"""

import asyncio
import contextlib
import re
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from gateway.core import settlement
from gateway.core.errors import StoreUnavailable
from gateway.core.quota import Charge, Per, Rule, Unit, Verdict
from gateway.ledger import scripts
from gateway.ledger.base import Booking
from gateway.ledger.redis import RedisLedger
from gateway.ledger.servers import Address, ClusterKeeper, Finder, SentinelMaster
from tests.support.engines import REDIS, VALKEY, Node, Sentinels, certificates, cluster, sentinels, server, until
from tests.support.running import free_port

pytestmark = pytest.mark.slow

RETURN_LIMIT = 15.0  # seconds: one until the silence is noticed, an election, and what a busy machine adds
NAMESPACE = "test"
LIMIT = 37

IMAGES = Rule("design", "images-day", Unit.IMAGES, Per.DAY, LIMIT)
SLOTS = Rule("design", "slots", Unit.CONCURRENT, None, 1000)
BOOKING = Booking("design", "UTC", "ci", "main", "generations", "dall-e-3", "1024x1024", "standard", 1, 40_000)
ONE = settlement.committed(ordered=1, cost=40_000, made=1)


def acl() -> list[str]:
    """What a user of the store needs, as deploy/README.md has it, for this namespace and without name and password."""
    page = (Path(__file__).parents[2] / "deploy" / "README.md").read_text("utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("ACL SETUSER gateway on >password "))
    return line.replace("{gateway}", f"{{{NAMESPACE}}}").split()[5:]


engines = pytest.mark.parametrize("program", [VALKEY, REDIS], ids=["valkey", "redis7"])


@asynccontextmanager
async def working(finder: Finder) -> AsyncIterator[RedisLedger]:
    ledger = RedisLedger(
        finder, namespace=NAMESPACE, deadline=300, patience=60, observe=lambda *_: None, presumed=lambda _: None
    )
    await ledger.connect(5)
    beat = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
        await ledger.close()


async def reserve(ledger: RedisLedger, rid: str) -> Verdict:
    return await ledger.reserve(rid, [Charge(IMAGES, 1), Charge(SLOTS, 1)], BOOKING)


async def spend(ledger: RedisLedger) -> None:
    """Ask for twice what there is, all at once; settle what was admitted. Exactly the limit is admitted and booked."""
    verdicts = await asyncio.gather(*(reserve(ledger, f"r{i}") for i in range(2 * LIMIT)))
    taken = [f"r{i}" for i, verdict in enumerate(verdicts) if verdict.admitted]
    assert len(taken) == LIMIT
    assert all(await asyncio.gather(*(ledger.settle(rid, ONE) for rid in taken)))
    used, slots = await ledger.states([IMAGES, SLOTS])
    assert (used.used, slots.used) == (LIMIT, 0)
    usage = await ledger.usage([("design", "UTC")])
    assert usage["design"]["month"]["ci|main|dall-e-3|1024x1024|standard|generations|delivered|images"] == LIMIT


async def administer(ledger: RedisLedger) -> None:
    """Grant, correct, list what was done, and keep and find refusals: all that commands ask of a store."""
    administration = ledger.administration()
    until = time.time() + 60
    granted = await administration.grant("g", IMAGES, 3, until=until, by="admin@host", reason="why not")
    assert granted == await administration.grant("g", IMAGES, 3, until=until, by="admin@host", reason="why not")
    assert (granted.before, granted.after) == (LIMIT, LIMIT + 3)
    corrected = await administration.reset("r", IMAGES, 1, by="admin@host", reason="why not")
    assert (corrected.before, corrected.after) == (LIMIT, 1)
    (state,) = await ledger.states([IMAGES])
    assert (state.used, state.limit) == (1, LIMIT + 3)
    grants, changes = await administration.recall([IMAGES], since=0)
    assert ([grant.amount for grant in grants], {change.id for change in changes}) == ([3], {"g", "r"})
    assert [change.id for change in await administration.untold()] == ["g", "r"]
    await administration.keep_refusals({"design": [(time.time(), f"refusal {i}") for i in range(300)]})
    assert len(await administration.refusals(["design"])) == 200
    assert await administration.refusals(["design"], containing="refusal 299") == ["refusal 299"]


async def back(ledger: RedisLedger) -> float:
    """Seconds until an order is decided again."""
    began = time.monotonic()
    while time.monotonic() - began < RETURN_LIMIT:
        with contextlib.suppress(StoreUnavailable):
            await reserve(ledger, f"back{time.monotonic_ns()}")
            return time.monotonic() - began
        await asyncio.sleep(0.02)
    raise AssertionError(f"no decision within {RETURN_LIMIT} s: {ledger.trouble}")


@engines
def test_each_engine_counts_exactly(program: Path) -> None:
    """Redis 7 and Valkey admit exactly the limit and book exactly what was made."""

    async def main(url: str) -> None:
        async with working(Address(url)) as ledger:
            await spend(ledger)
            await administer(ledger)

    with server(program) as node:
        asyncio.run(main(f"{node.url}/3"))
        with node.client(db=3) as client:
            assert client.dbsize() > 0, "the URL names a database"


def test_the_least_rights_are_those_of_the_scripts() -> None:
    """Every command of every script stands in the operators' ACL line."""
    folder = files("gateway.ledger")
    texts = [path.read_text("utf-8") for path in folder.iterdir() if path.name.endswith(".lua")]
    called = {name.lower() for text in texts for name in re.findall(r"redis\.call\('(\w+)'", text)}
    assert len(called) > 10
    assert {f"+{name}" for name in called} <= set(acl())


def test_tls_and_a_user_who_may_little(tmp_path: Path) -> None:
    """Over TLS, as a user that may run scripts on its own keys and nothing else, LOAD included, all works."""
    made = certificates(tmp_path)
    with server(
        REDIS,
        *("--tls-port", "0", "--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key)),
        *("--tls-ca-cert-file", str(made.authority), "--tls-auth-clients", "no"),
    ) as node:
        with node.client() as client:
            client.execute_command("ACL", "SETUSER", "gateway", "on", ">p@ss/word", *acl())
            port = free_port()
            client.config_set("tls-port", port)

        async def main() -> None:
            url = f"rediss://gateway:p%40ss%2Fword@localhost:{port}/0?ssl_ca_certs={made.authority}"
            async with working(Address(url)) as ledger:
                await spend(ledger)
                await administer(ledger)

        asyncio.run(main())
        with node.client() as client:
            log = client.execute_command("ACL", "LOG")
            assert log == [], "nothing was asked that the user may not do"


def test_an_authority_that_is_not_trusted_is_no_store(tmp_path: Path) -> None:
    """A server whose certificate nobody vouches for is not spoken to."""
    made = certificates(tmp_path)
    with server(
        REDIS,
        *("--tls-port", "0", "--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key)),
        *("--tls-ca-cert-file", str(made.authority), "--tls-auth-clients", "no"),
    ) as node:
        with node.client() as client:
            port = free_port()
            client.config_set("tls-port", port)

        async def main() -> None:
            async with working(Address(f"rediss://localhost:{port}")) as ledger:
                with pytest.raises(StoreUnavailable):
                    await reserve(ledger, "one")
                assert ledger.trouble == "SSLCertVerificationError"

        asyncio.run(main())


@engines
def test_a_wrong_password_is_named(program: Path) -> None:
    """What the operator reads of a wrong password is that it is wrong, and nothing of it."""

    async def main(port: int) -> None:
        async with working(Address(f"redis://:wr0ng-secret@127.0.0.1:{port}")) as ledger:
            with pytest.raises(StoreUnavailable):
                await reserve(ledger, "one")
            assert ledger.trouble == "AuthenticationError WRONGPASS"

    with server(program, "--requirepass", "right") as node:
        asyncio.run(main(node.port))


@engines
def test_a_full_disk_refuses_orders_until_there_is_room(program: Path) -> None:
    """A store that cannot write its log decides nothing, and says why; with room again it goes on with its counts."""

    async def main(node: Node) -> None:
        async with working(Address(node.url)) as ledger:
            assert (await reserve(ledger, "before")).admitted
            assert node.process is not None
            log = max((node.folder / "appendonlydir").glob("*"), key=lambda path: path.stat().st_size)
            unlimited = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, unlimited[1]))
            began = time.monotonic()
            taken = 1
            while True:
                assert time.monotonic() - began < RETURN_LIMIT
                try:
                    taken += (await reserve(ledger, f"r{taken}")).admitted
                except StoreUnavailable:
                    break
                await asyncio.sleep(0.1)
            assert ledger.trouble == "ResponseError MISCONF"
            resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, unlimited)
            await back(ledger)
            (state,) = await ledger.states([IMAGES])
            assert state.used == taken + 1

    with server(program, "--appendfsync", "everysec") as node:
        with node.client() as client:
            client.config_set("appendonly", "yes")
            until(lambda: list((node.folder / "appendonlydir").glob("*.aof")), limit=5)
        asyncio.run(main(node))


@engines
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_store_that_forgets_is_not_trusted(program: Path, policy: str) -> None:
    """A server that may evict keys decides nothing, and the operator reads why; once it is told not to, it does."""

    async def main(node: Node) -> None:
        async with working(Address(node.url)) as ledger:
            with pytest.raises(StoreUnavailable):
                await reserve(ledger, "one")
            assert policy in ledger.trouble
            assert "noeviction" in ledger.trouble
            with node.client() as client:
                client.config_set("maxmemory-policy", "noeviction")
            await back(ledger)

    with server(program) as node:
        with node.client() as client:
            client.config_set("maxmemory-policy", policy)
        asyncio.run(main(node))


@engines
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_sentinels_name_a_new_master(program: Path, how: signal.Signals) -> None:
    """When the master dies or falls silent the ledger goes on at the one that is promoted, with its counts."""

    async def main(group: Sentinels) -> float:
        finder = SentinelMaster(group.addresses, group.name, url=None)
        async with working(finder) as ledger:
            before = await reserve(ledger, "before")
            assert before.admitted
            with group.master.client() as client:
                client.set("written-here", 1)  # WAIT is for what this connection has written
                assert client.wait(1, 2000) == 1, "the replica has it"
            group.master.signal(how)
            seconds = await back(ledger)
            assert await ledger.settle("before", ONE)
            (state,) = await ledger.states([IMAGES])
            assert state.used == 2, "what was taken before, and what was taken when it was back"
            return seconds

    with sentinels(program) as group:
        seconds = asyncio.run(main(group))
        print(f"back after {seconds:.1f} s")
        assert group.master_port() == group.replica.port


def test_sentinels_may_ask_for_a_password() -> None:
    """Their own stands in the URL beside their master's; with a wrong one no master is found."""

    async def main(group: Sentinels) -> None:
        for word, right in (("guard", True), ("wrong", False)):
            url = f"redis://127.0.0.1/0?sentinel_password={word}"
            async with working(SentinelMaster(group.addresses, group.name, url=url)) as ledger:
                if right:
                    await spend(ledger)
                else:
                    with pytest.raises(StoreUnavailable):
                        await reserve(ledger, "one")

    with sentinels(VALKEY, password="guard") as group:
        asyncio.run(main(group))


def test_a_cluster_goes_on_when_our_node_is_lost() -> None:
    """All keys lie on one node; when that one dies its replica serves on."""

    async def main(lose: Callable[[], None], url: str) -> None:
        async with working(ClusterKeeper(url, scripts.keys(NAMESPACE)[0])) as ledger:
            await spend(ledger)
            await administer(ledger)
            lose()
            seconds = await back(ledger)
            print(f"back after {seconds:.1f} s")
            (state,) = await ledger.states([IMAGES])
            assert (state.used, state.limit) == (2, LIMIT + 3), "what was corrected, and what was taken since"

    with cluster(VALKEY) as whole:
        holder = whole.holder(scripts.keys(NAMESPACE)[0])
        asked = next(node for node in whole.nodes if node is not holder)

        def lose() -> None:
            with holder.client() as client:
                client.set(
                    scripts.keys(NAMESPACE)[0] + ":written-here", 1
                )  # WAIT is for what this connection has written
                assert client.wait(1, 2000) == 1, "the replica has it"
            holder.signal(signal.SIGKILL)

        asyncio.run(main(lose, asked.url))
