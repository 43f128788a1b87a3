"""Faults, one after the other, as a seed has them; each is over, and told, before the next begins.

The store's faults are put in between the gateways and the store as well as in the store itself; so are the upstream's.
What is done is written down with the time at which all was well again.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tests.faults.cutting import Direction, Link
from tests.faults.history import EMPTIED, Fault
from tests.faults.host import Host
from tests.faults.stores import Store
from tests.faults.variants import CLOCK_KEY
from tests.faults.workload import MISBEHAVIOURS
from tests.support.simulated import SimulatorThread

NAMESPACE = "gateway"  #: of the gateways' keys in the store

PAUSE, SHORT_PAUSE = (0.1, 1.0), (0.03, 0.15)  # seconds between two faults, and between two harmless ones
LONGEST_ANSWER, LONGEST_REPLY = 900, 400  # bytes of the upstream's and of the store's, in which a reset falls

#: What can happen, and how often for each time that a host is killed.
OFTEN = {
    "kill worker": 6,
    "kill master": 1,
    "kill host": 1,
    "freeze worker": 4,
    "reload": 1,
    "kill store": 4,
    "freeze store": 3,
    "slow store": 3,
    "busy store": 2,
    "reset store": 12,
    "flush scripts": 2,
    "full store": 2,
    "read-only store": 2,
    "full disk": 2,
    "reset upstream": 12,
    "upstream misbehaves": 16,
}

#: What a store that has replicas is spared; see Injector.
ALONE = frozenset({"kill store", "read-only store"})

PAST_A_LEASE = (32.0, 36.0)  # seconds of a long freeze: a lease is 30

#: Seconds by which a clock is set: what a gateway bears with, and what it must not decide by.
STEPS = (-3600, -3, 3, 3600)

#: While a clock is set nobody may begin, for what a store says first is believed.
STEADY = {name: weight for name, weight in OFTEN.items() if name not in ("kill worker", "kill master", "kill host")}
del STEADY["reload"]
STEADY["step clock"] = 16

#: Reservations that are open when the store is emptied, and how often is looked for them.
_UNDER_WAY = 3
_LOOKS = 500
_FLUSH_AMONG = """
local reserved = 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local kept = redis.call('HGET', KEYS[2], id)
  if kept and cmsgpack.unpack(kept).state == 'reserved' then reserved = reserved + 1 end
