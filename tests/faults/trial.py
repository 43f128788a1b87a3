"""One trial: two hosts before one store and one upstream, clients that order, faults; then peace; then the check.

When the clients have stopped, one host is killed as a last act. The trial waits until the other has freed its slots
and presumed its charges: nothing is hurried, and no clock but the real one is used.
"""

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.file import load
from tests.faults import storelog, workload
from tests.faults.checker import SPARE_DESCRIPTORS, Verdict, bought_again, check
from tests.faults.clients import Client
from tests.faults.cutting import Link
from tests.faults.history import Attempt, Descriptors, Fault, Generation, History, Left, Told
from tests.faults.host import Host
from tests.faults.injector import HARMLESS, NAMESPACE, OFTEN, STEADY, Injector
from tests.faults.stores import Store
from tests.faults.variants import STEPPED_CLOCK
from tests.support.running import running_gateway
from tests.support.simulated import SimulatorThread, running_simulator

LATENCY = 0.6  # seconds that the upstream takes
AFTER = 4.0  # seconds in which clients order after the last fault
CONTROL = 8.0  # seconds of orders that make a wrong variant show
KILL = "kill host"
LOOK = 0.1  # seconds between two looks whether all is settled
KEPT = 10.0  # seconds for which a connection may be kept without a request on it, and more

SLOTS_FREE = 35.0  # seconds after a kill -9: contract 5.2's lease of 30, and a beat
SETTLED = workload.PRESUMED_AFTER + 30.0  # seconds until every charge has come to an end


@dataclass(frozen=True, slots=True)
class Plan:
    """stores: one, or a primary with replicas that take over in turn. harmless: only what leaves every process alone.

    last: the fault that comes at the end, beside nothing else; a harmless plan leaves out the kill.

    variant: a name of tests.faults.variants, or none for the gateway as it is.
    """

    seed: str
    seconds: float
    hosts: int = 2
    workers: int = 4
    stores: int = 1
    fsync: str = "everysec"
    harmless: bool = False
    variant: str = ""
    last: str = KILL


@dataclass
class Outcome:
    """bought_again: see checker. freed: seconds from the last kill to the last slot."""

    plan: Plan
    verdict: Verdict
    attempts: list[Attempt]
    faults: list[Fault]
    store_cuts: int
    upstream_cuts: int
    bought_again: int
    freed: float | None
    history: History = field(repr=False)


async def run(plan: Plan, quiet: asyncio.Event) -> Outcome:
    """quiet: set when the clients have gone and nothing is left but to wait, and at the end in any case."""
    try:
        return await _run(plan, quiet)
    finally:
        quiet.set()


async def _run(plan: Plan, quiet: asyncio.Event) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="faults-") as name, running_simulator(latency=LATENCY) as simulator:
        folder = Path(name)
        async with _stores(folder, plan) as stores, Link(stores[0].port) as to_store, Link(simulator.port) as up:
            async with _hosts(plan, to_store, up) as hosts:
                injector = Injector(random.Random(plan.seed), hosts, stores, to_store, up, simulator)
                clients, freed = await _order(plan, hosts, injector)
                quiet.set()
                await _settle(plan, injector)
                left = _left(stores[0])
                descriptors = await _descriptors(hosts)
                told = _told(hosts)
                noticed = max(sum(line["times"] for line in host.logged("store history lost")) for host in hosts)
                limits = workload.limits(load(hosts[0].gateway.folder / "config.yaml"))
            history = History(
                attempts=[attempt for client in clients for attempt in client.attempts],
                generations=_generations(simulator),
                steps=storelog.steps(stores[0].folder, NAMESPACE),
                left=left,
                limits=limits,
                prices=workload.PRICES,
                faults=injector.faults,
                descriptors=descriptors,
                told=told,
                noticed=noticed,
            )
    orders = {token: order for client in clients for token, order in client.orders.items()}
    return Outcome(
        plan=plan,
        verdict=check(history),
        attempts=history.attempts,
        faults=injector.faults,
        store_cuts=to_store.cuts,
        upstream_cuts=up.cuts,
        bought_again=bought_again(history, orders),
        freed=freed,
        history=history,
    )


