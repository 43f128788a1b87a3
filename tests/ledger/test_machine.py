"""The real Lua on a real Valkey and the reference model, side by side, through whatever hypothesis thinks of.

After every step all answers, counters, records, leases, deadlines and usage are compared, and the invariants are
checked against a history that knows neither the model nor the scripts:

I1  no limit is ever passed: for a sliding rule in no interval of its length
I2  a reservation ends exactly once; a presumption may be replaced, once
I4  a counter is the sum of what was taken and not given back
I7  when all leases have run out, nobody holds a slot

GATEWAY_EXAMPLES=20000 makes it a long run.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from gateway.core import settlement
from gateway.core.quota import Charge, Grant, Per, Rule, Unit, charges
from gateway.core.settlement import End, Settlement
from gateway.ledger.base import Booking
from tests.ledger.counters import HOUR, MINUTE, SECOND, SLIDING, end_of, first_day, window
from tests.ledger.model import Answer, Model
from tests.ledger.store import Mutant, Store, connected, loaded, numbers
from tests.support.valkey import valkey

EXAMPLES = int(os.environ.get("GATEWAY_EXAMPLES", "80"))
STEPS = 40

DEADLINE, PATIENCE = 5 * MINUTE, 2 * MINUTE
FURTHEST_BACK = 50 * SECOND  # less than the shortest window: what has left one has left it

IDS = st.sampled_from(["r0", "r1", "r2"])

#: Moments shortly before something happens to a calendar, unix ms.
BEGINNINGS = {
    "an ordinary noon": 1_794_916_800_000,  # 2026-11-17 12:00 UTC, a Tuesday
    "the hour that Berlin has twice": 1_792_886_400_000,  # 2026-10-25 00:00 UTC; 01:00 UTC ends summer time
    "the hour that Berlin skips": 1_806_195_000_000,  # 2027-03-28 00:50 UTC
    "the midnight that Santiago skips": 1_788_666_600_000,  # 2026-09-06 03:50 UTC, 23:50 there
    "the end of a month and a year": 1_798_757_990_000,  # 2026-12-31 22:59:50 UTC, in Berlin ten seconds to 2027
}

ORDERS = [("generations", "standard", 1), ("generations", "hd", 1), ("generations", "standard", 3), ("edits", "hd", 2)]
ENDS = ["presumed", "cut", "refunded", "committed", "partly", "unsent"]
UNIT_PRICE = {"standard": 40_000, "hd": 80_000}


def _rules(zone: str) -> list[Rule]:
    """Every kind of counter; two rules on one of them; the organization's over both teams."""

    def of(scope: str, name: str, unit: Unit, per: Per | None, limit: int, **more: Any) -> Rule:
        return Rule(scope=scope, name=name, unit=unit, per=per, limit=limit, zone=zone, **more)

    return [
        of("a", "day", Unit.IMAGES, Per.DAY, 5, warn_at=(50, 100)),
        of("a", "trial", Unit.IMAGES, Per.DAY, 2, mode="shadow", warn_at=(100,)),
        of("a", "minute", Unit.IMAGES, Per.MINUTE, 4, warn_at=(50,)),
        of("a", "hour", Unit.REQUESTS, Per.HOUR, 5),
        of("a", "money", Unit.USD, Per.MONTH, 400_000, warn_at=(30,)),
        of("a", "hd", Unit.IMAGES, Per.DAY, 3, qualities=frozenset({"hd"})),
        of("a", "slots", Unit.CONCURRENT, None, 2, warn_at=(100,)),
        of("a", "editing", Unit.CONCURRENT, None, 1, endpoints=frozenset({"edits"})),
        of("b", "week", Unit.IMAGES, Per.WEEK, 6),
        of("b", "ever", Unit.IMAGES, Per.TOTAL, 12, warn_at=(10,)),
        of("b", "trial-slots", Unit.CONCURRENT, None, 1, mode="shadow"),
        of("organization", "money", Unit.USD, Per.MONTH, 700_000),
        of("organization", "slots", Unit.CONCURRENT, None, 3),
        of("organization", "minute", Unit.REQUESTS, Per.MINUTE, 5),
    ]


@dataclass
class Event:
    """A charge that was really made. elapsed: ms of the run; window: of a calendar counter."""

    rid: str
    rule: Rule
    elapsed: int
    window: str
    amount: int
    instead: "Event | None" = None  # what a correction said is used, of which this is a part


