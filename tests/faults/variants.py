"""Gateways made wrong on purpose, each as others have been: the checker must tell what is wrong with each.

    python -m tests.faults.variants "settles twice" serve --config config.yaml

is the real gateway with another text of a script, or another class in the place of one. The product knows nothing of
it: what is to be wrong is put in here, before its command line begins.
"""

import asyncio
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from gateway import app, worker
from gateway.answer import Progress
from gateway.cli.main import main
from gateway.core.errors import OutcomeUnknown
from gateway.core.quota import Charge, Verdict
from gateway.ledger import scripts
from gateway.ledger.base import Booking
from gateway.ledger.redis import RedisLedger
from gateway.upstream import Upstream

Edit = tuple[str, str, str]  #: script (or "all"), what stands once in it, what it becomes


@dataclass(frozen=True, slots=True)
class Variant:
    """invariant: what the checker must name, whatever else it names. also: done before the gateway begins."""

    invariant: str
    edits: Sequence[Edit] = ()
    also: Callable[[], None] = lambda: None


class LooksThenAdds(RedisLedger):
    """Check, then increment: whoever asks meanwhile sees the same headroom."""

    async def reserve(self, rid: str, charges: Sequence[Charge], booking: Booking) -> Verdict:
        seen = await self.states([charge.rule for charge in charges])
        fits = all(s.used + c.amount <= c.rule.limit for s, c in zip(seen, charges, strict=True))
        await asyncio.sleep(0.02)
        # The script that follows refuses nothing but what it is told to refuse.
        return await super().reserve(rid, charges if fits else [_beyond(charge) for charge in charges], booking)


def _beyond(charge: Charge) -> Charge:
    return Charge(charge.rule, charge.rule.limit + 1)


class SendsAgain(Upstream):
    """A paid call whose answer was lost goes up once more."""

    async def send(self, request: httpx.Request, progress: Progress) -> httpx.Response:
        try:
            return await super().send(request, progress)
        except OutcomeUnknown:
            return await super().send(request, progress)


def _look_then_add() -> None:
    setattr(worker, "RedisLedger", LooksThenAdds)  # noqa: B010  a class is not for assigning to


def _send_again() -> None:
    setattr(app, "Upstream", SendsAgain)  # noqa: B010


_REFUSES = "refused = not own(c) and before.used + amount > limit"

VARIANTS = {
    "looks, then adds": Variant(
        "I1", [("reserve", _REFUSES, "refused = not own(c) and amount > limit")], _look_then_add
    ),
    "loses leases": Variant(
        "I1",
        [
            ("reserve", "redis.call('ZADD', LEASES, now + ask.lease, id)", "redis.call('ZADD', LEASES, now + 100, id)"),
            ("admit", "redis.call('ZADD', LEASES, now + ask.lease, id)", "redis.call('ZADD', LEASES, now + 100, id)"),
            ("beat", "redis.call('ZADD', LEASES, 'XX', now + ask.lease, id)", ""),
        ],
    ),
    "charges again what is reserved": Variant(
        "I2", [("reserve", "again = rec and rec.state == 'reserved'", "again = false")]
    ),
    "settles twice": Variant(
        "I2",
        [
            ("settle", "if before == 'committed' or before == 'refunded' then return {0, before} end", ""),
            ("settle", "if call and rec.call == call then return {1, rec.was} end", ""),
            ("settle", "if rec.state ~= 'presumed' then\n", "if false then\n"),
        ],
    ),
    "gives back into the present slice": Variant(
        "I4",
        [
            (
                "settle",
                "kept[at] = math.max(0, math.floor(had) - amount) + had % 1",
                "for slice in pairs(kept) do at = math.max(at, slice) end kept[at] = kept[at] - amount",
            )
        ],
    ),
    "refunds what nobody knows": Variant(
        "I3",
        [
            (
                "settle",
                "local rec = record(ask.id)",
                "local rec = record(ask.id) if ask['end'] == 'presumed' then ask['end'] = 'refunded' end",
            )
        ],
    ),
    "sends again what was cut": Variant("I5", also=_send_again),
    "gives one key to two": Variant(
        "I5",
        [
            (
                "remember",
                "\nif ask.act == 'recall'",
                "\nif state == 'running' then state = 'free' end\nif ask.act == 'recall'",
            )
        ],
    ),
    "forgets what a key bought": Variant(
        "I5",
        [
            (
                "remember",
                "\nif ask.act == 'recall'",
                "\nif state == 'done' then state = 'free' end\nif ask.act == 'recall'",
            )
        ],
    ),
    "keeps a slot": Variant("I7", [("settle", "\nfree_slots(rec)\n", "\n")]),
}


#: No wrong ones: their store is ahead of the time by the seconds that stand under CLOCK_KEY. The first one cannot
#: notice it, as if the time had really passed.
SET_CLOCK = "a clock that is set"
STEPPED_CLOCK = "a clock that jumps"
CLOCK_KEY = "clock-of-the-test"
_AHEAD = f"t[1] = tonumber(t[1]) + tonumber(redis.call('GET', '{CLOCK_KEY}') or '0')"

KNOWN = VARIANTS | {
    SET_CLOCK: Variant(
        "",
        [
            ("all", "local t = redis.call('TIME')", f"local t = redis.call('TIME') {_AHEAD}"),
            ("all", "return reckoned >= 0 and math.abs(now - reckoned) > SKEW", "return false"),
        ],
    ),
    STEPPED_CLOCK: Variant("", [("all", "local t = redis.call('TIME')", f"local t = redis.call('TIME') {_AHEAD}")]),
}


def apply(variant: Variant) -> None:
    variant.also()
    load = scripts.load

    def changed(name: str) -> scripts.Script:
        text = load(name).text
        for script, old, new in variant.edits:
            if script in (name, "all"):
                assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
                text = text.replace(old, new)
        return scripts.Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    scripts.load = changed


if __name__ == "__main__":
    apply(KNOWN[sys.argv.pop(1)])
    main()
