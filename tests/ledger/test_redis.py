"""RedisLedger against real servers: many calls at once, lost replies, stores that stop, die, forget and refuse."""

import asyncio
import contextlib
import os
import re
import selectors
import signal
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import pytest
import redis

from gateway.core import settlement
from gateway.core.errors import StoreUnavailable
from gateway.core.quota import Charge, Per, Rule, Unit, Verdict
from gateway.ledger import scripts
from gateway.ledger.base import Booking
from gateway.ledger.embedded import EmbeddedStore
from gateway.ledger.redis import OWED, Presumed, RedisLedger
from gateway.ledger.servers import Address
from gateway.ledger.witness import uptime
from tests.ledger.store import CLOCK, connected
from tests.support.valkey import valkey

pytestmark = pytest.mark.slow

DECISION_LIMIT = 1.0 + 0.2  # seconds a decision may take, and what a busy machine may add
NOTICED_LIMIT = 0.005  # seconds a decision may take once the store is known to be away
RETURN_LIMIT = 5.0

IMAGES = Rule("design", "images-day", Unit.IMAGES, Per.DAY, 37)
TOTAL = Rule("design", "images-total", Unit.IMAGES, Per.TOTAL, 1_000_000)
SLOTS = Rule("design", "slots", Unit.CONCURRENT, None, 2)
BOOKING = Booking("design", "UTC", "ci", "main", "generations", "dall-e-3", "1024x1024", "standard", 1, 40_000)
LABELS = "ci|main|dall-e-3|1024x1024|standard|generations"
ONE = settlement.committed(ordered=1, cost=40_000, made=1)


@dataclass
class Seen:
    """What a ledger told of itself."""

    calls: list[tuple[str, float, bool]] = field(default_factory=list)
    presumed: list[Presumed] = field(default_factory=list)
    forgot: list[int] = field(default_factory=list)
    unbooked: list[tuple[str, int]] = field(default_factory=list)


@asynccontextmanager
async def working(
    url: str,
    *,
    seen: Seen | None = None,
    beating: bool = True,
    deadline: float = 300,
    wall: Callable[[], float] = time.time,
    steady: Callable[[], float] = uptime,
) -> AsyncIterator[RedisLedger]:
    """A ledger that has met its store. beating: as a worker's does; without, it is a worker that hangs."""
    seen = seen or Seen()
    ledger = RedisLedger(
        Address(url),
        namespace="test",
        deadline=deadline,
        patience=60,
        observe=lambda *call: seen.calls.append(call),
        presumed=seen.presumed.extend,
        wall=wall,
        steady=steady,
        forgot=seen.forgot.append,
        unbooked=lambda rid, end, _: seen.unbooked.append((rid, end.images)),
    )
    await ledger.connect(5)
    beat = asyncio.create_task(ledger.run()) if beating else None
    try:
        yield ledger
    finally:
        if beat is not None:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
        await ledger.close()


async def reserve(ledger: RedisLedger, rid: str, *rules: Rule) -> Verdict:
    return await ledger.reserve(rid, [Charge(rule, 1) for rule in rules or (IMAGES,)], BOOKING)


async def used(ledger: RedisLedger, rule: Rule = IMAGES) -> int:
    return (await ledger.states([rule]))[0].used


async def booked(ledger: RedisLedger, kind: str = "delivered") -> int:
    usage = await ledger.usage([("design", "UTC")])
    return usage["design"]["day"].get(f"{LABELS}|{kind}|images", 0)


async def until(ask: Callable[[], Awaitable[object]], wanted: object, *, limit: float = RETURN_LIMIT) -> float:
    """Seconds until `ask` gives `wanted`; a store that is away meanwhile has not given it."""
    began = time.monotonic()
    found: object = None
    while True:
        with contextlib.suppress(StoreUnavailable):
            found = await ask()
            if found == wanted:
                return time.monotonic() - began
        assert time.monotonic() - began < limit, f"{found!r} instead of {wanted!r} after {limit} s"
        await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def shared() -> Iterator[str]:
    with valkey() as url:
        yield url


