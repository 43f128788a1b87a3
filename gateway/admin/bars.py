"""Rules as the pages show them: how full, until when, and how long it will last at this rate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gateway.core import forecast
from gateway.core.quota import RuleState, Unit
from gateway.core.refusals import dollars, local_time, measured
from gateway.core.windows import Calendar

Level = Literal["fine", "near", "full"]

_NEAR = 80  # percent of the limit


@dataclass(frozen=True, slots=True)
class Bar:
    """percent: of the limit, whole, at most 100. resets, forecast: words, empty where there is nothing to say."""

    scope: str
    name: str
    mode: str
    window: str
    only: str
    used: str
    limit: str
    left: str
    percent: int
    level: Level
    resets: str
    forecast: str


def bar(state: RuleState, now: float, calendar: Calendar) -> Bar:
    """now: unix seconds of the store's clock."""
    rule = state.rule
    narrowed = (rule.models, rule.sizes, rule.qualities, rule.endpoints)
    return Bar(
        scope=rule.scope,
        name=rule.name,
        mode=rule.mode,
        window="at once" if rule.unit is Unit.CONCURRENT else f"per {rule.per}" if rule.per != "total" else "in total",
        only=", ".join(" or ".join(sorted(values)) for values in narrowed if values is not None),
        used=f"${dollars(state.used)}" if rule.unit is Unit.USD else str(state.used),
        limit=measured(rule.unit, state.limit),
        left=measured(rule.unit, state.remaining),
        percent=_percent(state),
        level=level(state),
        resets=local_time(state.resets_at, rule.zone) if state.resets_at is not None and state.used else "",
        forecast=_forecast(state, now, calendar),
    )


def level(state: RuleState) -> Level:
    """How near a rule is to refusing. `near` begins at 80 %, or at its lowest `warn_at`."""
    if state.used >= state.limit:
        return "full"
    return "near" if state.has_passed(min((_NEAR, *state.rule.warn_at))) else "fine"


def tightest(states: Iterable[RuleState]) -> RuleState | None:
    """The enforced rule that is fullest, if there is one."""
    return max((s for s in states if s.rule.mode == "enforce"), key=_share, default=None)


def _share(state: RuleState) -> float:
    return state.used / state.limit if state.limit else 1.0


def _percent(state: RuleState) -> int:
    """Rounded down, so that 100 means that nothing is left."""
    return min(100, int(100 * _share(state)))


def _forecast(state: RuleState, now: float, calendar: Calendar) -> str:
    rule = state.rule
    if rule.per not in ("day", "week", "month"):
        return ""
    began = calendar.bounds(rule.per, rule.zone, int(now * 1000)).start / 1000
    at = forecast.exhausted_at(state, began=began, now=now)
    return f"at this rate exhausted {forecast.in_words(at, now=now, zone=rule.zone)}" if at is not None else ""