#: What may follow a state; a record that is forgotten leaves none.
AFTER: dict[str | None, set[str | None]] = {
    None: {"admitted", "reserved", "refunded"},
    "admitted": {None, "reserved", "committed", "refunded", "presumed"},
    "reserved": {"committed", "refunded", "presumed"},
    "presumed": {None, "committed", "refunded"},
    "committed": {None},
    "refunded": {None},
}


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self, client: "redis.Redis", shas: Mapping[str, str]) -> None:
        super().__init__()
        self.client, self.shas = client, shas

    @initialize(
        beginning=st.sampled_from(sorted(BEGINNINGS)), zone=st.sampled_from(["Europe/Berlin", "America/Santiago"])
    )
    def begin(self, beginning: str, zone: str) -> None:
        now = BEGINNINGS[beginning]
        self.store = Store(self.client, self.shas, now=now, deadline=DEADLINE, patience=PATIENCE)
        self.model = Model(now=now, deadline=DEADLINE, patience=PATIENCE)
        self.zone, self.lines = zone, dict(enumerate(_rules(zone)))
        self.known = {rule.counter: rule for rule in self.lines.values()}
        self.highest, self.elapsed = now, 0
        self.events: list[Event] = []
        self.granted: list[tuple[Rule, int, int]] = []
        self.commands = 0
        self.ordered: dict[str, tuple[int, int, str]] = {}
        self.states: dict[str, str] = {}
        self.last_call: Callable[[], None] = lambda: None

    # What users do

    @rule(rid=IDS, team=st.sampled_from("aab"), order=st.sampled_from(ORDERS))
    def reserve(self, rid: str, team: str, order: tuple[str, str, int]) -> None:
        self.last_call = lambda: self._reserve(rid, team, order)
        self.last_call()

    def _reserve(self, rid: str, team: str, order: tuple[str, str, int]) -> None:
        taken = self._charges(team, order)
        _, quality, n = order
        booking = Booking(
            team=team,
            zone=self.zone,
            key="k",
            account="m",
            endpoint=order[0],
            model="dall-e-3",
            size="1024x1024",
            quality=quality,
            images=n,
            cost=n * UNIT_PRICE[quality],
            repeated=None if rid == "r2" else lambda: f"{team}:{order}",
        )
        answer = self.store.reserve(rid, taken, booking)
        assert answer == self.model.reserve(rid, taken, booking)
        if answer.status == 1:
            self.ordered[rid] = n, booking.cost, f"{team}:{order}"
            self._take(rid, [c for c in taken if c.rule.unit is not Unit.CONCURRENT])
            self._slots_hold(answer, taken)

    @rule(rid=IDS, team=st.sampled_from("aab"), looks=st.lists(st.sampled_from(ORDERS), max_size=2))
    def admit(self, rid: str, team: str, looks: list[tuple[str, str, int]]) -> None:
        self.last_call = lambda: self._admit(rid, team, looks)
        self.last_call()

    def _admit(self, rid: str, team: str, looks: list[tuple[str, str, int]]) -> None:
        asked: list[Charge] = []
        orders = [[_place(asked, charge) for charge in self._charges(team, ("edits", *look[1:]))] for look in looks]
        answer = self.store.admit(rid, team, asked, orders)
        assert answer == self.model.admit(rid, team, asked, orders)
        if answer.status == 1:
            self._slots_hold(answer, asked)

    @rule(rid=IDS, ends=st.lists(st.sampled_from(ENDS), min_size=1, max_size=3))
    def settle(self, rid: str, ends: list[str]) -> None:
        for end in ends:
            self._settle(rid, end)

    def _settle(self, rid: str, end: str) -> None:
        n, cost, cut = self.ordered.get(rid, (1, UNIT_PRICE["standard"], f"a:{ORDERS[0]}"))
        final = {
            "refunded": settlement.refunded(sent=True),
            "unsent": settlement.refunded(sent=False),
            "committed": settlement.committed(ordered=n, cost=cost, made=n),
            "partly": settlement.committed(ordered=n, cost=cost, made=1),
            "presumed": settlement.presumed(ordered=n, cost=cost),
            "cut": settlement.presumed(ordered=n, cost=cost, cut=cut),
        }[end]
        answer = self.store.settle(rid, final)
        assert answer == self.model.settle(rid, final)
        if answer[0] == 1:
            self._give_back(rid, final)

    @rule()
    def repeat(self) -> None:
        self.last_call()

    @rule(renew=st.sets(IDS))
    def beat(self, renew: set[str]) -> None:
        presumed = self.store.beat(sorted(renew))
        assert presumed == self.model.beat(sorted(renew))

    # What administrators do

    @rule(number=st.integers(0, 13), change=st.sampled_from([0, 1, 2, 3, 8, "remove or restore"]))
    def limit(self, number: int, change: int | str) -> None:
        """Lower, raise or rename a rule, take it away, or bring it back as it was."""
        found = self.lines.pop(number, None)
        if found is None:
            self.lines[number] = _rules(self.zone)[number]
        elif isinstance(change, int):
            scale = 100_000 if found.unit is Unit.USD else 1
            self.lines[number] = replace(found, limit=change * scale, name=f"renamed-{change}")

    @rule(number=st.integers(0, 13), seconds=st.sampled_from([None, 5, 3600]))
    def grant(self, number: int, seconds: int | None) -> None:
        if found := self.lines.get(number):
            until = None if seconds is None else self.store.now / 1000 + seconds
            self.lines[number] = replace(found, grants=(Grant(100_000 if found.unit is Unit.USD else 2, until),))

    @rule(number=st.integers(0, 13), amount=st.sampled_from([1, 3]), seconds=st.sampled_from([5, 60, 3600]))
    def grant_by_command(self, number: int, amount: int, seconds: int) -> None:
        """An extra at once, sent twice as a command does that lost its answer."""
        if not (found := self.lines.get(number)):
            return
        amount *= 100_000 if found.unit is Unit.USD else 1
        until = self.store.now + seconds * SECOND
        self.commands += 1
        for _ in range(2):
            difference = self.store.grant(f"c{self.commands}", found, amount, until)
            assert difference == self.model.grant(f"c{self.commands}", found, amount, until)
        self.granted.append((found, amount, until))

    @rule(number=st.integers(0, 13), amount=st.sampled_from([0, 1, 4]))
    def correct(self, number: int, amount: int) -> None:
        found = self.lines.get(number)
        if found is None or found.unit is Unit.CONCURRENT:
            return
        amount *= 100_000 if found.unit is Unit.USD else 1
        self.commands += 1
        change = self.store.reset(f"c{self.commands}", found, amount)
        charge = Charge(found, 0)
        assert change.before == self.model.counters.state(charge, refused=False).used
        assert (change.after, change.difference) == (amount, amount - change.before)
        self.model.reset(f"c{self.commands}", found, amount)
        correction = Event("correction", found, self.elapsed, self._window(found), amount)
        for event in self.events:
            part = found.per in SLIDING or event.window == correction.window
            if event.rule.counter == found.counter and part and event.instead is None:
                event.instead = correction
        self.events.append(correction)

    # What time does

    @rule(
        ms=st.sampled_from([1, 999, 1000, 5000, 9999, 10_001, 29_999, 30_000, 31_000, MINUTE, 61_000, DEADLINE])
        | st.sampled_from([HOUR, 6 * HOUR, 23 * HOUR, 24 * HOUR, 170 * HOUR])
    )
    def go_on(self, ms: int) -> None:
        self._set_clock(self.store.now + ms)
        self.elapsed += ms

    @rule(first=IDS, second=IDS, order=st.sampled_from(ORDERS), back=st.sampled_from([0, 1, 1000]))
    def go_over_midnight(self, first: str, second: str, order: tuple[str, str, int], back: int) -> None:
        """An order in the last millisecond of a day, one in the first of the next, and a clock that goes back."""
        midnight = end_of(Per.DAY, self.zone, first_day(Per.DAY, self.zone, self.store.now))
        self.go_on(midnight - 1 - self.store.now)
        self._reserve(first, "a", order)
        self.go_on(1)
        self._reserve(second, "a", order)
        self.go_back(back)

    @rule(seconds=st.sampled_from([10, 30, 60]), renew=st.sets(IDS))
    def go_on_busily(self, seconds: int, renew: set[str]) -> None:
        """Time that passes while somebody beats is no outage."""
        for _ in range(seconds // 5):
            self.go_on(5000)
            self.beat(renew)

    @rule(ms=st.sampled_from([1, 1000, 20_000, FURTHEST_BACK]))
    def go_back(self, ms: int) -> None:
        self._set_clock(max(self.store.now - ms, self.highest - FURTHEST_BACK))

    @rule(skew=st.sampled_from([0, HOUR, -HOUR, -25 * HOUR, 49 * HOUR, 800 * HOUR]))
    def gateway_clock_is_off(self, skew: int) -> None:
        self.store.skew = skew

    # What must hold

    @invariant()
    def all_agree(self) -> None:
        dump, used = self.store.look(list(self.known.values()))
        self._same(dump)
        self._counters(used)
        self._ends_once({rid: state for rid, (state, _) in dump["records"].items()})

    def _same(self, dump: dict[str, dict[str, Any]]) -> None:
        model = self.model.reservations
        assert {rid: (state, int(slots)) for rid, (state, slots) in dump["records"].items()} == {
            rid: (mine.state, len(mine.slots)) for rid, mine in model.items()
        }
        assert numbers(dump["open"]) == {rid: mine.due for rid, mine in model.items() if mine.due is not None}
        assert numbers(dump["leases"]) == {rid: mine.lease for rid, mine in model.items() if mine.lease is not None}
        assert numbers(dump["ended"]) == {rid: mine.forget for rid, mine in model.items() if mine.forget is not None}
        usage = {
            (period, name): int(amount) for period, fields in dump["usage"].items() for name, amount in fields.items()
        }
        assert usage == dict(self.model.usage)

    def _counters(self, seen: list[tuple[int, int | None]]) -> None:
        for found, (used, reset) in zip(self.known.values(), seen, strict=True):
            expected = self.model.counters.state(Charge(found, 0), refused=False)
            assert (used, reset) == (expected.used, expected.reset), found.name
            if found.unit is not Unit.CONCURRENT:
                taken = self._net(found)
                assert used >= taken if found.per in SLIDING else used == taken, f"I4: {found.name}"

    def _ends_once(self, states: dict[str, str]) -> None:
        for rid in states | self.states:
            before, now = self.states.get(rid), states.get(rid)
            assert before == now or now in AFTER[before], f"I2: {rid} went from {before} to {now}"
            if now is None:
                self._forget(rid)
        self.states = states

    def teardown(self) -> None:
        """Leave all alone until every lease and deadline is over."""
        if not hasattr(self, "store"):
            return
        self._set_clock(self.highest)
        self.beat(set())
        self.go_on_busily(seconds=65, renew=set())
        slots = [found for found in self.known.values() if found.unit is Unit.CONCURRENT]
        assert [used for used, _ in self.store.used(slots)] == [0] * len(slots), "I7"
        assert not self.store.look()[0]["leases"], "I7"
        self.go_on(DEADLINE)
        self.beat(set())
        self.go_on_busily(seconds=35, renew=set())  # nothing is presumed in the grace after that silence
        assert not self.store.look()[0]["open"], "I2"

    # The history

    def _charges(self, team: str, order: tuple[str, str, int]) -> tuple[Charge, ...]:
        endpoint, quality, n = order
        rules = tuple(found for found in self.lines.values() if found.scope in (team, "organization"))
        cost = n * UNIT_PRICE[quality]
        return charges(rules, endpoint=endpoint, model="dall-e-3", size="1024x1024", quality=quality, n=n, cost=cost)

    def _take(self, rid: str, taken: list[Charge]) -> None:
        for charge in {charge.rule.counter: charge for charge in taken}.values():
            self.events.append(Event(rid, charge.rule, self.elapsed, self._window(charge.rule), charge.amount))
        for charge in taken:
            found = charge.rule
            if found.mode == "enforce":
                limit = found.limit + sum(
                    g.amount for g in found.grants if g.until is None or self.store.now / 1000 < g.until
                )
                limit += sum(
                    amount
                    for rule, amount, until in self.granted
                    if (rule.counter, rule.mode) == (found.counter, found.mode) and self.store.now < until
                )
                assert self._net(found) <= limit, f"I1: {found.name}"

    def _net(self, found: Rule) -> int:
        """What is taken in the present window; of a sliding rule, in the interval of its length that ends now."""
        mine = [event for event in self.events if event.rule.counter == found.counter and event.instead is None]
        if found.per in SLIDING:
            return sum(event.amount for event in mine if event.elapsed >= self.elapsed - SLIDING[found.per])
        return sum(event.amount for event in mine if event.window == self._window(found))

    def _window(self, found: Rule) -> str:
        """The window of the clock, or a later one that was opened before the clock went back."""
        opened = [event.window for event in self.events if event.rule.counter == found.counter]
        now = str(window(found, self.store.now))
        return max([now, *opened]) if found.per not in SLIDING else now

    def _give_back(self, rid: str, end: Settlement) -> None:
        final = {Unit.IMAGES: end.images, Unit.USD: end.cost, Unit.REQUESTS: end.requests}
        for event in self.events:
            if event.rid == rid:
                back = max(0, event.amount - final[event.rule.unit])
                event.amount -= back
                holder = event
                while holder.instead is not None:
                    holder = holder.instead
                if holder is not event:
                    holder.amount = max(0, holder.amount - back)
        if end.end is not End.PRESUMED:
            self._forget(rid)

    def _forget(self, rid: str) -> None:
        for event in self.events:
            if event.rid == rid:
                event.rid = "settled"

    def _slots_hold(self, answer: Answer, taken: tuple[Charge, ...] | list[Charge]) -> None:
        for state, charge in zip(answer.states, taken, strict=True):
            if charge.rule.unit is Unit.CONCURRENT and charge.rule.mode == "enforce":
                assert state.used <= state.limit or not state.refused, f"I1: {charge.rule.name}"

    def _set_clock(self, now: int) -> None:
        self.store.now = self.model.counters.now = now
        self.highest = max(self.highest, now)


def _place(asked: list[Charge], charge: Charge) -> int:
    if charge not in asked:
        asked.append(charge)
    return asked.index(charge)


@pytest.fixture(scope="module")
def client() -> Iterator["redis.Redis"]:
    with valkey() as url, connected(url) as found:
        yield found


def test_the_scripts_do_what_the_model_says(client: "redis.Redis") -> None:
    """Whatever is reserved, ended, repeated, reconfigured and however time goes, scripts and model agree."""
    shas = loaded(client)
    run_state_machine_as_test(
        lambda: LedgerMachine(client, shas),  # type: ignore[arg-type]  # a factory will do
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            report_multiple_bugs=False,
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


#: Scripts made wrong, each in a way that others have had it. `all`: in a part that every script shares.
MUTANTS = {
    "reserves without a look": Mutant("reserve", "if state.binding then return", "if false then return"),
    "looks before it adds": Mutant("reserve", "before.used + amount > limit", "before.used >= limit"),
    "charges again what is reserved": Mutant("reserve", "again = rec and rec.state == 'reserved'", "again = false"),
    "reserves what has ended": Mutant("reserve", "if rec and rec.state ~= 'admitted'", "if rec and false"),
    "a refusal leaves a trace": Mutant(
        "reserve",
        "if state.binding then return answer",
        "if state.binding then add(ask.counters[1], seen[1], 1) return answer",
    ),
    "charges a shared counter twice": Mutant("reserve", "and not charged[state.at]", ""),
    "a shadow rule refuses": Mutant("reserve", "refused and rule[3] == 1", "refused"),
    "a grant never ends": Mutant("reserve", "or now < grant[2] then", "or true then"),
    "forgets grants by command": Mutant("all", "    if now < granting then\n", "    if false then\n"),
    "a grant by command never ends": Mutant(
        "all", "        if now < grant[2] then limit", "        if true then limit"
    ),
    "a grant by command is the counter's": Mutant("all", " .. (rule[3] == 1 and '|enforce' or '|shadow')", ""),
    "a grant by command in place of another": Mutant("administer", "running[#running + 1] = {ask", "running[1] = {ask"),
    "a short grant ends a long one": Mutant("administer", "math.max(granting, ask['until'])", "ask['until']"),
    "grants again what is sent again": Mutant(
        "administer", "if change[1] == ask.id then return", "if false then return"
    ),
    "a correction adds": Mutant("administer", "seen.stop, amount, (", "seen.stop, seen.used + amount, ("),
    "a sliding correction adds": Mutant(
        "administer",
        "kept = {[0] = round, [round] = amount}",
        "kept = seen.slices kept[0] = round kept[round] = amount",
    ),
    "refunds what a correction wiped out": Mutant("settle", "if charge.round ~= kept[4] then", "if false then"),
    "refunds nothing of a correction": Mutant("settle", "amount = math.min(amount, kept[5] or 0)", "amount = 0"),
    "refunds more than a correction left": Mutant("settle", "kept[5] = (kept[5] or 0) - amount", ""),
    "a sliding refund of what a correction wiped out": Mutant("settle", "      at = kept[0]\n", ""),
    "a sliding refund of what had left the window": Mutant(
        "settle", "if not kept[0] or at <= math.floor(kept[0]) - SLICES", "if not kept[0]"
    ),
    "a sliding refund of what was about to leave the window": Mutant(
        "settle", "at <= math.floor(kept[0]) - SLICES", "at < math.floor(kept[0]) - SLICES"
    ),
    "forgets that it was corrected": Mutant(
        "reserve", "seen.used + amount, seen.round, seen.left}", "seen.used + amount}"
    ),
    "a sliding counter forgets that it was corrected": Mutant("reserve", "    seen.slices[0] = seen.round\n", ""),
    "warns at every order": Mutant("reserve", "elseif not told or", "elseif true or"),
    "warns once for ever": Mutant("reserve", "told[1] < (span and now - span + 1 or after.start) or ", ""),
    "warns above the threshold alone": Mutant("reserve", "after.used >= level", "after.used > level"),
    "keeps quiet about a raised limit": Mutant("reserve", " or told[2] < level", ""),
    "admits without a look": Mutant("admit", "if not fits then", "if false then"),
    "admits though no order fits": Mutant("admit", "all and not states[rule].binding", "true"),
    "takes a second slot": Mutant("reserve", "c.w == 'slot' and not held[c.k]", "c.w == 'slot'"),
    "slots without a lease": Mutant("reserve", "redis.call('ZADD', LEASES, now + ask.lease, id)", ""),
    "leases that do not end": Mutant("beat", "      free_slots(rec)\n      keep(id, rec)", "      keep(id, rec)"),
    "leases that cannot be renewed": Mutant("beat", "redis.call('ZADD', LEASES, 'XX', now + ask.lease, id)", ""),
    "leases that end at once after an outage": Mutant("beat", "if grace > now and", "if false and"),
    "a slot is not freed at the end": Mutant("settle", "\nfree_slots(rec)\n", "\n"),
    "settles twice": Mutant(
        "settle", "if before == 'committed' or before == 'refunded' then return", "if false then return"
    ),
    "presumes twice": Mutant(
        "settle", "if before == 'presumed' and ask['end'] == 'presumed' then return", "if false then return"
    ),
    "a presumption is final": Mutant(
        "settle", "if before == 'presumed' and ask['end'] == 'presumed' then", "if before == 'presumed' then"
    ),
    "a presumption stays in the books": Mutant("settle", "if before == 'presumed' then book(", "if false then book("),
    "refunds nothing": Mutant("settle", "charge.amount - final[charge.unit]", "0"),
    "refunds into the new window": Mutant("settle", "if kept[1] ~= charge.at then return end", ""),
    "refunds into the present slice": Mutant(
        "settle",
        "kept[at] = math.max(0, math.floor(had) - amount) + had % 1",
        "at = 0 for slice in pairs(kept) do at = math.max(at, slice) end kept[at] = kept[at] - amount",
    ),
    "no tombstone": Mutant("settle", "if ask['end'] == 'refunded' then", "if false then"),
    "never presumes": Mutant("beat", "rec.state = 'presumed'", "rec.state = 'committed'"),
    "presumes while the store is just back": Mutant("beat", "back and {} or ", ""),
    "keeps what is old": Mutant("beat", "redis.call('HDEL', RECORDS, id)\nend\nif", "end\nif"),
    "forgets a presumption after an hour": Mutant("beat", "now + KEEP_PRESUMED, id", "now + KEEP, id"),
    "reopens a window when the clock goes back": Mutant("all", "if kept and kept[1] > start then", "if false then"),
    "a sliding window one slice short": Mutant("all", "if slice > oldest or (", "if slice > oldest or false and ("),
    "a sliding window one slice long": Mutant("all", "leaves(slice, value, width) > now", "true"),
    "forgets slices ahead of the clock": Mutant(
        "all", "if slice > oldest or", "if slice > oldest and slice <= current or"
    ),
    "a slice leaves with its first charge": Mutant(
        "reserve", "part = math.max(part, part_of(had))", "part = part_of(had)"
    ),
    "a slice leaves earlier when the clock goes back": Mutant("reserve", "part = math.max(part, part_of(had))", ""),
    "a slice counts whole whenever it was charged": Mutant("reserve", "+ amount + part % 1", "+ amount"),
    "a slice's part is rounded down": Mutant("reserve", "local part = math.ceil(", "local part = math.floor("),
    "a refund forgets a slice's part": Mutant(
        "settle", "math.max(0, math.floor(had) - amount) + had % 1", "math.max(0, math.floor(had) - amount)"
    ),
    "a slice leaves a millisecond early": Mutant("reserve", "(seen.now + 1 - seen.start", "(seen.now - seen.start"),
    "tells of no threshold again": Mutant("reserve", "due = told and told[3] == ask.id", "due = false"),
    "makes again what was cut off": Mutant("reserve", "if now < cuts and ask.order", "if false and ask.order"),
    "asks for no order's name": Mutant("reserve", "if not ask.order then return {-4, now} end", "ask.order = 'x'"),
    "marks no cut answer": Mutant("settle", "redis.call('HSET', META, 'cuts', now + REPEATED)", ""),
    "a mark never ends": Mutant("reserve", "if left > 0 and", "if cut[1] and"),
    "books under the wrong day": Mutant("reserve", "now >= day[1] and now < day[2]", "not periods"),
}


FOUND_BY_CHANCE = [
    "reserves without a look",
    "looks before it adds",
    "charges again what is reserved",
    "a refusal leaves a trace",
    "a shadow rule refuses",
    "slots without a lease",
    "a slot is not freed at the end",
    "settles twice",
    "forgets grants by command",
    "warns at every order",
]


def tour(machine: LedgerMachine) -> None:
    """One of each thing that can happen, in a fixed order, so that a wrong script is noticed within milliseconds."""

    def check(*_: object) -> None:
        machine.all_agree()

    one, three, hd, edit = ORDERS[0], ORDERS[2], ORDERS[1], ("edits", "hd", 2)
    check(machine.begin(beginning="an ordinary noon", zone="Europe/Berlin"))
    # all or none, once, and never over
    check(machine.reserve(rid="r0", team="a", order=three))
    check(machine.repeat())
    check(machine.reserve(rid="r1", team="a", order=three))
    check(machine.settle(rid="r0", ends=["partly", "refunded", "committed"]))
    check(machine.reserve(rid="r0", team="a", order=one))
    check(machine.settle(rid="late", ends=["unsent"]))
    check(machine.reserve(rid="late", team="a", order=one))
    for number in (0, 2, 3, 4, 5, 11, 13):
        check(machine.limit(number=number, change=8))
    # presumptions, by the gateway and by the beat
    check(machine.reserve(rid="s1", team="a", order=hd))
    check(machine.settle(rid="s1", ends=["presumed", "presumed", "committed", "refunded"]))
    check(machine.reserve(rid="s2", team="a", order=hd))
    check(machine.go_on(ms=DEADLINE))
    check(machine.beat(renew=set()))
    check(machine.go_on_busily(seconds=35, renew=set()))
    check(machine.beat(renew=set()))
    check(machine.settle(rid="s2", ends=["refunded"]))
    # edits: slots first, the rest later
    check(machine.admit(rid="e1", team="a", looks=[edit]))
    check(machine.admit(rid="e2", team="a", looks=[edit]))
    check(machine.reserve(rid="e1", team="a", order=edit))
    check(machine.settle(rid="e1", ends=["refunded"]))
    check(machine.limit(number=5, change=0))
    check(machine.admit(rid="e3", team="a", looks=[edit]))
    check(machine.limit(number=5, change=8))
    # leases
    check(machine.go_on_busily(seconds=60, renew=set()))
    check(machine.reserve(rid="l1", team="a", order=one))
    check(machine.go_on_busily(seconds=60, renew={"l1"}))
    check(machine.go_on_busily(seconds=60, renew=set()))
    check(machine.reserve(rid="l2", team="a", order=one))
    check(machine.go_on(ms=31_000))
    check(machine.beat(renew=set()))
    check(machine.settle(rid="l2", ends=["refunded"]))
    # sliding windows
    check(machine.go_on(ms=HOUR))
    check(machine.reserve(rid="w1", team="a", order=one))
    check(machine.go_on(ms=1000))
    check(machine.reserve(rid="w2", team="a", order=one))
    check(machine.settle(rid="w1", ends=["refunded"]))
    check(machine.go_back(ms=1000))
    check(machine.go_on(ms=MINUTE))
    check(machine.go_on(ms=1000))
    check(machine.settle(rid="w2", ends=["committed"]))
    # grants, days, clocks
    check(machine.grant(number=0, seconds=5))
    check(machine.go_on(ms=5000))
    check(machine.reserve(rid="g1", team="a", order=one))
    check(machine.settle(rid="g1", ends=["committed"]))
    check(machine.go_over_midnight(first="m1", second="m2", order=one, back=1))
    check(machine.settle(rid="m1", ends=["refunded"]))
    check(machine.gateway_clock_is_off(skew=-25 * HOUR))
    check(machine.go_on(ms=HOUR))
    check(machine.reserve(rid="d1", team="b", order=one))
    check(machine.settle(rid="d1", ends=["committed"]))
    check(machine.go_on(ms=24 * HOUR))
    check(machine.beat(renew=set()))
    # a slice of a sliding window leaves with its last charge, of whatever the clock said then
    check(machine.go_on(ms=1000 - machine.store.now % 1000 + 10))
    for rid, ms in (("w3", 500), ("w4", -400), ("w5", 0)):
        check(machine.reserve(rid=rid, team="a", order=one))
        check(machine.settle(rid=rid, ends=["committed"]))
        check(machine.go_on(ms=ms) if ms >= 0 else machine.go_back(ms=-ms))
    for ms in (MINUTE + 400, 1, 1, 100):
        check(machine.go_on(ms=ms))
    machine.teardown()


def tour_of_commands(machine: LedgerMachine) -> None:
    """The same for what administrators do by command, and for thresholds."""

    def check(*_: object) -> None:
        machine.all_agree()

    def only(*numbers: int) -> None:
        machine.lines = {number: _rules(machine.zone)[number] for number in numbers}

    one, three = ORDERS[0], ORDERS[2]
    check(machine.begin(beginning="an ordinary noon", zone="Europe/Berlin"))
    # grants, and thresholds of a limit that moves
    only(0, 1)
    check(machine.reserve(rid="g1", team="a", order=one))
    check(machine.grant_by_command(number=0, amount=3, seconds=3600))
    check(machine.grant_by_command(number=0, amount=1, seconds=5))
    check(machine.reserve(rid="g2", team="a", order=three))
    check(machine.reserve(rid="g3", team="a", order=one))
    check(machine.reserve(rid="g4", team="a", order=one))
    check(machine.go_on(ms=5000))
    check(machine.reserve(rid="g5", team="a", order=one))
    check(machine.reserve(rid="g6", team="a", order=three))
    check(machine.limit(number=0, change=5))
    check(machine.grant_by_command(number=0, amount=3, seconds=3600))
    check(machine.reserve(rid="g6", team="a", order=one))
    check(machine.go_on(ms=24 * HOUR))
    check(machine.limit(number=0, change="remove or restore"))
    check(machine.limit(number=0, change="remove or restore"))
    check(machine.reserve(rid="n1", team="a", order=three))
    check(machine.settle(rid="n1", ends=["refunded"]))
    # what comes back after a correction
    check(machine.reserve(rid="c1", team="a", order=three))
    check(machine.reserve(rid="c2", team="a", order=one))
    check(machine.correct(number=0, amount=1))
    check(machine.reserve(rid="c3", team="a", order=three))
    check(machine.settle(rid="c2", ends=["refunded"]))
    check(machine.settle(rid="c1", ends=["refunded"]))
    check(machine.correct(number=0, amount=0))
    check(machine.settle(rid="c3", ends=["refunded"]))
    # the same in a sliding window
    only(2)
    check(machine.go_on(ms=HOUR))
    check(machine.reserve(rid="w1", team="a", order=one))
    check(machine.go_on(ms=1000))
    check(machine.reserve(rid="w2", team="a", order=one))
    check(machine.correct(number=2, amount=1))
    check(machine.reserve(rid="w3", team="a", order=one))
    check(machine.settle(rid="w2", ends=["refunded"]))
    check(machine.settle(rid="w1", ends=["refunded"]))
    check(machine.settle(rid="w3", ends=["refunded"]))
    check(machine.reserve(rid="w4", team="a", order=one))
    check(machine.go_on(ms=62_000))
    check(machine.correct(number=2, amount=1))
    check(machine.correct(number=2, amount=4))
    check(machine.settle(rid="w4", ends=["refunded"]))
    # and of what still counted then, in the slice that was about to leave
    check(machine.go_on(ms=HOUR - machine.store.now % 1000 + 900))
    check(machine.reserve(rid="w5", team="a", order=one))
    check(machine.go_on(ms=MINUTE - 500))
    check(machine.correct(number=2, amount=4))
    check(machine.settle(rid="w5", ends=["refunded"]))
    machine.teardown()


def tour_of_cuts(machine: LedgerMachine) -> None:
    """The same for orders whose answer was cut off."""

    def check(*_: object) -> None:
        machine.all_agree()

    one, hd = ORDERS[0], ORDERS[1]
    check(machine.begin(beginning="an ordinary noon", zone="Europe/Berlin"))
    check(machine.reserve(rid="x1", team="a", order=one))
    check(machine.settle(rid="x1", ends=["cut", "cut"]))
    check(machine.reserve(rid="x2", team="a", order=one))
    check(machine.reserve(rid="r2", team="a", order=one))
    check(machine.reserve(rid="x1", team="a", order=one))
    check(machine.go_on_busily(seconds=30, renew=set()))
    check(machine.reserve(rid="y1", team="a", order=hd))
    check(machine.settle(rid="y1", ends=["cut"]))
    check(machine.go_on_busily(seconds=30, renew=set()))
    check(machine.reserve(rid="x2", team="a", order=one))
    check(machine.reserve(rid="y2", team="a", order=hd))
    check(machine.go_on_busily(seconds=30, renew=set()))
    check(machine.reserve(rid="y2", team="a", order=hd))
    machine.teardown()


def tours(client: "redis.Redis", shas: Mapping[str, str]) -> None:
    for each in (tour, tour_of_commands, tour_of_cuts):
        each(LedgerMachine(client, shas))


def test_the_tour_is_no_trap(client: "redis.Redis") -> None:
    """The right scripts pass the tours on which the wrong ones below are found."""
    tours(client, loaded(client))


@pytest.mark.parametrize("fault", MUTANTS)
def test_a_wrong_script_is_noticed(client: "redis.Redis", fault: str) -> None:
    """The comparison is no formality: the same machine fails on a script that is wrong in one place."""
    shas = loaded(client, MUTANTS[fault])
    with pytest.raises(AssertionError):
        tours(client, shas)


@pytest.mark.parametrize("fault", FOUND_BY_CHANCE)
def test_chance_finds_a_wrong_script(client: "redis.Redis", fault: str) -> None:
    """What hypothesis thinks of is enough to find the usual faults, without the tour's knowledge of them."""
    shas = loaded(client, MUTANTS[fault])
    with pytest.raises((AssertionError, redis.ResponseError)):  # a wrong script may come upon what it cannot write
        run_state_machine_as_test(
            lambda: LedgerMachine(client, shas),  # type: ignore[arg-type]  # a factory will do
            settings=settings(
                max_examples=300,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                derandomize=True,
                phases=(Phase.generate,),
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