@pytest.fixture
def url(shared: str) -> str:
    """A server that is empty and has no script."""
    with connected(shared) as client:
        client.flushall()
        client.script_flush()
    return shared


@pytest.fixture
def store() -> Iterator[EmbeddedStore]:
    """A server of the test's own, to stop and to kill."""
    with TemporaryDirectory(prefix="gateway-valkey-") as folder, EmbeddedStore(Path(folder)) as started:
        yield started


def kill(store: EmbeddedStore, number: int) -> None:
    assert store.pid is not None
    os.kill(store.pid, number)


def kill_kept(store: EmbeddedStore) -> None:
    """End the server at once, after all that was written has reached the disk: else its last writes may be lost."""
    with connected(store.url) as client:
        client.set("written", "last")
        assert client.waitaof(1, 0, 5000) == [1, 0]
    kill(store, signal.SIGKILL)


def start_again(store: EmbeddedStore) -> None:
    """As the gateway's master does every second."""
    deadline = time.monotonic() + 10
    while not store.poll():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Many at once


def test_parallel_reserves_stop_exactly_at_the_limit(url: str) -> None:
    """Of 500 that ask at once for one of 37, from two workers, 37 get it and 463 hear that 37 of 37 are used."""

    async def main() -> None:
        async with working(url) as first, working(url) as second:
            verdicts = await asyncio.gather(*(reserve((first, second)[i % 2], f"r{i}") for i in range(500)))
            assert sum(verdict.admitted for verdict in verdicts) == 37
            refused = [verdict.states[0] for verdict in verdicts if not verdict.admitted]
            assert {(state.used, state.limit) for state in refused} == {(37, 37)}
            assert await used(first) == 37

    asyncio.run(main())


def test_looking_and_then_adding_would_not_stop_there(url: str) -> None:
    """The control of the test above: the same 500, decided by a look before the charge, pass the limit."""

    async def main() -> None:
        async with working(url) as ledger:

            async def look_then_add(rid: str) -> bool:
                if await used(ledger) >= 37:
                    return False
                return (await reserve(ledger, rid, Rule("design", "x", Unit.IMAGES, Per.DAY, 1_000))).admitted

            taken = await asyncio.gather(*(look_then_add(f"r{i}") for i in range(500)))
            assert sum(taken) > 37

    asyncio.run(main())


def test_500_at_once_never_wait_for_a_connection_in_vain(url: str) -> None:
    """500 requests that each reserve, look and settle in their own time all succeed over the few connections."""

    async def main() -> None:
        seen = Seen()
        async with working(url, seen=seen) as ledger:

            async def request(i: int) -> None:
                for _ in range(i % 7):
                    await asyncio.sleep(0)
                assert (await reserve(ledger, f"r{i}", TOTAL)).admitted
                await ledger.usage([("design", "UTC")])
                assert await ledger.settle(f"r{i}", ONE)

            await asyncio.gather(*(request(i) for i in range(500)))
            assert await used(ledger, TOTAL) == await booked(ledger) == 500
        assert not [call for call in seen.calls if call[2]]

    asyncio.run(main())


