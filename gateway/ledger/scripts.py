"""The Lua scripts, and how what the core speaks of becomes their one JSON argument and back.

The scripts are files beside this one; each is sent with common.lua and records.lua before it, and those that judge
with rules.lua too. What they take and give stands in their first comment. Limits and amounts are integers below
2^53, where Lua's doubles are exact.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

import orjson

from gateway.core.quota import Charge, Per, Rule, RuleState, Unit, Verdict
from gateway.core.settlement import Settlement
from gateway.core.windows import Calendar
from gateway.ledger.base import Booking
from gateway.ledger.resp import bulk

NAMES = ("admit", "reserve", "settle", "beat", "usage", "remember", "administer", "refusals")

JUDGING = frozenset({"admit", "reserve", "usage", "administer"})  #: a function costs at each call, used or not

META = 5  #: the place among `keys` of what is known of the store itself

LEASE = 30_000  #: ms that a slot is held without renewal

IDEMPOTENT, CUT = "i", "c"  #: kinds of keys beside the counters': of an Idempotency-Key, of a cut answer

_BOUNDS = {"slot": (), "all": (), "roll": ("len",), "cal": ("s", "e", "f")}  #: of each kind of window, what is told

_SLIDING = {Per.MINUTE: 60_000, Per.HOUR: 3_600_000}


@dataclass(frozen=True, slots=True)
class Script:
    """A script's whole text and the SHA-1 that EVALSHA knows it by."""

    name: str
    text: str
    sha: str

    def command(self, keys: tuple[str, ...], argument: bytes, *, by_sha: bool) -> bytes:
        """The command that runs it, in RESP."""
        begun = _begun("EVALSHA", self.sha, keys) if by_sha else _begun("EVAL", self.text, keys)
        return begun + bulk(argument)


def load(name: str) -> Script:
    folder = files("gateway.ledger")
    shared = ("common", "rules", "records") if name in JUDGING else ("common", "records")
    parts = [(folder / f"{part}.lua").read_text("utf-8") for part in (*shared, name)]
    text = "#!lua\n" + "\n".join(parts)
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha)


@lru_cache(maxsize=64)
def _begun(verb: str, body: str, keys: tuple[str, ...]) -> bytes:
    """A command up to its last word: of one script and one namespace it is always the same."""
    words = (verb, body, str(len(keys)), *keys)
    return b"*%d\r\n" % (len(words) + 1) + b"".join(map(bulk, words))


def dumps(ask: Mapping[str, object]) -> bytes:
    return orjson.dumps(ask)


def keys(namespace: str) -> tuple[str, ...]:
    """All keys under one hash tag: a script's keys must lie on one node of a Cluster."""
    names = ("counters", "records", "open", "leases", "ended", "meta", "rules", "u:")
    return tuple(f"{{{namespace}}}:{name}" for name in names)


def counter(rule: Rule, calendar: Calendar, now: int) -> orjson.Fragment:
    """A rule's counter as common.lua's `read` takes it. now: unix ms on the store's clock."""
    if rule.unit is Unit.CONCURRENT:
        return _counter(rule.counter, rule.unit, "slot")
    if rule.per is None or rule.per is Per.TOTAL:
        return _counter(rule.counter, rule.unit, "all")
    length = _SLIDING.get(rule.per)
    if length is not None:
        return _counter(rule.counter, rule.unit, "roll", length)
    bounds = calendar.bounds(rule.per, rule.zone, now)
    return _counter(rule.counter, rule.unit, "cal", bounds.start, bounds.end, bounds.following)


@lru_cache(maxsize=8192)
def _counter(name: str, unit: Unit, window: str, *bounds: int) -> orjson.Fragment:
    """In JSON, for it stays the same for as long as its window."""
    named = dict(zip(_BOUNDS[window], bounds, strict=True))
    return orjson.Fragment(dumps({"k": name, "u": unit.value, "w": window, **named}))