end
if reserved < tonumber(ARGV[1]) then return 0 end
redis.call('FLUSHALL')
return 1
"""

#: What leaves every process alone, so that all ends are told at once.
HARMLESS = {"reset store": 12, "reset upstream": 4, "upstream misbehaves": 8, "flush scripts": 1}


@dataclass
class Injector:
    """stores: the first is the primary; every other one is a replica, and good for one failover.

    A primary with replicas is only killed as one of them takes over, and never made a replica itself: afterwards it
    would send them all it has, and their files, which are read as the history, would begin anew.
    """

    chance: random.Random
    hosts: list[Host]
    stores: list[Store]
    to_store: Link
    to_upstream: Link
    simulator: SimulatorThread
    faults: list[Fault] = field(default_factory=list)

    async def run(self, goes_on: Callable[[], bool], *, often: Mapping[str, int] = OFTEN) -> None:
        alone = len(self.stores) == 1
        names = [name for name in often if alone or name not in ALONE]
        weights = [often[name] for name in names]
        pause = SHORT_PAUSE if often is HARMLESS else PAUSE
        while goes_on():
            await asyncio.sleep(self.chance.uniform(*pause))
            if len(self.stores) > 1 and self.chance.random() < 0.06:
                await self.do("failover")
            else:
                await self.do(self.chance.choices(names, weights)[0])
        while len(self.stores) > 1:  # none is left out for lack of luck
            await self.do("failover")

    async def do(self, name: str) -> None:
        deeds: dict[str, Callable[[], Awaitable[None]]] = {
            "kill worker": self._kill_worker,
            "kill master": self._kill_master,
            "kill host": self._kill_host,
            "freeze worker": self._freeze_worker,
            "reload": self._reload,
            "kill store": self._kill_store,
            "freeze store": self._freeze_store,
            "slow store": self._slow_store,
            "busy store": self._busy_store,
            "reset store": self._reset_store,
            "flush scripts": self._flush_scripts,
            "full store": self._fill_store,
            "read-only store": self._forbid_writing,
            "full disk": self._fill_disk,
            "step clock": self._step_clock,
            EMPTIED: self._lose_history,
            "freeze worker past a lease": self._freeze_worker_past_a_lease,
            "freeze store past a lease": self._freeze_store_past_a_lease,
            "reset upstream": self._reset_upstream,
            "upstream misbehaves": self._misbehave,
            "failover": self._fail_over,
        }
        began = time.monotonic()
        await deeds[name]()
        self.faults.append(Fault(name, began, time.monotonic()))

    def heal(self) -> None:
        """Nothing more is to go wrong."""
        for link in (self.to_store, self.to_upstream):
            link.disarm()
            link.delay = 0.0
        self.simulator.simulator.clear_script()

    @property
    def _host(self) -> Host:
        return self.chance.choice(self.hosts)

    @property
    def _store(self) -> Store:
        return self.stores[0]

    async def _kill_worker(self) -> None:
        if workers := self._host.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(workers), signal.SIGKILL)

    async def _kill_master(self) -> None:
        host = self._host
        host.kill_master()
        await host.start()

    async def _kill_host(self) -> None:
        host = self._host
        host.kill()
        await asyncio.sleep(self.chance.uniform(0.0, 1.0))
        await host.start()

    async def _freeze_worker(self, seconds: tuple[float, float] = (0.1, 3.0)) -> None:
        if not (workers := self._host.workers()):
            return
        pid = self.chance.choice(workers)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(self.chance.uniform(*seconds))
            os.kill(pid, signal.SIGCONT)

    async def _freeze_worker_past_a_lease(self) -> None:
        await self._freeze_worker(PAST_A_LEASE)

    async def _reload(self) -> None:
        os.kill(self._host.gateway.pid, signal.SIGHUP)

    async def _kill_store(self) -> None:
        await asyncio.to_thread(self._store.kill)
        await asyncio.sleep(self.chance.uniform(0.0, 2.0))
        await asyncio.to_thread(self._store.start)

    async def _freeze_store(self, seconds: tuple[float, float] = (0.1, 4.0)) -> None:
        self._store.freeze()
        await asyncio.sleep(self.chance.uniform(*seconds))
        self._store.thaw()

    async def _freeze_store_past_a_lease(self) -> None:
        await self._freeze_store(PAST_A_LEASE)

    async def _slow_store(self) -> None:
        self.to_store.delay = self.chance.uniform(0.02, 0.3)
        await asyncio.sleep(self.chance.uniform(0.5, 2.0))
        self.to_store.delay = 0.0

    async def _busy_store(self) -> None:
        await asyncio.to_thread(self._store.ask, "DEBUG", "SLEEP", f"{self.chance.uniform(0.1, 1.5):.2f}")

    async def _reset_store(self) -> None:
        way: Direction = self.chance.choice(["up", "down", "down"])
        for _ in range(self.chance.choice([1, 1, 2, 5])):
            # Most fall among decisions; left to itself each but the first would fall in a greeting.
            decided = self.chance.random() < 0.75
            self.to_store.arm(way, self.chance.randrange(LONGEST_REPLY), decided=decided)

    async def _flush_scripts(self) -> None:
        await asyncio.to_thread(self._store.ask, "SCRIPT", "FLUSH")

    async def _fill_store(self) -> None:
        await self._spoil(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))

    async def _forbid_writing(self) -> None:
        await self._spoil(("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"))

    async def _step_clock(self) -> None:
        step = self.chance.choice(STEPS)
        await self._spoil(("SET", CLOCK_KEY, str(step)), ("SET", CLOCK_KEY, "0"))

    async def _spoil(self, wrong: tuple[str, ...], right: tuple[str, ...]) -> None:
        await asyncio.to_thread(self._store.ask, *wrong)
        await asyncio.sleep(self.chance.uniform(0.2, 2.0))
        await asyncio.to_thread(self._store.ask, *right)

    async def _fill_disk(self) -> None:
        self._store.fill_disk()
        await asyncio.sleep(self.chance.uniform(0.5, 3.0))
        await asyncio.to_thread(self._store.clear_disk)

    async def _lose_history(self) -> None:
        """In a moment in which orders are under way, if there is one: without any there would be nothing to tell."""
        keys = [f"{{{NAMESPACE}}}:{name}" for name in ("open", "records")]
        for _ in range(_LOOKS):
            # At once: between a look and the flush they might have ended.
            if await asyncio.to_thread(self._store.ask, "EVAL", _FLUSH_AMONG, "2", *keys, str(_UNDER_WAY)):
                return
            await asyncio.sleep(0.01)
        await asyncio.to_thread(self._store.ask, "FLUSHALL")

    async def _reset_upstream(self) -> None:
        way: Direction = self.chance.choice(["up", "down"])
        for _ in range(self.chance.choice([1, 2, 3])):
            self.to_upstream.arm(way, self.chance.randrange(LONGEST_ANSWER))

    async def _misbehave(self) -> None:
        self.simulator.script(self.chance.choice(MISBEHAVIOURS))

    async def _fail_over(self) -> None:
        """As a controlled one goes: nobody writes any more, the replica has all, the old primary dies."""
        old, new, *others = self.stores
        self.to_store.close()
        await asyncio.to_thread(new.take_over, old, others)
        await asyncio.to_thread(old.kill)
        self.stores[:] = [new, *others]
        self.to_store.open(new.port)
