"""The ledger in Redis or Valkey: every decision is one script call, so it is atomic over all workers and hosts.

A call that gets no answer within a second is StoreUnavailable; from then on every call is refused at once until the
store answers again, which is tried twice a second. All scripts are idempotent by reservation id, as the channel
needs it, which sends a call again when its connection dies. What could not be ended is kept and delivered when the
store is back.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from redis.exceptions import RedisError, ResponseError

from gateway.core import outcomes
from gateway.core.errors import StoreUnavailable
from gateway.core.quota import Charge, Per, Rule, RuleState, Verdict
from gateway.core.settlement import End, Settlement
from gateway.core.windows import Calendar
from gateway.ledger import scripts
from gateway.ledger.administration import Administration
from gateway.ledger.base import Booking, Remembered
from gateway.ledger.channel import Channel
from gateway.ledger.resp import command
from gateway.ledger.servers import Finder, StoreUnfit
from gateway.ledger.witness import Mark, StoreClock, Witness, uptime

DECISION = 0.9  #: seconds until a call is given up: a decision ends within one
PROBE = 0.5  #: seconds between tries while the store is away
BEAT = 2.0  #: seconds between beats; five of them without one mean that the store was away (records.lua)
RENEWAL = 10.0  #: seconds between renewals of a lease of 30
OWED = 20_000  #: undelivered ends kept; more than a worker can have in flight
_USES_KEPT = 400 * 86_400  # seconds: as long as what was used
TOGETHER = 200  #: ends delivered in one write: a full worker's take a second after an outage, between two beats

_STALE, _OFF = (
    -1,
    -3,
)  # statuses of the scripts: our windows do not hold its present, its clock is not where we saw it go
_WHICH, _CUT = -4, -5  # statuses of reserve: the order has to be named; it was cut off before
_UNKNOWN = -1  #: status of settle
_SIGNED = frozenset({"admit", "reserve", "settle", "beat"})  # what writes, and would tell of a loss

_AWAY = "The quota store cannot be reached, so nothing was sent. Try again in a few seconds."

#: (team, labels, images, micro-dollars) of a charge that was presumed because nobody ended it.
Presumed = tuple[str, str, int, int]


class RedisLedger:
    """One per worker and event loop. `run` must be running for leases to be renewed and ends to be delivered.

    deadline, patience: seconds until a charge is presumed, and until an admission is forgotten.
    observe(operation, seconds, failed) is told of every call; presumed(charges) of what a beat ended; forgot(times)
    when the store turns out to have lost history; unbooked(id, end, why) of images that stand in no usage because the
    store has lost their reservation or their end could not be kept for it. wall, steady: our clocks, seconds.
    """

    def __init__(
        self,
        finder: Finder,
        *,
        namespace: str,
        deadline: float,
        patience: float,
        observe: Callable[[str, float, bool], None],
        presumed: Callable[[list[Presumed]], None],
        forgot: Callable[[int], None] = lambda _: None,
        unbooked: Callable[[str, Settlement, str], None] = lambda *_: None,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = uptime,
    ) -> None:
        self._channel = Channel(finder, limit=DECISION)
        self._namespace, self._keys = namespace, scripts.keys(namespace)
        self._scripts = {name: scripts.load(name) for name in scripts.NAMES}
        self.deadline, self.patience = deadline, patience
        self._observe, self._presumed, self._forgot, self._unbooked = observe, presumed, forgot, unbooked
        self._calendar = Calendar()
        self._clock = StoreClock(steady, wall)
        self._witness = Witness(self._clock)
        self._leases: set[str] = set()
        self._owed: dict[str, Settlement] = {}
        self._awaited = asyncio.Event()  # the next beat need not be waited for: a call has failed, an end is owed
        self.up = False
        self.contacted = False  #: whether the store ever answered
        self.trouble = ""  #: what kind of error the last failed call had; never its words, which may hold a secret

    async def admit(self, rid: str, team: str, charges: Sequence[Charge], orders: Sequence[Sequence[int]]) -> Verdict:
        def ask(now: int) -> bytes:
            return scripts.admission(
                rid, team, charges, orders, calendar=self._calendar, now=now, patience=int(self.patience * 1000)
            )

        return self._verdict(rid, charges, await self._answer("admit", rid, ask))

    async def reserve(self, rid: str, charges: Sequence[Charge], booking: Booking) -> Verdict:
        order = None if booking.repeated is not None else ""

        def ask(now: int) -> bytes:
            deadline = int(self.deadline * 1000)
            return scripts.reservation(
                rid, charges, booking, calendar=self._calendar, now=now, deadline=deadline, order=order
            )

        answer = await self._answer("reserve", rid, ask)
        if answer[0] == _WHICH and booking.repeated is not None:
            order = scripts.named(self._keys[-1], scripts.CUT, booking.repeated())
            answer = await self._answer("reserve", rid, ask)
        if answer[0] == _CUT:
            raise outcomes.repeated(answer[3], seconds=-(-answer[2] // 1000))
        return self._verdict(rid, charges, answer)

    async def _answer(self, operation: str, rid: str, ask: Callable[[int], bytes]) -> Any:
        if not self.up or rid in self._owed:
            # Nothing is asked, so there will be nothing to take back but the slots of an earlier answer. What is still
            # to be taken back under this id would take back this answer too.
            if rid in self._leases:
                self._owe(rid, Settlement(End.REFUNDED, 0, 0, 0))
            raise StoreUnavailable(_AWAY)
        try:
            answer = await self._asked(operation, ask)
        except (StoreUnavailable, asyncio.CancelledError):
            # It may have been taken without our knowing. The tombstone this leaves also refuses a late arrival.
            self._owe(rid, Settlement(End.REFUNDED, 0, 0, 0))
            raise
        return answer

    def _verdict(self, rid: str, charges: Sequence[Charge], answer: Sequence[int]) -> Verdict:
        if answer[0] < 0:
            raise StoreUnavailable(_AWAY)
        verdict = scripts.verdict(charges, answer)
        if verdict.admitted:
            self._leases.add(rid)
        return verdict

    async def _asked(self, operation: str, ask: Callable[[int], bytes], *, probing: bool = False) -> Any:
        """The answer to what names windows: by the store's clock, where those of ours do not hold its present."""
        asked = self._clock.mark()
        answer = await self._call(operation, ask(self._clock.now()), probing=probing, asked=asked)
        # What only looks has not been asked whether the store's clock is right, and does not make it right.
        if operation in _SIGNED or self._clock.accounts_for(answer[1], asked):
            self._clock.told(answer[1], asked)
        if answer[0] in (_STALE, _OFF):  # the second, where it was one of our own clocks that was off
            answer = await self._call(operation, ask(answer[1]), probing=probing)
        return answer

    def administration(self, *, probing: bool = False) -> Administration:
        """probing: for a command, which has no beat that would find the store."""
        return Administration(partial(self._asked, probing=probing), self._namespace, self._calendar)

    async def settle(self, rid: str, settlement: Settlement) -> bool:
        self._leases.discard(rid)
        try:
            status, before = await self._end(rid, settlement)
        except StoreUnavailable:
            self._owe(rid, settlement)
            return True
        except asyncio.CancelledError:
            self._owe(rid, settlement)
            raise
        # An id that is unknown was reserved and lost with the store's history: nobody has told of its end before.
        return bool(status == _UNKNOWN or (status == 1 and before != End.PRESUMED))

    async def states(self, rules: Sequence[Rule]) -> list[RuleState]:
        return list((await self.weigh(scripts.look(rules))).states)

    async def weigh(self, charges: Sequence[Charge], *, probing: bool = False) -> Verdict:
        """What `reserve` would say of these charges now. Nothing is taken. probing: as for `administration`."""

        def ask(now: int) -> bytes:
            return scripts.dumps(scripts.counters_and_rules(charges, self._calendar, now))

        answer = await self._asked("usage", ask, probing=probing)
        verdict = scripts.verdict(charges, answer)
        states = tuple(replace(state, refused=state.used + state.amount > state.limit) for state in verdict.states)
        verdict = replace(verdict, states=states)
        return replace(verdict, admitted=not verdict.refusals)

    async def usage(self, teams: Sequence[tuple[str, str]]) -> dict[str, dict[str, dict[str, int]]]:
        now = self._clock.now()
        periods = [
            period
            for team, zone in teams
            for period in scripts.periods(team, zone, self._calendar.bounds(Per.DAY, zone, now).start)
        ]
        tables = await self.booked(periods)
        return {team: {"day": tables[2 * i], "month": tables[2 * i + 1]} for i, (team, _) in enumerate(teams)}

    async def keep_uses(self, uses: Mapping[str, float]) -> None:
        """Put down when each ``team|key`` was last used (unix seconds), where that is later than what is known."""
        if not self.up:
            raise StoreUnavailable(_AWAY)
        key = self._keys[-1] + "keys"
        oldest = self.now() - _USES_KEPT
        words = [word for name, at in uses.items() for word in (str(int(at)), name)]
        asked = [
            self._channel.ask(command("ZADD", key, "GT", *words)),
            self._channel.ask(command("ZREMRANGEBYSCORE", key, "-inf", str(int(oldest)))),
        ]
        await self._timed("usage", asyncio.gather(*asked))

    async def last_uses(self) -> dict[str, float]:
        """Unix seconds by ``team|key``, of all used in the last 400 days. Finds the store, as `administration` does."""
        asked = self._channel.ask(command("ZRANGE", self._keys[-1] + "keys", "0", "-1", "WITHSCORES"))
        flat = await self._timed("usage", asked)
        return {name: float(at) for name, at in zip(flat[::2], flat[1::2], strict=True)}

    async def about(self) -> dict[str, str]:
        """What the server says of itself (INFO), and ``history_lost``: how often it has turned out to have forgotten.

        Finds the store, as `administration` does. A user that may not ask for INFO gets StoreUnavailable.
        """
        meta = self._keys[scripts.META]
        asked = [self._channel.ask(command("INFO")), self._channel.ask(command("HGET", meta, "lost"))]
        info, lost = await self._timed("usage", asyncio.gather(*asked))
        facts = (line.partition(":") for line in info.splitlines())
        return {**{name: value for name, found, value in facts if found}, "history_lost": lost or "0"}

    async def booked(self, periods: Sequence[str]) -> list[dict[str, int]]:
        """The usage of each team's day (``design:2026-11-22``) or month (``design:2026-11``): usage field -> number."""
        asked = [self._channel.ask(command("HGETALL", self._keys[-1] + period)) for period in periods]
        read = await self._timed("usage", asyncio.gather(*asked))
        return [dict(zip(flat[::2], map(int, flat[1::2]), strict=True)) for flat in read]

    async def booked_teams(self) -> list[str]:
        """Every team that had usage in the last 400 days, whether or not the config still has it."""
        asked = self._channel.ask(command("ZRANGE", self._keys[-1] + "teams", "0", "-1"))
        return list(await self._timed("usage", asked))

    async def remember(self, act: str, key: str, **facts: object) -> Remembered:
        name = scripts.named(self._keys[-1], scripts.IDEMPOTENT, key)
        try:
            answer = await self._call("remember", scripts.dumps({"act": act, "key": name, **facts}))
        except (StoreUnavailable, asyncio.CancelledError):
            if act == "claim":  # it may be held without our knowing: the tombstone of its reservation frees it
                self._owe(str(facts["rid"]), Settlement(End.REFUNDED, 0, 0, 0))
            raise
        state, print_, _, status, body, headers, reservation = answer
        return Remembered(state, print_, int(status or 0), body, headers, reservation)

    async def connect(self, limit: float) -> None:
        """Wait for the first contact with the store, `limit` seconds at most; without it, calls are refused."""
        ends = asyncio.get_running_loop().time() + limit
        while not self.contacted and asyncio.get_running_loop().time() < ends:
            with contextlib.suppress(StoreUnavailable):
                await self._beat([])
                return
            await asyncio.sleep(PROBE / 5)

    async def run(self) -> None:
        """Beat until cancelled: renew, presume, deliver what is owed, notice the store's going and coming."""
        renewed = 0.0
        while True:
            due = asyncio.get_running_loop().time() - renewed >= RENEWAL
            self._awaited.clear()
            try:
                await self._beat(list(self._leases) if due or not self.up else [])
                if due:
                    renewed = asyncio.get_running_loop().time()
                await self._deliver()
            except StoreUnavailable:
                await asyncio.sleep(PROBE)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BEAT):  # wait_for of Python 3.11 may swallow the order to end
                        await self._awaited.wait()

    async def close(self) -> None:
        """Deliver what is owed if that can be done now, and let the connections go."""
        with contextlib.suppress(StoreUnavailable):
            await self._deliver()
        await self._channel.close()

    async def _beat(self, renew: list[str]) -> None:
        asked = self._clock.mark()
        argument = scripts.dumps({"renew": renew, "lease": scripts.LEASE})
        answer = await self._call("beat", argument, probing=True, asked=asked)
        self._clock.told(answer[1], asked)
        if answer[0] == _OFF:
            raise StoreUnavailable(_AWAY)  # it was one of ours: the next beat says so
        if new := self._witness.told(answer[2], answer[3]):
            self._forgot(new)
        ended = [cast("Presumed", tuple(answer[i : i + 4])) for i in range(4, len(answer), 4)]
        if ended:
            self._presumed(ended)

    async def _end(self, rid: str, settlement: Settlement) -> tuple[int, str]:
        status, before = await self._call("settle", scripts.settlement(rid, settlement, self._keys[-1]))
        if status == _UNKNOWN and settlement.images:
            self._unbooked(rid, settlement, "the store has lost its reservation")
        return status, before

    def _owe(self, rid: str, settlement: Settlement) -> None:
        self._leases.discard(rid)
        if len(self._owed) < OWED or rid in self._owed:
            self._owed[rid] = settlement
            self._awaited.set()
        elif settlement.images:
            # Its charge will be presumed: an answer that had fewer images, or none, is not booked as that.
            self._unbooked(rid, settlement, "too many ends wait for the store")

    async def _deliver(self) -> None:
        owed = list(self._owed.items())
        for i in range(0, len(owed), TOGETHER):
            handed = (self._hand_over(rid, settlement) for rid, settlement in owed[i : i + TOGETHER])
            # One end that the store will not take must not keep back all behind it.
            for result in await asyncio.gather(*handed, return_exceptions=True):
                if isinstance(result, BaseException) and not isinstance(result.__cause__, ResponseError):
                    raise result

    async def _hand_over(self, rid: str, settlement: Settlement) -> None:
        await self._end(rid, settlement)
        self._owed.pop(rid, None)

    def now(self) -> float:
        """Our best knowledge of the store's clock, unix seconds."""
        return self._clock.now() / 1000

    @property
    def lost(self) -> int | None:
        """How often the store has lost history since it began; None before it said so."""
        return self._witness.lost

    def _call(
        self, operation: str, argument: bytes, *, probing: bool = False, asked: Mark | None = None
    ) -> Awaitable[Any]:
        """asked: when, of what names windows; where the store's clock is not where either of ours saw it go, it has
        done nothing, and is as good as away.
        """
        if not self.up and not probing:
            raise StoreUnavailable(_AWAY)
        script, number = self._scripts[operation], 0
        if operation in _SIGNED:
            argument, number = self._witness.sign(argument)
        written = script.command(self._keys, argument, by_sha=True)
        otherwise = partial(script.command, self._keys, argument, by_sha=False)
        return self._timed(operation, self._channel.ask(written, otherwise), number=number, asked=asked)

    async def _timed(
        self, operation: str, answer: Awaitable[Any], *, number: int = 0, asked: Mark | None = None
    ) -> Any:
        began = time.perf_counter()
        failed: bool | None = True
        try:
            result = await answer
            if asked is not None and result[0] == _OFF and not self._clock.accounts_for(result[1], asked):
                raise StoreUnfit(_jumped(result[1] - self._clock.now()))
            failed = False
        except asyncio.CancelledError:
            failed = None  # nobody waits any more: that says nothing of the store
            raise
        except (RedisError, OSError, TimeoutError) as exc:
            # A store that answers with an error (out of memory, read-only) is there: only silence closes the door.
            if not isinstance(exc, ResponseError):
                self.up = False
                self._awaited.set()
            self.trouble = _kind(exc)
            raise StoreUnavailable(_AWAY) from exc
        finally:
            if failed is not None:
                self._observe(operation, time.perf_counter() - began, failed)
        self.up = self.contacted = True
        self._witness.acknowledged(number)
        return result


def _jumped(ms: int) -> str:
    where = "ahead of" if ms > 0 else "behind"
    return f"the store's clock is {abs(ms) // 1000} s {where} where it was seen to go; windows cannot be told by it"


def _kind(error: BaseException) -> str:
    """The error's class, and of an error that the store answered its code word (OOM, WRONGPASS)."""
    if isinstance(error, StoreUnfit):
        return str(error)
    word = str(error).partition(" ")[0] if isinstance(error, RedisError) else ""
    return f"{type(error).__name__} {word}" if word.isupper() else type(error).__name__
