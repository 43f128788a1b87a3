"""The real Lua scripts on a real Valkey, with a clock that the test sets and, if it wants, a script that is wrong.

The product has no hook for that: in the test's copy of a script the one call that asks the server for its time is
replaced by the reading of a key.
"""

import hashlib
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

from gateway.core.quota import Charge, Rule
from gateway.core.settlement import Settlement
from gateway.core.windows import Calendar
from gateway.ledger import scripts
from gateway.ledger.administration import Administration, Change, Granted
from gateway.ledger.base import Booking
from tests.ledger.counters import State
from tests.ledger.model import LEASE, Answer

T = TypeVar("T")

NAMESPACE = "test"
CLOCK = ("redis.call('TIME')", "redis.call('HMGET', KEYS[6] .. ':clock', 's', 'us')")

#: All that is kept beside the counters, as one JSON object. Numbers stand as strings, for cjson rounds them.
DUMP = """
local function zset(key)
  local out, rows = {}, redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #rows, 2 do out[rows[i]] = rows[i + 1] end
  return out
end
local function hash(key)
  local out, rows = {}, redis.call('HGETALL', key)
  for i = 1, #rows, 2 do out[rows[i]] = rows[i + 1] end
  return out
end
local records, usage = {}, {}
for id, packed in pairs(hash(KEYS[2])) do
  local rec = cmsgpack.unpack(packed)
  records[id] = {rec.state, tostring(#rec.slots)}
end
for _, key in ipairs(redis.call('KEYS', KEYS[8] .. '*:*')) do usage[string.sub(key, #KEYS[8] + 1)] = hash(key) end
return cjson.encode({records = records, usage = usage,
  open = zset(KEYS[3]), leases = zset(KEYS[4]), ended = zset(KEYS[5])})
"""


def with_test_clock(script: scripts.Script) -> scripts.Script:
    assert script.text.count(CLOCK[0]) == 1
    text = script.text.replace(*CLOCK)
    return scripts.Script(script.name, text, hashlib.sha1(text.encode()).hexdigest())


@dataclass(frozen=True)
class Mutant:
    """A script made wrong: `old` stands once in `script` (its own part or one it shares) and becomes `new`."""

    script: str
    old: str
    new: str


def loaded(client: "redis.Redis", mutant: Mutant | None = None) -> dict[str, str]:
    """The SHA-1 of each script, by its name."""
    shas = {"dump": str(client.script_load(DUMP))}
    for name in scripts.NAMES:
        text = with_test_clock(scripts.load(name)).text
        shared = mutant is not None and mutant.script == "all" and mutant.old in text
        if mutant is not None and (mutant.script == name or shared):
            assert text.count(mutant.old) == 1, f"{mutant.old!r} stands {text.count(mutant.old)} times in {name}"
            text = text.replace(mutant.old, mutant.new)
        shas[name] = str(client.script_load(text))
    return shas