@dataclass
class Proxy:
    """Between the ledger and its store. lose: how many more replies to lose, with the connection they come on.

    silent: connections made now, and all that are open, say nothing any more and are never closed.
    """

    target: str
    writes: list[bytes] = field(default_factory=list)
    lose: int = 0
    silent: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self.target)
        except OSError:
            writer.close()
            return
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the test is over
                await asyncio.gather(self._requests(reader, up_writer), self._replies(up_reader, writer))
        finally:
            for end in (writer, up_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _requests(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1 << 20):
            self.writes.append(chunk)
            up.write(chunk)
        up.close()

    async def _replies(self, up: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent = self.silent
        while chunk := await up.read(1 << 20):
            if silent.is_set():
                continue
            if self.lose and b"EVALSHA" in self.writes[-1]:
                self.lose -= 1
                break
            writer.write(chunk)
        writer.close()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    with TemporaryDirectory(prefix="gw-") as folder:
        proxy = Proxy(unquote(url.removeprefix("unix://")))
        server = await asyncio.start_unix_server(proxy.serve, f"{folder}/p", limit=1 << 20)
        try:
            yield proxy, f"unix://{folder}/p"
        finally:
            server.close()
            await server.wait_closed()


def test_calls_of_one_turn_leave_as_one_write(url: str) -> None:
    """What ten requests ask in one turn of the loop is one write on one connection, and one answer."""

    async def main() -> None:
        async with proxied(url) as (proxy, address), working(address, beating=False) as ledger:
            await reserve(ledger, "first")
            before = len(proxy.writes)
            await asyncio.gather(*(reserve(ledger, f"r{i}") for i in range(10)))
            written = proxy.writes[before:]
            assert [chunk.count(b"EVALSHA") for chunk in written] == [10]

    asyncio.run(main())


# Replies that are lost


def test_a_lost_reply_charges_once(url: str) -> None:
    """The connection dies after the script ran: the call goes out again, and nothing is charged twice."""

    async def main() -> None:
        async with proxied(url) as (proxy, address), working(address, beating=False) as ledger:
            await reserve(ledger, "first", IMAGES, SLOTS)
            await ledger.settle("nothing", ONE)  # both scripts are known to the store now
            proxy.lose = 1
            assert (await reserve(ledger, "second", IMAGES, SLOTS)).admitted
            assert proxy.lose == 0
            assert (await used(ledger), await used(ledger, SLOTS)) == (2, 2)
            proxy.lose = 1
            assert await ledger.settle("second", ONE), "it is the same end"
            assert (await booked(ledger), await used(ledger, SLOTS)) == (1, 1)

    asyncio.run(main())


def test_replies_lost_for_good_leave_nothing_behind(url: str) -> None:
    """When no reply comes the request is refused, and what it took unseen is given back: charge and slot."""

    async def main() -> None:
        async with working(url) as other, proxied(url) as (proxy, address), working(address) as ledger:
            proxy.lose = 2
            with pytest.raises(StoreUnavailable):
                await reserve(ledger, "lost", IMAGES, SLOTS)
            await until(lambda: used(other), 0)
            await until(lambda: used(other, SLOTS), 0)
            assert await booked(other) == await booked(other, "unknown") == 0

    asyncio.run(main())


def test_a_lost_reply_to_an_end_ends_once(url: str) -> None:
    """An end whose replies are lost is delivered again until one comes, and is booked once."""

    async def main() -> None:
        async with working(url) as other, proxied(url) as (proxy, address), working(address) as ledger:
            await reserve(ledger, "r")
            proxy.lose = 3
            assert await ledger.settle("r", ONE)
            await until(lambda: _value(proxy.lose), 0)
            await until(lambda: booked(other), 1)
            assert await reserve(ledger, "next")
            assert await booked(other) == 1

    asyncio.run(main())


def test_a_lost_reply_to_a_claim_leaves_the_key_with_its_claimer(url: str) -> None:
    """Who claims an Idempotency-Key and has to ask again holds it, and does not wait for itself."""

    async def main() -> None:
        async with proxied(url) as (proxy, address), working(address, beating=False) as ledger:
            terms = {"print": "order", "keep": 60_000, "patience": 60_000}
            await ledger.remember("claim", "a:first", rid="first", **terms)
            proxy.lose = 1
            assert (await ledger.remember("claim", "a:second", rid="second", **terms)).state == "claimed"
            assert proxy.lose == 0
            assert (await ledger.remember("claim", "a:second", rid="third", **terms)).state == "running"

    asyncio.run(main())


async def _value(found: object) -> object:
    return found


def test_an_end_that_is_sent_again_is_still_the_first(url: str) -> None:
    """Whose one reply was lost has ended its order all the same: it is told so, and counts it."""

    async def main() -> None:
        async with proxied(url) as (proxy, address), working(address, beating=False) as ledger:
            await reserve(ledger, "r")
            proxy.lose = 1
            assert await ledger.settle("r", ONE)
            assert proxy.lose == 0
            assert not ledger._owed
            assert not await ledger.settle("r", ONE), "another end of it is not"
            assert await booked(ledger) == 1

    asyncio.run(main())


def test_a_request_that_is_cancelled_while_it_asks_takes_nothing(url: str) -> None:
    """A client that leaves while its order is being reserved is charged nothing and holds no slot."""

    async def main() -> None:
        async with working(url) as ledger:
            asking = asyncio.create_task(reserve(ledger, "gone", IMAGES, SLOTS))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await until(lambda: used(ledger), 0)
            await until(lambda: used(ledger, SLOTS), 0)
            ended = await until(lambda: _admitted(ledger, "gone"), False)
            assert ended < RETURN_LIMIT

    asyncio.run(main())


async def _admitted(ledger: RedisLedger, rid: str) -> bool:
    try:
        return (await reserve(ledger, rid)).admitted
    except StoreUnavailable:
        return False


def test_an_end_that_is_cancelled_is_delivered_all_the_same(store: EmbeddedStore) -> None:
    """A worker that is told to leave while it settles still books what was delivered, once."""

    async def main() -> None:
        async with working(store.url) as ledger:
            await reserve(ledger, "r")
            kill(store, signal.SIGSTOP)
            ending = asyncio.create_task(ledger.settle("r", ONE))
            await asyncio.sleep(0)
            ending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ending
            kill(store, signal.SIGCONT)
            await until(lambda: booked(ledger), 1)

    asyncio.run(main())


# A store that is away


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_an_outage_costs_a_second_at_first_and_nothing_later(store: EmbeddedStore, how: signal.Signals) -> None:
    """Decisions end within 1 s when the store goes, in 5 ms once that is noticed, and are right 5 s later."""

    async def main() -> None:
        async with working(store.url) as ledger:
            await reserve(ledger, "before", IMAGES, SLOTS)
            if how is signal.SIGKILL:
                kill_kept(store)
            else:
                kill(store, how)

            began = time.perf_counter()
            answers = await asyncio.gather(
                *(reserve(ledger, f"at{i}", IMAGES, SLOTS) for i in range(20)), return_exceptions=True
            )
            assert time.perf_counter() - began < DECISION_LIMIT
            assert {type(answer) for answer in answers} == {StoreUnavailable}

            times = []
            for i in range(200):
                began = time.perf_counter()
                with pytest.raises(StoreUnavailable):
                    await reserve(ledger, f"during{i}", IMAGES, SLOTS)
                times.append(time.perf_counter() - began)
            assert statistics.quantiles(times, n=20)[-1] < NOTICED_LIMIT
            began = time.perf_counter()
            assert await ledger.settle("before", ONE)
            assert time.perf_counter() - began < NOTICED_LIMIT * 2

            if how is signal.SIGSTOP:
                kill(store, signal.SIGCONT)
            else:
                start_again(store)
            await until(lambda: booked(ledger), 1)
            await until(lambda: used(ledger, SLOTS), 0)
            await until(lambda: used(ledger), 1)
            assert (await reserve(ledger, "after")).admitted
            assert await used(ledger) == 2
            assert not await ledger.settle("before", ONE), "what was owed is delivered once"
            assert await booked(ledger) == 1

    asyncio.run(main())


def test_slots_of_an_upload_that_an_outage_overtook_come_free(store: EmbeddedStore) -> None:
    """Who was admitted before the outage and could not reserve in it holds its slots no longer than that lasts."""

    async def main() -> None:
        async with working(store.url) as ledger:
            assert (await ledger.admit("edit", "design", [Charge(SLOTS, 1)], [[0]])).admitted
            kill_kept(store)
            for rid in ("notices", "edit"):
                with pytest.raises(StoreUnavailable):
                    await reserve(ledger, rid, IMAGES, SLOTS)
            start_again(store)
            await until(lambda: used(ledger, SLOTS), 0)

    asyncio.run(main())


def test_connections_that_never_answer_do_not_stand_in_the_way(url: str) -> None:
    """A host that fell silent holds no connection for ever: when new ones reach the store it is used within 5 s."""

    async def main() -> None:
        async with proxied(url) as (proxy, address), working(address) as ledger:
            await reserve(ledger, "before")
            proxy.silent.set()
            asking = []
            for i in range(24):  # each in a turn of its own, so each in a write of its own
                asking.append(asyncio.create_task(reserve(ledger, f"r{i}")))
                await asyncio.sleep(0.001)
            answers = await asyncio.gather(*asking, return_exceptions=True)
            assert {type(answer) for answer in answers} == {StoreUnavailable}
            proxy.silent = asyncio.Event()
            await until(lambda: _admitted(ledger, f"after{time.monotonic_ns()}"), True)
            await until(lambda: used(ledger), 2)

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(6))
def test_a_worker_that_leaves_as_the_store_goes_does_leave(url: str, turns: int) -> None:
    """The beat ends when it is told to, even in the very moment in which it hears of a failure."""

    async def main() -> None:
        async with working(url, beating=False) as ledger:
            beat = asyncio.create_task(ledger.run())
            await until(lambda: _value([call for call in ledger._channel._asked if not call.answer.done()]), [])
            await asyncio.sleep(0.01)
            ledger._awaited.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            beat.cancel()
            done, _ = await asyncio.wait({beat}, timeout=RETURN_LIMIT)
            assert done
            assert beat.cancelled()

    asyncio.run(main())


def test_refused_requests_of_an_outage_do_not_crowd_out_an_end(store: EmbeddedStore) -> None:
    """However many are refused while the store is away, what was delivered before is booked when it is back."""

    async def main() -> None:
        async with working(store.url) as ledger:
            await reserve(ledger, "made")
            kill_kept(store)
            for i in range(OWED + 10):
                with contextlib.suppress(StoreUnavailable):
                    await reserve(ledger, f"refused{i}")
            await ledger.settle("made", ONE)
            start_again(store)
            await until(lambda: booked(ledger), 1)
            with connected(store.url) as client:
                records: Any = client.hlen(scripts.keys("test")[1])
            assert records < 100, "what was never sent needs no tombstone"

    asyncio.run(main())


def test_ends_that_are_owed_are_delivered_together(store: EmbeddedStore) -> None:
    """After an outage the ends of a full worker go out in a few writes, so that its beat is not late for them."""

    async def main() -> None:
        async with proxied(store.url) as (proxy, address), working(address) as ledger:
            await asyncio.gather(*(reserve(ledger, f"r{i}", TOTAL) for i in range(300)))
            kill_kept(store)
            await asyncio.gather(*(ledger.settle(f"r{i}", ONE) for i in range(300)))
            before = len(proxy.writes)
            start_again(store)
            await until(lambda: booked(ledger), 300)
            assert len([chunk for chunk in proxy.writes[before:] if b"EVALSHA" in chunk]) < 60

    asyncio.run(main())


# A store that answers, but not with a decision


def test_a_store_that_forgot_the_scripts_is_told_them(url: str) -> None:
    """SCRIPT FLUSH, or a failover to a server that never had them, costs one more round trip and no request."""

    async def main() -> None:
        seen = Seen()
        async with working(url, seen=seen) as ledger:
            assert (await reserve(ledger, "before")).admitted
            with connected(url) as client:
                client.script_flush()
            verdicts = await asyncio.gather(*(reserve(ledger, f"r{i}") for i in range(5)))
            assert all(verdict.admitted for verdict in verdicts)
            assert await used(ledger) == 6
        assert not [call for call in seen.calls if call[2]]

    asyncio.run(main())


def _full(client: "redis.Redis", on: bool) -> None:
    client.config_set("maxmemory", "1" if on else "0")


def _read_only(client: "redis.Redis", on: bool) -> None:
    client.replicaof(*(("127.0.0.1", "1") if on else ("NO", "ONE")))


def _counters(url: str) -> Any:
    with redis.Redis.from_url(url) as client:
        return client.hgetall(scripts.keys("test")[0])


@pytest.mark.parametrize("spoil", [_full, _read_only])
def test_a_store_that_cannot_write_is_unavailable(
    store: EmbeddedStore, spoil: Callable[["redis.Redis", bool], None]
) -> None:
    """Out of memory or read-only, it decides nothing, writes no half of it, and is used again when it can."""

    async def main() -> None:
        with connected(store.url) as client:
            async with working(store.url) as ledger:
                await reserve(ledger, "made", IMAGES, SLOTS)
                before = _counters(store.url)
                spoil(client, True)
                with pytest.raises(StoreUnavailable):
                    await reserve(ledger, "refused", IMAGES, SLOTS)
                assert _counters(store.url) == before
                assert await ledger.settle("made", ONE)
                spoil(client, False)
                await until(lambda: booked(ledger), 1)
                await until(lambda: _admitted(ledger, "after"), True)

    asyncio.run(main())


# Clocks


@pytest.mark.parametrize("hours", [1, -1, 49, -49])
def test_a_gateway_with_a_wrong_clock_counts_by_the_stores(url: str, hours: int) -> None:
    """A clock that jumps by an hour or two days changes neither the window nor the day an order is booked under."""

    async def main() -> None:
        jump = [0.0]
        async with working(url, beating=False, wall=lambda: time.time() + jump[0]) as ledger:
            assert (await reserve(ledger, "first")).admitted
            jump[0] = hours * 3600
            second = await reserve(ledger, "second")
            assert second.admitted
            assert second.states[0].used == 2
            assert abs(second.now - time.time()) < 5
            assert abs(ledger.now() - time.time()) < 5
            assert await ledger.settle("second", ONE)
            assert await booked(ledger) == 1

    asyncio.run(main())


def test_a_charge_that_nobody_ends_is_presumed(url: str) -> None:
    """After its deadline a charge counts as unknown; whoever beats is told once; its late outcome replaces it."""

    async def main() -> None:
        seen = Seen()
        async with working(url, beating=False, deadline=0.01) as lost, working(url, seen=seen) as ledger:
            await reserve(lost, "r")
            await until(lambda: booked(ledger, "unknown"), 1)
            assert seen.presumed == [("design", LABELS, 1, 40_000)]
            # It is corrected, and said to have been ended (and so counted) before.
            assert not await lost.settle("r", settlement.refunded(sent=True))
            assert (await booked(ledger, "unknown"), await used(ledger)) == (0, 0)

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [86400, -86400, 6, -6])
def test_a_store_whose_clock_jumps_decides_nothing_until_it_is_back(url: str, seconds: int) -> None:
    """What a jumped clock would do to windows does not happen: orders are refused, the operator reads how far it is
    off, and when it is back all goes on where it was.
    """

    async def main() -> None:
        async with working(url) as ledger:
            assert (await reserve(ledger, "before")).admitted
            right = dict(ledger._scripts)
            jump(ledger, seconds)
            with pytest.raises(StoreUnavailable):
                await reserve(ledger, "meanwhile")
            assert not ledger.up
            assert re.search(r"the store's clock is \d+ s (ahead of|behind)", ledger.trouble)
            await asyncio.sleep(1.2)  # two probes
            assert not ledger.up
            ledger._scripts.update(right)
            await until(lambda: _admitted(ledger, f"after{time.monotonic_ns()}"), True)
            assert await used(ledger) == 2

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [86400, -86400])
def test_looking_at_a_jumped_clock_does_not_make_it_right(url: str, seconds: int) -> None:
    """A look at usage comes first after the jump: the orders behind it are refused all the same."""

    async def main() -> None:
        async with working(url, beating=False) as ledger:
            assert (await reserve(ledger, "before")).admitted
            jump(ledger, seconds)
            await ledger.states([IMAGES])
            with pytest.raises(StoreUnavailable):
                await reserve(ledger, "meanwhile")
            assert abs(ledger.now() - time.time()) < 5

    asyncio.run(main())


