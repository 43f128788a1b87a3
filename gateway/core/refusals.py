"""How a quota's refusal is told: the sentence a person reads, the facts a program reads, and the headers.

Durations stand in the form that OpenAI's headers have (``6m0s``), money in dollars with up to six decimals.
"""

from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from gateway.core.errors import GatewayError, InsufficientQuota, Overloaded, QuotaExceeded, RateLimitExceeded
from gateway.core.quota import MICRO, ORGANIZATION, Per, RuleState, Unit, Verdict
from gateway.core.settlement import Settlement

#: Past this a client that waits for Retry-After gives up or, worse, does not wait (OpenAI's SDK for Node, version 7) or
#: sleeps for however long it is (version 6).
_WORTH_WAITING = 60

#: Seconds to say where a slot may come free at any moment.
_SLOT_RETRY = 2

_SPAN = {
    Per.MINUTE: "in the last minute",
    Per.HOUR: "in the last hour",
    Per.DAY: "today",
    Per.WEEK: "this week",
    Per.MONTH: "this month",
    Per.TOTAL: "in total",
}

_NOUN = {Unit.IMAGES: "images", Unit.REQUESTS: "requests", Unit.CONCURRENT: "requests in flight"}
_ONE = {Unit.IMAGES: "image", Unit.REQUESTS: "request", Unit.CONCURRENT: "request in flight"}

#: The names of its limit, what remains of it, when it is empty again, and its rule.
_LIMIT_HEADERS = {
    unit: tuple(f"x-ratelimit-{fact}-{unit}".encode() for fact in ("limit", "remaining", "reset", "rule"))
    for unit in (Unit.IMAGES, Unit.REQUESTS, Unit.USD)
}


def dollars(micro: int) -> str:
    """Micro-dollars as dollars: at least two decimals, no more than are needed."""
    whole, rest = divmod(micro, MICRO)
    if rest % 10_000 == 0:
        return f"{whole}.{rest // 10_000:02d}"
    return f"{whole}.{rest:06d}".rstrip("0")


