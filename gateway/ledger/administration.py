"""What quota administrators ask of the store: grants and corrections, who made them, and why orders were refused.

Amounts are in a rule's unit, money in micro-dollars; times are unix seconds. Every call raises StoreUnavailable when
the store is away.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Literal

from gateway.core.quota import Charge, Rule, Unit
from gateway.core.refusals import iso, number
from gateway.core.windows import Calendar
from gateway.ledger import scripts

#: Asks a script for what its windows at a moment (unix ms on the store's clock) make of it.
Ask = Callable[[str, Callable[[int], bytes]], Awaitable[Any]]

_GLOB = re.compile(r"([*?\[\]^\\])")


@dataclass(frozen=True, slots=True)
class Change:
    """What a command did. before, after: a grant's limit, a reset's use. by: who, and on which host."""

    id: str
    act: Literal["grant", "reset"]
    at: float
    team: str
    rule: str
    unit: Unit
    by: str
    reason: str
    before: int
    after: int
    until: float | None

    @property
    def difference(self) -> int:
        return self.after - self.before


def told(change: Change, zone: str = "UTC") -> dict[str, object]:
    """A change for programs and logs: dollars and images as plain numbers, times in `zone`."""
    return {
        "at": iso(change.at // 1, zone),
        "team": change.team,
        "rule": change.rule,
        "unit": change.unit.value,
        "before": number(change.unit, change.before),
        "after": number(change.unit, change.after),
        "difference": number(change.unit, change.difference),
        "until": iso(change.until, zone),
        "by": change.by,
        "reason": change.reason,
    }


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant by command that runs."""

    rule: Rule
    amount: int
    until: float
    by: str
    reason: str
    at: float


class Administration:
    def __init__(self, ask: Ask, namespace: str, calendar: Calendar) -> None:
        self._ask, self._calendar = ask, calendar
        self._audit, self._refused = f"{{{namespace}}}:audit", f"{{{namespace}}}:refused:"

    async def grant(self, id_: str, rule: Rule, amount: int, *, until: float, by: str, reason: str) -> Change:
        """Add `amount` to the rule's limit until that moment. The same id again gives the same answer."""
        return await self._change("grant", id_, rule, amount=amount, until=int(until * 1000), by=by, reason=reason)

    async def reset(self, id_: str, rule: Rule, used: int, *, by: str, reason: str) -> Change:
        """Say what is used of the rule in its present window. The same id again gives the same answer.

        What was charged before and is given back later comes out of `used`; it never touches what is charged after.
        """
        return await self._change("reset", id_, rule, amount=used, by=by, reason=reason)

    async def recall(self, rules: Sequence[Rule], *, since: float) -> tuple[list[Granted], list[Change]]:
        """The grants by command that run on these rules, and all changes since that moment, the latest first."""
        facts = {"act": "recall", "from": int(since * 1000)}
        _, _, grants, changes = await self._administer(scripts.look(rules), facts)
        running = [
            Granted(rules[place - 1], amount, until / 1000, by, reason, at / 1000)
            for place, amount, until, by, reason, at in grants
        ]
        return running, [_read(change) for change in changes]

    async def untold(self) -> list[Change]:
        """Changes that no gateway has logged yet; of all that ask at once, each is told to one."""
        return [_read(change) for change in (await self._administer((), {"act": "untold", "id": token_hex(8)}))[2:]]

    async def keep_refusals(self, refusals: Mapping[str, Sequence[tuple[float, str]]]) -> None:
        """Keep (time, text) of each team's refusals, of which the store keeps the latest."""
        teams = [
            [self._refused + team, [[int(at * 1000), text] for at, text in told]] for team, told in refusals.items()
        ]
        await self._ask("refusals", lambda _: scripts.dumps({"act": "keep", "teams": teams}))

    async def refusals(self, teams: Sequence[str], *, since: float = 0.0, containing: str = "") -> list[str]:
        """The texts kept of these teams that have these words in them, of each team the latest first."""
        literal = _GLOB.sub(r"\\\1", containing)
        match = f"*{literal}*" if containing else "*"
        keys = [self._refused + team for team in teams]
        facts = {"act": "find", "keys": keys, "from": int(since * 1000), "match": match}
        texts: list[str] = (await self._ask("refusals", lambda _: scripts.dumps(facts)))[2:]
        return texts

    async def _change(self, act: str, id_: str, rule: Rule, **facts: object) -> Change:
        facts |= {"act": act, "id": id_, "team": rule.scope, "rule": rule.name}
        _, _, change = await self._administer(scripts.look([rule]), facts)
        return _read(change)

    async def _administer(self, looked_at: Sequence[Charge], facts: Mapping[str, object]) -> Any:
        def ask(now: int) -> bytes:
            asked = scripts.counters_and_rules(looked_at, self._calendar, now)
            return scripts.dumps({**asked, **facts, "audit": self._audit})

        return await self._ask("administer", ask)


def _read(change: Sequence[Any]) -> Change:
    id_, act, at, team, rule, unit, by, reason, before, after, until = change
    ends = until / 1000 if until >= 0 else None
    return Change(id_, act, at / 1000, team, rule, Unit(unit), by, reason, before, after, ends)