def test_a_worker_that_stood_still_does_not_take_the_stores_clock_for_wrong(url: str) -> None:
    """After a stop of seven seconds with a call under way the clock is still told by both sides alike."""

    async def main() -> None:
        steady = [uptime()]
        passed = [0.0]
        async with working(
            url, beating=False, steady=lambda: steady[0] + passed[0], wall=lambda: time.time() + passed[0]
        ) as ledger:
            await reserve(ledger, "before")
            asked = asyncio.create_task(reserve(ledger, "under-way"))
            await asyncio.sleep(0)
            passed[0] += 7  # between the asking and the hearing, as when the process was stopped
            assert (await asked).admitted
            passed[0] -= 7  # the store's clock has gone on by none of it
            assert (await reserve(ledger, "after")).admitted
            assert ledger.up

    asyncio.run(main())


def test_a_machine_that_slept_or_was_set_still_tells_the_stores_clock(url: str) -> None:
    """One of our two clocks may be wrong: asleep for an hour, or set by two. Both at once, and nothing is decided."""

    async def main() -> None:
        slept, was_set = [0.0], [0.0]
        async with working(
            url, beating=False, steady=lambda: uptime() - slept[0], wall=lambda: time.time() + was_set[0]
        ) as ledger:
            assert (await reserve(ledger, "first")).admitted
            slept[0] = 3600
            assert (await reserve(ledger, "second")).admitted
            was_set[0] = 7200
            assert (await reserve(ledger, "third")).admitted
            slept[0], was_set[0] = 0, 0
            with pytest.raises(StoreUnavailable):
                await reserve(ledger, "fourth")

    asyncio.run(main())