class Store:
    """Empty at first. now: its clock, unix ms. skew: how far the gateway's idea of the time is off, ms."""

    def __init__(
        self,
        client: "redis.Redis",
        shas: Mapping[str, str],
        *,
        now: int,
        deadline: int = 300_000,
        patience: int = 120_000,
    ) -> None:
        self._client, self._shas, self.now, self.skew = client, shas, now, 0
        self.deadline, self.patience = deadline, patience
        self.keys = scripts.keys(NAMESPACE)
        client.flushdb()

    def admit(self, rid: str, team: str, charges: Sequence[Charge], orders: Sequence[Sequence[int]]) -> Answer:
        def ask(now: int) -> bytes:
            return scripts.admission(rid, team, charges, orders, calendar=Calendar(), now=now, patience=self.patience)

        return self._decide("admit", charges, ask(self.now + self.skew), ask(self.now))

    def reserve(self, rid: str, charges: Sequence[Charge], booking: Booking) -> Answer:
        def ask(now: int, order: str | None) -> bytes:
            return scripts.reservation(
                rid, charges, booking, calendar=Calendar(), now=now, deadline=self.deadline, order=order
            )

        order = None if booking.repeated else ""
        answer = self._decide("reserve", charges, ask(self.now + self.skew, order), ask(self.now, order))
        if answer.status == -4 and booking.repeated:
            order = scripts.named(self.keys[-1], scripts.CUT, booking.repeated())
            answer = self._decide("reserve", charges, ask(self.now + self.skew, order), ask(self.now, order))
        return answer

    def settle(self, rid: str, end: Settlement) -> tuple[int, str]:
        status, before = self.call("settle", scripts.settlement(rid, end, self.keys[-1]))
        return int(status), str(before)

    def beat(self, renew: Sequence[str]) -> list[tuple[str, int, int]]:
        answer = self.call("beat", scripts.dumps({"renew": renew, "lease": LEASE}))
        assert answer[:2] == [1, self.now]
        return [(answer[i], answer[i + 2], answer[i + 3]) for i in range(4, len(answer), 4)]

    def grant(self, id_: str, rule: Rule, amount: int, until: int) -> int:
        grant = self.administration.grant(id_, rule, amount, until=until / 1000, by="admin@host", reason="why not")
        return _done(grant).difference

    def reset(self, id_: str, rule: Rule, used: int) -> Change:
        return _done(self.administration.reset(id_, rule, used, by="admin@host", reason="why not"))

    def recall(self, rules: Sequence[Rule]) -> tuple[list[Granted], list[Change]]:
        return _done(self.administration.recall(rules, since=0))

    def untold(self) -> list[Change]:
        return _done(self.administration.untold())

    def keep_refusals(self, refusals: Mapping[str, Sequence[tuple[float, str]]]) -> None:
        _done(self.administration.keep_refusals(refusals))

    def refusals(self, teams: Sequence[str], *, since: float = 0.0, containing: str = "") -> list[str]:
        return _done(self.administration.refusals(teams, since=since, containing=containing))

    def booked_teams(self) -> list[str]:
        """Those that have usage, the one whose last is oldest first."""
        return [str(team) for team in self._client.zrange(f"{self.keys[7]}teams", 0, -1)]

    def expires_in(self, key: str) -> int:
        """ms until the key goes by itself."""
        return int(self._client.pttl(key))

    @property
    def administration(self) -> Administration:
        async def ask(name: str, made: Callable[[int], bytes]) -> Any:
            answer = self.call(name, made(self.now + self.skew))
            return self.call(name, made(answer[1])) if answer[0] == -1 else answer

        return Administration(ask, NAMESPACE, Calendar())

    def used(self, rules: Sequence[Rule]) -> list[tuple[int, int | None]]:
        """Of each rule what is used and when that resets, as `/v1/usage` and the metrics read it."""
        return self.look(rules)[1]

    def look(self, rules: Sequence[Rule] = ()) -> tuple[dict[str, dict[str, Any]], list[tuple[int, int | None]]]:
        """All that is kept, in one turn: `used`, and before it what stands beside the counters.

        records: id -> [state, slots held]; open, leases, ended: id -> unix ms; usage: period -> field -> number.
        """
        looked_at = scripts.look(rules)
        ask = scripts.counters_and_rules(looked_at, Calendar(), self.now)
        kept, answer = self._run(("dump", b""), ("usage", scripts.dumps(ask)))
        states = scripts.verdict(looked_at, answer).states
        return json.loads(kept), [(state.used, _ms(state.resets_at)) for state in states]

    def call(self, name: str, argument: bytes) -> Any:
        return self._run((name, argument))[0]

    def _run(self, *calls: tuple[str, bytes]) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(f"{self.keys[5]}:clock", mapping={"s": self.now // 1000, "us": self.now % 1000 * 1000})
        for name, argument in calls:
            pipe.evalsha(self._shas[name], len(self.keys), *self.keys, argument)
        return pipe.execute()[1:]

    def _decide(self, name: str, charges: Sequence[Charge], *asks: bytes) -> Answer:
        """Ask as a gateway does: where its windows are stale, again with those of the store's clock."""
        answer: list[int] = []
        for ask in asks:
            answer = self.call(name, ask)
            assert answer[1] == self.now
            if answer[0] != -1:
                break
        if answer[0] < 0:
            return Answer(answer[0], cut=(answer[2], str(answer[3])) if answer[0] == -5 else None)
        verdict = scripts.verdict(charges, answer)
        assert verdict.admitted == (answer[0] in (1, 2))
        return Answer(
            answer[0],
            tuple(
                State(s.used, s.limit, _ms(s.resets_at), _ms(s.fits_at) if s.refused else None, s.refused)
                for s in verdict.states
            ),
            tuple((verdict.states.index(state), percent) for state, percent in verdict.passed),
        )


def _done(call: Coroutine[Any, Any, T]) -> T:
    """What a call gives that never has to wait."""
    try:
        call.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waits")


@contextmanager
def connected(url: str) -> Iterator["redis.Redis"]:
    client = redis.Redis.from_url(url, decode_responses=True)
    try:
        yield client
    finally:
        client.close()


def numbers(table: Mapping[str, str]) -> dict[str, int]:
    return {name: int(float(value)) for name, value in table.items()}


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