async def _order(plan: Plan, hosts: list[Host], injector: Injector) -> tuple[list[Client], float | None]:
    """The clients when they have gone, and the seconds after which a killed host's slots were free."""
    ends = time.monotonic() + plan.seconds
    urls = [host.gateway.url for host in hosts]
    clients = [
        Client(team, number, urls, seed=plan.seed) for team in workload.TEAMS for number in range(workload.CLIENTS)
    ]

    over = asyncio.Event()

    def goes_on() -> bool:
        return time.monotonic() < ends

    for host in hosts:
        host.note_descriptors()
    async with asyncio.TaskGroup() as group:
        ordering = [group.create_task(client.run(lambda: not over.is_set())) for client in clients]
        stepped = plan.variant == STEPPED_CLOCK
        await injector.run(goes_on, often=HARMLESS if plan.harmless else STEADY if stepped else OFTEN)
        injector.heal()
        if plan.last != KILL:
            await injector.do(plan.last)
            await asyncio.sleep(AFTER)  # clients go on, and take what has come free
        over.set()
        freed = await _kill_for_good(hosts[-1], injector) if not plan.harmless and plan.last == KILL else None
        await asyncio.wait(ordering)
    return clients, freed


async def _kill_for_good(host: Host, injector: Injector) -> float:
    """Seconds until no slot is held that was held at the kill, whoever held it."""
    began = time.monotonic()
    host.kill()
    injector.faults.append(Fault("kill host", began, time.monotonic()))
    held = _left(injector.stores[0]).leases
    while time.monotonic() < began + 2 * SLOTS_FREE:
        if not held & _left(injector.stores[0]).leases:
            break
        await asyncio.sleep(LOOK)
    return time.monotonic() - began


async def _settle(plan: Plan, injector: Injector) -> None:
    """Wait till no slot is held and no charge is open, or for as long as that may take at the most."""
    ends = time.monotonic() + (10.0 if plan.harmless else SETTLED)
    while time.monotonic() < ends:
        left = _left(injector.stores[0])
        held = any(isinstance(value, int) and value for value in left.counters.values())
        if not (held or left.leases or left.open):
            return
        await asyncio.sleep(LOOK)


async def _descriptors(hosts: list[Host]) -> list[Descriptors]:
    """When the connections that were kept for the next request have gone, or should have."""
    ends = time.monotonic() + KEPT
    while True:
        found = [each for host in hosts for each in host.descriptors()]
        if time.monotonic() > ends or all(each.ended <= each.begun + SPARE_DESCRIPTORS for each in found):
            return found
        await asyncio.sleep(LOOK)


def _told(hosts: list[Host]) -> dict[str, Told]:
    return {
        line["reservation_id"]: Told(line["images"], line["end"] == "presumed")
        for host in hosts
        for line in host.logged("charge not in the usage ledger")
    }


def _left(store: Store) -> Left:
    with store.client() as client:
        return storelog.left(client, NAMESPACE)


def _generations(simulator: SimulatorThread) -> list[Generation]:
    found = []
    for request in simulator.record.requests:
        if not request.complete or not request.endpoint:
            continue
        quality = "standard" if request.endpoint == "edits" else str(request.field("quality"))
        kind = (request.endpoint, str(request.field("size")), quality, int(str(request.field("n"))))
        token, decided = str(request.field("prompt")), request.decided_at
        found.append(Generation(token, kind, request.images_made, decided, decided + LATENCY))
    return found


@contextlib.asynccontextmanager
async def _stores(folder: Path, plan: Plan) -> AsyncIterator[list[Store]]:
    stores = [Store(folder / f"store-{number}", fsync=plan.fsync) for number in range(plan.stores)]
    every = list(stores)
    try:
        for store in stores:
            await asyncio.to_thread(store.start)
        for replica in stores[1:]:
            await asyncio.to_thread(replica.follow, stores[0])
        yield stores
    finally:
        for store in every:
            store.kill()


@contextlib.asynccontextmanager
async def _hosts(plan: Plan, to_store: Link, to_upstream: Link) -> AsyncIterator[list[Host]]:
    module: Sequence[str] = ("tests.faults.variants", plan.variant) if plan.variant else ("gateway",)
    config = workload.config(f"http://127.0.0.1:{to_upstream.port}/v1", workers=plan.workers)
    environ = {"TEST_STORE_URL": f"redis://127.0.0.1:{to_store.port}/0"}
    with contextlib.ExitStack() as stack:
        hosts = [
            Host(stack.enter_context(running_gateway(config=config, environ=environ, module=module, start=False)))
            for _ in range(plan.hosts)
        ]
        await asyncio.gather(*(host.start() for host in hosts))
        try:
            yield hosts
        finally:
            await asyncio.gather(*(asyncio.to_thread(host.stop) for host in hosts))