def jump(ledger: RedisLedger, seconds: int) -> None:
    """Let the store's clock, as the scripts read it, be off."""
    off = f"(function() local t = redis.call('TIME') return {{t[1] + {seconds}, t[2]}} end)()"
    for name, script in ledger._scripts.items():
        text = script.text.replace(CLOCK[0], off)
        ledger._scripts[name] = scripts.Script(name, text, f"{name}{seconds}".ljust(40, "0"))


# A store that has forgotten


def _flush(client: Any) -> None:
    client.flushall()


def _lose_the_last(client: Any) -> None:
    """As a replica that took over without the last write of each worker."""
    meta = scripts.keys("test")[5]
    for seat, number in client.hgetall(meta).items():
        if seat.startswith("w:"):
            client.hset(meta, seat, int(number) - 1)


def test_an_order_that_the_store_forgot_ends_as_its_first_end(url: str) -> None:
    """What was made while the store lost its reservation is said to have ended now, so that this host counts it; its
    usage does not have it, and that is told. A refund of such a one says nothing.
    """

    async def main() -> None:
        seen = Seen()
        async with working(url, seen=seen) as ledger:
            for rid in ("r", "kept", "back"):
                await reserve(ledger, rid)
            assert await ledger.settle("kept", ONE)
            with connected(url) as client:
                client.flushall()
            assert await ledger.settle("r", ONE)
            assert await ledger.settle("back", settlement.refunded(sent=True))
            assert seen.unbooked == [("r", 1)]

    asyncio.run(main())


