"""When a rule will be used up, should its window go on as it has begun. Times are unix seconds, given by the caller."""

from datetime import datetime
from zoneinfo import ZoneInfo

from gateway.core.quota import Per, RuleState

#: Share of a window that must be over before its beginning says anything: an hour of a day, a good day of a month.
_ENOUGH = 1 / 24

_CALENDAR = (Per.DAY, Per.WEEK, Per.MONTH)


def exhausted_at(state: RuleState, *, began: float, now: float) -> float | None:
    """began: of the rule's window. None where it will last, or nobody can tell: a window that slides or never ends has
    no beginning to measure from.
    """
    if state.rule.per not in _CALENDAR or state.resets_at is None or not 0 < state.used < state.limit:
        return None
    elapsed = now - began
    if elapsed < _ENOUGH * (state.resets_at - began):
        return None
    at = now + state.remaining * elapsed / state.used
    return at if at < state.resets_at else None


def in_words(at: float, *, now: float, zone: str) -> str:
    """``today about 16:00``, ``Thursday about 09:00``, ``on 27 November``: no finer than such a guess can be."""
    then, present = (datetime.fromtimestamp(moment, ZoneInfo(zone)) for moment in (at, now))
    days = (then.date() - present.date()).days
    if days > 6:
        return f"on {then.day} {then:%B}"
    return f"{'today' if days == 0 else format(then, '%A')} about {then:%H}:00"
