"""When a rule will be used up at the rate of its window so far, and how that is said."""

from datetime import UTC, datetime

import pytest

from gateway.core.forecast import exhausted_at, in_words
from gateway.core.quota import Per, Rule, RuleState, Unit

HOUR, DAY = 3600.0, 86_400.0

#: Midnight of Monday, 2 November 2026, UTC.
MONDAY = datetime(2026, 11, 2, tzinfo=UTC).timestamp()


def state(used: int, *, per: Per | None = Per.DAY, unit: Unit = Unit.IMAGES, length: float = DAY) -> RuleState:
    """A rule of 100 whose window began on Monday."""
    rule = Rule(scope="design", name="rule", unit=unit, per=per, limit=100)
    resets = MONDAY + length if per not in {None, Per.TOTAL} else None
    return RuleState(rule, amount=0, used=used, limit=100, resets_at=resets, fits_at=None, refused=False)


@pytest.mark.parametrize(
    ("used", "after", "length", "per", "exhausted"),
    [
        (50, 6 * HOUR, DAY, Per.DAY, 12 * HOUR),
        (75, 6 * HOUR, DAY, Per.DAY, 8 * HOUR),
        (99, 23 * HOUR, DAY, Per.DAY, 23 * HOUR * 100 / 99),
        (50, 3 * DAY, 7 * DAY, Per.WEEK, 6 * DAY),
        (50, 10 * DAY, 30 * DAY, Per.MONTH, 20 * DAY),
    ],
)
def test_the_rate_of_the_window_so_far_goes_on(
    used: int, after: float, length: float, per: Per, exhausted: float
) -> None:
    """Half used in a quarter of the day is all used at noon, and so for weeks and months."""
    at = exhausted_at(state(used, per=per, length=length), began=MONDAY, now=MONDAY + after)
    assert at == pytest.approx(MONDAY + exhausted)


@pytest.mark.parametrize(
    ("found", "after"),
    [
        (state(25), 6 * HOUR),  # it lasts just till the reset
        (state(1), 6 * HOUR),
        (state(0), 6 * HOUR),
        (state(100), 6 * HOUR),  # it is used up already
        (state(120), 6 * HOUR),
        (state(50), 0.9 * HOUR),  # too early to tell
        (state(50, per=Per.HOUR, length=HOUR), 0.5 * HOUR),
        (state(50, per=Per.TOTAL), 6 * HOUR),
        (state(50, per=None, unit=Unit.CONCURRENT), 6 * HOUR),
    ],
)
def test_nothing_is_foretold_where_nothing_can_be(found: RuleState, after: float) -> None:
    """A rule that lasts, that is used up, that has just begun, that slides or that never ends has no such moment."""
    assert exhausted_at(found, began=MONDAY, now=MONDAY + after) is None


@pytest.mark.parametrize(
    ("after", "zone", "words"),
    [
        (8.7 * HOUR, "UTC", "today about 08:00"),
        (8.7 * HOUR, "Asia/Tokyo", "today about 17:00"),
        (20 * HOUR, "Asia/Tokyo", "Tuesday about 05:00"),
        (3 * DAY + 9 * HOUR, "UTC", "Thursday about 09:00"),
        (7 * DAY - 1, "UTC", "Sunday about 23:00"),
        (7 * DAY, "UTC", "on 9 November"),
        (29 * DAY, "UTC", "on 1 December"),
    ],
)
def test_a_moment_is_said_as_people_say_it(after: float, zone: str, words: str) -> None:
    """Today and within a week by hour and weekday, later by date, in the rule's own zone; a weekday means no two."""
    assert in_words(MONDAY + after, now=MONDAY, zone=zone) == words