def test_an_end_that_finds_no_room_is_told(store: EmbeddedStore) -> None:
    """Where more ends wait for the store than are kept, those left out are named, and all others delivered."""

    async def main() -> None:
        seen = Seen()
        async with working(store.url, seen=seen) as ledger:
            await reserve(ledger, "made")
            await reserve(ledger, "later")
            kill_kept(store)
            await ledger.settle("made", ONE)
            for i in range(OWED - 1):
                await ledger.settle(f"other{i}", settlement.refunded(sent=False))
            await ledger.settle("later", ONE)
            assert seen.unbooked == [("later", 1)]
            start_again(store)
            await until(lambda: booked(ledger), 1)

    asyncio.run(main())


@pytest.mark.parametrize("lose", [_flush, _lose_the_last])
def test_lost_history_is_noticed_once_by_each_gateway(url: str, lose: Callable[[Any], None]) -> None:
    """Two hosts learn of each loss in a few seconds, though nobody orders, and count it once; without one, never."""

    async def main() -> None:
        here, there = Seen(), Seen()
        async with working(url, seen=here) as one, working(url, seen=there) as other:
            for i in range(5):
                await reserve(one, f"a{i}")
                await reserve(other, f"b{i}")
            await asyncio.sleep(2.5)
            assert (one.lost, other.lost, here.forgot, there.forgot) == (0, 0, [], [])
            for times in (1, 2):
                with connected(url) as client:
                    lose(client)
                await until(lambda: _value([one.lost, other.lost]), [times, times])
                assert (sum(here.forgot), sum(there.forgot)) == (times, times)
                assert (await reserve(one, f"again{times}")).admitted
                await asyncio.sleep(2.5)
                assert (one.lost, other.lost) == (times, times)
        async with working(url) as later:
            assert later.lost == 2, "who comes later hears of it, as of something past"

    asyncio.run(main())