def duration(seconds: float) -> str:
    """``1s``, ``6m0s``, ``23h59m1s``: rounded up to whole seconds."""
    return _duration(max(0, -int(-seconds // 1)))


@lru_cache(maxsize=4096)
def _duration(left: int) -> str:
    hours, rest = divmod(left, 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def quota_error(verdict: Verdict, *, team: str, contact: str) -> GatewayError:
    """The answer to a refused order: the refusing rule with the latest reset leads, all are listed.

    A refusal by an upstream account's own cap is no quota of the team's: it is Overloaded.
    """
    refusals = [state for state in verdict.refusals if not state.rule.scope.startswith("account:")]
    if not refusals:
        return Overloaded(
            "The gateway has as many images in the making as its accounts at the upstream allow. Try again shortly."
        )
    leading = refusals[0]
    short = leading.rule.unit is Unit.CONCURRENT or leading.rule.per in (Per.MINUTE, Per.HOUR)
    error: type[QuotaExceeded] = RateLimitExceeded if short else InsufficientQuota
    facts = [_facts(state) for state in refusals]
    return error(
        f"{_sentence(leading, team)} Ask {contact}",
        extra={"quota": facts},
        headers=_advice(leading, verdict.now, short=short),
    )


def _sentence(state: RuleState, team: str) -> str:
    rule = state.rule
    whose = "All teams together" if rule.scope == ORGANIZATION else f"Team {team}"
    has = "have" if rule.scope == ORGANIZATION else "has"
    named = f"rule {rule.name}" + (" of the organization" if rule.scope == ORGANIZATION else "")
    if rule.unit is Unit.CONCURRENT:
        return f"{whose} {has} {state.used} of {state.limit} requests in flight ({named}). Free again when one ends."
    span = _SPAN[rule.per or Per.TOTAL]
    amount = measured(rule.unit, state.amount)
    used = f"{whose} {has} used {_of(state)} {span} ({named})"
    if state.never_fits:
        return f"{used}; this request asks for {amount}, more than the limit, so it can never fit."
    tail = "." if state.used >= state.limit else f"; this request asks for {amount}, more than is left."
    if state.fits_at is None:
        return f"{used}{tail} It does not come free again by itself."
    return f"{used}{tail} Free again {local_time(state.fits_at, rule.zone)}."


def _of(state: RuleState) -> str:
    if state.rule.unit is Unit.USD:
        return f"${dollars(state.used)} of ${dollars(state.limit)}"
    return f"{state.used} of {state.limit} {_NOUN[state.rule.unit]}"


def measured(unit: Unit, amount: int) -> str:
    """``4 images``, ``$1.20``."""
    if unit is Unit.USD:
        return f"${dollars(amount)}"
    return f"{amount} {_NOUN[unit] if amount != 1 else _ONE[unit]}"


def local_time(at: float, zone: str) -> str:
    """``2026-11-23 00:00 Europe/Berlin``, rounded up to whole seconds."""
    local = datetime.fromtimestamp(-(-at // 1), ZoneInfo(zone))
    form = "%Y-%m-%d %H:%M" if local.second == 0 else "%Y-%m-%d %H:%M:%S"
    return f"{local:{form}} {zone}"


def _facts(state: RuleState) -> dict[str, object]:
    rule = state.rule
    facts: dict[str, object] = {
        "rule": rule.name,
        "scope": rule.scope,
        "unit": rule.unit.value,
        "per": rule.per.value if rule.per else None,
        "limit": number(rule.unit, state.limit),
        "used": number(rule.unit, state.used),
        "requested": number(rule.unit, state.amount),
        "resets_at": iso(state.fits_at or state.resets_at, rule.zone),
    }
    return facts


def rule_facts(state: RuleState) -> dict[str, object]:
    """A rule as it stands, for programs and pages: dollars and images as plain numbers."""
    rule = state.rule
    return {
        "rule": rule.name,
        "scope": rule.scope,
        "unit": rule.unit.value,
        "per": rule.per.value if rule.per else None,
        "mode": rule.mode,
        "limit": number(rule.unit, state.limit),
        "used": number(rule.unit, state.used),
        "remaining": number(rule.unit, state.remaining),
        "resets_at": iso(state.resets_at, rule.zone),
    }


def number(unit: Unit, amount: int) -> int | float:
    """As JSON has it: micro-dollars as dollars."""
    return amount / MICRO if unit is Unit.USD else amount


def iso(at: float | None, zone: str) -> str | None:
    """An RFC 3339 time in `zone`, whole seconds, rounded up."""
    return None if at is None else datetime.fromtimestamp(-(-at // 1), ZoneInfo(zone)).isoformat()


def retry_headers(seconds: int, *, worth: bool = True) -> dict[str, str]:
    """When a refusal is over, and that it is not worth waiting for: over a minute, or where it is not `worth` it."""
    headers = {"retry-after": str(seconds)}
    if not worth or seconds > _WORTH_WAITING:
        headers["x-should-retry"] = "false"
    return headers


def _advice(state: RuleState, now: float, *, short: bool) -> dict[str, str]:
    if state.rule.unit is Unit.CONCURRENT and not state.never_fits:
        return {"retry-after": str(_SLOT_RETRY)}
    if state.fits_at is None:
        return {"x-should-retry": "false"}
    after = max(1, -int(-(state.fits_at - now) // 1))
    if state.rule.per is Per.MINUTE:
        # Two milliseconds that the window errs to the strict side must not cost a client the retry that it would make.
        after = min(after, _WORTH_WAITING)
    return retry_headers(after, worth=short)


def limit_headers(verdict: Verdict, settlement: Settlement | None) -> list[tuple[bytes, bytes]]:
    """``x-ratelimit-*`` for images, requests and usd: of each, the enforced rule with the least remaining.

    settlement: what the order came to in the end, or None while it stands as reserved or was refused.
    """
    final = {}
    if settlement is not None:
        final = {Unit.IMAGES: settlement.images, Unit.USD: settlement.cost, Unit.REQUESTS: settlement.requests}
    tightest: dict[Unit, RuleState] = {}
    for state in verdict.states:
        unit = state.rule.unit
        if unit in _LIMIT_HEADERS and state.rule.mode == "enforce":
            known = tightest.get(unit)
            if known is None or state.remaining < known.remaining:
                tightest[unit] = state
    headers = []
    now = verdict.now
    for unit, (limit, remaining, reset, rule) in _LIMIT_HEADERS.items():
        tight = tightest.get(unit)
        if tight is None:
            continue
        used = tight.used - (tight.amount - final[unit] if unit in final else 0)
        headers.append((limit, _header_number(unit, tight.limit)))
        headers.append((remaining, _header_number(unit, max(0, tight.limit - used))))
        if tight.resets_at is not None:
            headers.append((reset, duration(tight.resets_at - now).encode()))
        headers.append((rule, tight.rule.name.encode()))
    return headers


@lru_cache(maxsize=4096)
def _header_number(unit: Unit, amount: int) -> bytes:
    return dollars(amount).encode() if unit is Unit.USD else b"%d" % amount
