"""Calendar windows in time zones: days that are short, long, or begin at one o'clock; weeks; months."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.quota import Per
from gateway.core.windows import Bounds, Calendar

HOUR = 3_600_000
PERS = [Per.DAY, Per.WEEK, Per.MONTH]
ZONES = sorted(available_timezones() - {"localtime"})

#: 2024 to 2037: past them no zone's rules are known.
MOMENTS = st.integers(1_704_067_200_000, 2_145_916_799_999)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000


@pytest.mark.parametrize(
    ("zone", "per", "now", "bounds"),
    [
        ("UTC", Per.DAY, "2026-11-22T13:14:15Z", ("2026-11-22T00:00Z", "2026-11-23T00:00Z", "2026-11-24T00:00Z")),
        ("UTC", Per.WEEK, "2026-11-22T13:14:15Z", ("2026-11-16T00:00Z", "2026-11-23T00:00Z", "2026-11-30T00:00Z")),
        ("UTC", Per.MONTH, "2026-11-22T13:14:15Z", ("2026-11-01T00:00Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z")),
        ("UTC", Per.MONTH, "2028-02-29T00:00:00Z", ("2028-02-01T00:00Z", "2028-03-01T00:00Z", "2028-04-01T00:00Z")),
        (
            "Europe/Berlin",
            Per.DAY,
            "2026-10-25T02:30:00+01:00",
            ("2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00", "2026-10-27T00:00+01:00"),
        ),
        (
            "Europe/Berlin",
            Per.MONTH,
            "2027-03-28T03:00:00+02:00",
            ("2027-03-01T00:00+01:00", "2027-04-01T00:00+02:00", "2027-05-01T00:00+02:00"),
        ),
        (
            "America/Santiago",  # 2026-09-06 begins at one o'clock
            Per.DAY,
            "2026-09-05T23:59:59-04:00",
            ("2026-09-05T00:00-04:00", "2026-09-06T01:00-03:00", "2026-09-07T00:00-03:00"),
        ),
        (
            "America/Santiago",  # 2026-04-04 has its last hour twice
            Per.DAY,
            "2026-04-04T23:30:00-04:00",
            ("2026-04-04T00:00-03:00", "2026-04-05T00:00-04:00", "2026-04-06T00:00-04:00"),
        ),
        (
            "America/Havana",  # 2026-11-01 has its first hour twice
            Per.DAY,
            "2026-11-01T00:30:00-05:00",
            ("2026-11-01T00:00-04:00", "2026-11-02T00:00-05:00", "2026-11-03T00:00-05:00"),
        ),
        (
            "Asia/Kolkata",
            Per.WEEK,
            "2026-11-22T23:59:59+05:30",
            ("2026-11-16T00:00+05:30", "2026-11-23T00:00+05:30", "2026-11-30T00:00+05:30"),
        ),
    ],
)
def test_bounds(zone: str, per: Per, now: str, bounds: tuple[str, str, str]) -> None:
    """A window begins with the first moment of its first local day, whatever the clocks do that night."""
    assert Calendar().bounds(per, zone, at(now)) == Bounds(*map(at, bounds))


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)], ids=["spring", "autumn", "summer"]
)
def test_days_have_23_to_25_hours(day: str, hours: int) -> None:
    """A day in Berlin is as long as its clocks make it."""
    bounds = Calendar().bounds(Per.DAY, "Europe/Berlin", at(f"{day}T12:00+02:00"))
    assert bounds.end - bounds.start == hours * HOUR


@pytest.mark.parametrize("month", range(1, 13))
def test_months_have_their_lengths(month: int) -> None:
    """January to December of a leap year, in UTC."""
    lengths = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    bounds = Calendar().bounds(Per.MONTH, "UTC", at(f"2028-{month:02}-15T00:00Z"))
    assert bounds.end - bounds.start == lengths[month - 1] * 24 * HOUR


@given(MOMENTS, st.sampled_from(ZONES), st.sampled_from(PERS))
def test_every_moment_is_in_one_window_and_windows_touch(now: int, zone: str, per: Per) -> None:
    """In every zone the window holds its moment, the next begins where it ends, and both begin on the right day."""
    bounds = Calendar().bounds(per, zone, now)
    assert bounds.start <= now < bounds.end < bounds.following
    following = Calendar().bounds(per, zone, bounds.end)
    assert (following.start, following.end) == (bounds.end, bounds.following)
    last = Calendar().bounds(per, zone, bounds.end - 1)
    assert last == bounds
    first = datetime.fromtimestamp(bounds.start / 1000, ZoneInfo(zone))
    before = datetime.fromtimestamp((bounds.start - 1) / 1000, ZoneInfo(zone))
    assert before.date() < first.date()
    assert per is not Per.WEEK or first.weekday() == 0
    assert per is not Per.MONTH or first.day == 1


def test_no_clock_change_of_any_zone_opens_a_gap() -> None:
    """Around every clock change of a year, the day that is named holds the moment, half hour by half hour."""
    changes = 0
    for zone in ZONES:
        there = ZoneInfo(zone)
        days = [datetime(2027, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(366)]
        for day, later in pairwise(days):
            if day.astimezone(there).utcoffset() != later.astimezone(there).utcoffset():
                changes += 1
                for minutes in range(-3 * 60, 27 * 60, 30):
                    now = int((day + timedelta(minutes=minutes)).timestamp()) * 1000
                    bounds = Calendar().bounds(Per.DAY, zone, now)
                    assert bounds.start <= now < bounds.end, (zone, now)
    assert changes > 200


@given(st.lists(MOMENTS, min_size=1, max_size=20))
def test_what_a_calendar_remembers_is_right(moments: list[int]) -> None:
    """A calendar that was asked before answers as a new one does."""
    used = Calendar()
    for now in moments:
        for per in PERS:
            assert used.bounds(per, "Europe/Berlin", now) == Calendar().bounds(per, "Europe/Berlin", now)


@pytest.mark.parametrize("per", [Per.MINUTE, Per.HOUR, Per.TOTAL])
def test_other_windows_are_no_calendar(per: Per) -> None:
    """A minute slides and a total has no bounds: to ask for them is an error of the caller's."""
    with pytest.raises(ValueError, match="no calendar window"):
        Calendar().bounds(per, "UTC", 0)