def test_calls_sent_again_are_no_loss(url: str) -> None:
    """Replies lost on the way, and calls sent twice for it, do not look like lost history."""

    async def main() -> None:
        seen = Seen()
        async with proxied(url) as (proxy, address), working(address, seen=seen) as ledger:
            for i in range(30):
                proxy.lose = i % 3 == 0
                with contextlib.suppress(StoreUnavailable):
                    await asyncio.gather(*(reserve(ledger, f"r{i}-{j}", TOTAL) for j in range(5)))
            await until(lambda: _value(ledger.up), True)
            await asyncio.sleep(2.5)
            assert (ledger.lost, seen.forgot) == (0, [])

    asyncio.run(main())


def test_workers_that_are_long_gone_are_forgotten(url: str) -> None:
    """What is kept of each worker has a bound: a day after its last call it may go, and those at work stay."""

    async def main() -> None:
        meta = scripts.keys("test")[5]
        async with working(url) as ledger:
            day = 86_400_000
            with connected(url) as client:
                now = int(time.time() * 1000)
                client.hset(meta, mapping={f"w:old{i}": now - day - 1000 for i in range(400)})
                client.hset(meta, mapping={f"w:new{i}": now - 1000 for i in range(50)})
            ledger._awaited.set()

            async def kept() -> int:
                with connected(url) as client:
                    return sum(1 for field in client.hkeys(meta) if str(field).startswith("w:"))

            await until(kept, 51)
            assert ledger.lost == 0

    asyncio.run(main())