def counters_and_rules(charges: Sequence[Charge], calendar: Calendar, now: int) -> dict[str, object]:
    """What is asked of rules, as rules.lua takes it. now: unix ms on the store's clock."""
    place: dict[str, int] = {}
    counters: list[orjson.Fragment] = []
    rules: list[list[object]] = []
    for charge in charges:
        rule = charge.rule
        at = place.get(rule.counter)
        if at is None:
            counters.append(counter(rule, calendar, now))
            at = place[rule.counter] = len(counters)
        grants = [[g.amount, -1 if g.until is None else int(g.until * 1000)] for g in rule.grants]
        asked: list[object] = [at, rule.limit, 1 if rule.mode == "enforce" else 0, grants, charge.amount]
        if rule.warn_at:
            asked.append(rule.warn_at)
        rules.append(asked)
    return {"counters": counters, "rules": rules}


def admission(
    rid: str,
    team: str,
    charges: Sequence[Charge],
    orders: Sequence[Sequence[int]],
    *,
    calendar: Calendar,
    now: int,
    patience: int,
) -> bytes:
    """patience: ms until an admission that nothing followed is forgotten."""
    ask = counters_and_rules(charges, calendar, now)
    ask |= {"id": rid, "team": team, "orders": [[i + 1 for i in order] for order in orders]}
    ask |= {"lease": LEASE, "patience": patience}
    return dumps(ask)


def reservation(
    rid: str,
    charges: Sequence[Charge],
    booking: Booking,
    *,
    calendar: Calendar,
    now: int,
    deadline: int,
    order: str | None = None,
) -> bytes:
    """deadline: ms until the charge is presumed; order: see reserve.lua."""
    bounds = calendar.bounds(Per.DAY, booking.zone, now)
    ask = counters_and_rules(charges, calendar, now)
    ask |= {
        "id": rid,
        "lease": LEASE,
        "team": booking.team,
        "deadline": deadline,
        "labels": f"{booking.key}|{booking.account}|{booking.model}"
        f"|{booking.size}|{booking.quality}|{booking.endpoint}",
        "images": booking.images,
        "cost": booking.cost,
        "days": [
            [start, stop, *periods(booking.team, booking.zone, start)]
            for start, stop in ((bounds.start, bounds.end), (bounds.end, bounds.following))
        ],
    }
    if order is not None:
        ask["order"] = order
    return dumps(ask)


@lru_cache(maxsize=4096)
def periods(team: str, zone: str, now: int) -> tuple[str, str]:
    """The names under which usage at `now` (unix ms) is booked: the team's day and its month.

    Asked with the start of a day on the path of a request, so the answers of a few days are all that is kept.
    """
    day = datetime.fromtimestamp(now / 1000, ZoneInfo(zone))
    return f"{team}:{day:%Y-%m-%d}", f"{team}:{day:%Y-%m}"


def settlement(rid: str, end: Settlement, prefix: str) -> bytes:
    """prefix: the last of `keys`."""
    ask: dict[str, object] = {
        "id": rid,
        "end": end.end.value,
        "images": end.images,
        "cost": end.cost,
        "requests": end.requests,
    }
    if end.cut:
        ask["cut"] = named(prefix, CUT, end.cut)
    return dumps(ask)


def named(prefix: str, kind: str, name: str) -> str:
    """A key beside those of usage. prefix: the last of `keys`; kind: `IDEMPOTENT` or `CUT`."""
    return f"{prefix.removesuffix('u:')}{kind}:{name}"


def verdict(charges: Sequence[Charge], answer: Sequence[int]) -> Verdict:
    """Read what admit.lua, reserve.lua and usage.lua give for statuses 0, 1 and 2."""
    end = 2 + 5 * len(charges)
    facts = iter(answer[2:end])
    states = [
        RuleState(
            charge.rule,
            charge.amount,
            used,
            limit,
            None if reset < 0 else reset / 1000,
            None if fit < 0 else fit / 1000,
            refused == 1,
        )
        for charge, used, limit, reset, fit, refused in zip(charges, facts, facts, facts, facts, facts, strict=True)
    ]
    told = answer[end:]
    passed = tuple((states[rule - 1], percent) for rule, percent in zip(told[::2], told[1::2], strict=True))
    return Verdict(admitted=answer[0] in (1, 2), now=answer[1] / 1000, states=tuple(states), passed=passed)


def look(rules: Sequence[Rule]) -> list[Charge]:
    """Charges of nothing, to ask how rules stand."""
    return [Charge(rule, 0) for rule in rules]