SPEED = 20


class FastSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / SPEED)


class FastLoop(asyncio.SelectorEventLoop):
    """A loop on which twenty seconds pass in one."""

    def __init__(self) -> None:
        super().__init__(FastSelector())

    def time(self) -> float:
        return super().time() * SPEED


def run_fast(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        runner.run(main)


def hurry(ledger: RedisLedger, since: int) -> None:
    """Let the store's clock, as the scripts read it, run as fast as FastLoop's, from `since` (unix ms) on."""
    fast = (
        "(function() local t = redis.call('TIME') "
        f"local ms = {since} + (t[1] * 1000 + math.floor(t[2] / 1000) - {since}) * {SPEED} "
        "return {math.floor(ms / 1000), ms % 1000 * 1000} end)()"
    )
    for name, script in ledger._scripts.items():
        text = script.text.replace(CLOCK[0], fast)
        ledger._scripts[name] = scripts.Script(name, text, f"{name:0<40}")


def test_slots_of_a_dead_worker_come_free_and_those_of_a_live_one_do_not(url: str) -> None:
    """A slot ends 30 s after its worker's last sign of life, and not at all while that renews it."""

    async def main() -> None:
        since = int(time.time() * 1000)
        began = asyncio.get_running_loop().time()

        def passed() -> float:
            return asyncio.get_running_loop().time() - began

        def clock() -> float:
            return since / 1000 + (time.time() - since / 1000) * SPEED

        async with (
            working(url, wall=clock, steady=clock) as live,
            working(url, beating=False, wall=clock, steady=clock) as dead,
        ):
            hurry(live, since)
            hurry(dead, since)
            assert (await reserve(live, "live", TOTAL, SLOTS)).admitted
            assert (await reserve(dead, "dead", TOTAL, SLOTS)).admitted
            assert not (await reserve(live, "third", TOTAL, SLOTS)).admitted
            freed = 0.0
            while passed() < 80:
                with contextlib.suppress(StoreUnavailable):
                    held = await used(live, SLOTS)
                    assert held >= 1, "the live one lost its slot"
                    if held == 1 and not freed:
                        freed = passed()
                await asyncio.sleep(0.5)
            assert 30 <= freed < 45
            assert await used(live, TOTAL) == 2, "the end of a lease gives no charge back"

    run_fast(main())
