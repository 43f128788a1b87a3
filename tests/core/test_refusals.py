"""How a refusal reads: the sentence, the facts, the headers of contract 4.3 and 4.4."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import GatewayError, InsufficientQuota, Overloaded, QuotaExceeded, RateLimitExceeded
from gateway.core.quota import Mode, Per, Rule, RuleState, Unit, Verdict
from gateway.core.refusals import dollars, duration, iso, limit_headers, quota_error
from gateway.core.settlement import committed, presumed, refunded

NOW = datetime.fromisoformat("2026-11-22T14:00:00+01:00").timestamp()
MIDNIGHT = datetime.fromisoformat("2026-11-23T00:00:00+01:00").timestamp()
COUNTED = (Unit.IMAGES, Unit.USD, Unit.REQUESTS)
CALENDAR_AND_TOTAL = (Per.DAY, Per.WEEK, Per.MONTH, Per.TOTAL)
CONTACT = "image-gateway@example.com"


def state(
    *,
    unit: Unit = Unit.IMAGES,
    per: Per | None = Per.DAY,
    used: int = 100,
    limit: int = 100,
    amount: int = 1,
    fits_at: float | None = MIDNIGHT,
    resets_at: float | None = MIDNIGHT,
    refused: bool = True,
    name: str = "images-day",
    scope: str = "design",
    mode: Mode = "enforce",
) -> RuleState:
    rule = Rule(scope, name, unit, per, limit, zone="Europe/Berlin", mode=mode)
    return RuleState(rule, amount, used, limit, resets_at, fits_at, refused)


def told(*states: RuleState) -> GatewayError:
    return quota_error(Verdict(admitted=False, now=NOW, states=states), team="design", contact=CONTACT)


def test_the_contracts_own_sentence() -> None:
    """Word for word the message that the contract promises."""
    assert told(state()).message == (
        "Team design has used 100 of 100 images today (rule images-day). "
        "Free again 2026-11-23 00:00 Europe/Berlin. Ask image-gateway@example.com"
    )


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            state(used=98, amount=3),
            (
                "Team design has used 98 of 100 images today (rule images-day); this request asks for 3 images, "
                "more than is left. Free again 2026-11-23 00:00 Europe/Berlin."
            ),
        ),
        (
            state(used=0, limit=2, amount=3, fits_at=None),
            (
                "Team design has used 0 of 2 images today (rule images-day); this request asks for 3 images, "
                "more than the limit, so it can never fit."
            ),
        ),
        (
            state(used=2, limit=2, amount=3, fits_at=None, per=Per.TOTAL, name="images-total"),
            (
                "Team design has used 2 of 2 images in total (rule images-total); this request asks for 3 images, "
                "more than the limit, so it can never fit."
            ),
        ),
        (
            state(per=Per.TOTAL, fits_at=None, name="images-total"),
            (
                "Team design has used 100 of 100 images in total (rule images-total). "
                "It does not come free again by itself."
            ),
        ),
        (
            state(unit=Unit.REQUESTS, per=Per.MINUTE, used=10, limit=10, fits_at=NOW + 12.4, name="requests-minute"),
            (
                "Team design has used 10 of 10 requests in the last minute (rule requests-minute). "
                "Free again 2026-11-22 14:00:13 Europe/Berlin."
            ),
        ),
        (
            state(unit=Unit.USD, per=Per.MONTH, used=39_960_000, limit=40_000_000, amount=80_000, name="usd-month"),
            (
                "Team design has used $39.96 of $40.00 this month (rule usd-month); this request asks for $0.08, "
                "more than is left. Free again 2026-11-23 00:00 Europe/Berlin."
            ),
        ),
        (
            state(
                unit=Unit.USD,
                per=Per.MONTH,
                used=420_000_000,
                limit=420_000_000,
                scope="organization",
                name="usd-month",
            ),
            (
                "All teams together have used $420.00 of $420.00 this month (rule usd-month of the organization). "
                "Free again 2026-11-23 00:00 Europe/Berlin."
            ),
        ),
        (
            state(unit=Unit.CONCURRENT, per=None, used=4, limit=4, fits_at=None, name="concurrent"),
            "Team design has 4 of 4 requests in flight (rule concurrent). Free again when one ends.",
        ),
        (
            state(used=0, limit=0, amount=1, fits_at=None, unit=Unit.REQUESTS),
            (
                "Team design has used 0 of 0 requests today (rule images-day); this request asks for 1 request, "
                "more than the limit, so it can never fit."
            ),
        ),
    ],
)
def test_sentences(found: RuleState, sentence: str) -> None:
    """Who has used how much of what, under which rule, and what would have to change."""
    assert told(found).message == f"{sentence} Ask {CONTACT}"


@pytest.mark.parametrize(
    ("per", "unit", "kind"),
    [
        *((per, unit, RateLimitExceeded) for per in (Per.MINUTE, Per.HOUR) for unit in COUNTED),
        *((per, unit, InsufficientQuota) for per in CALENDAR_AND_TOTAL for unit in COUNTED),
        (None, Unit.CONCURRENT, RateLimitExceeded),
    ],
)
def test_the_window_decides_the_code(per: Per | None, unit: Unit, kind: type[QuotaExceeded]) -> None:
    """Minute, hour and concurrent rules are rate limits, all others a quota, whatever they count."""
    error = told(state(per=per, unit=unit))
    assert type(error) is kind
    assert error.status == 429
    assert (error.type, error.code) == {
        RateLimitExceeded: ("requests", "rate_limit_exceeded"),
        InsufficientQuota: ("insufficient_quota", "insufficient_quota"),
    }[kind]


@pytest.mark.parametrize(
    ("found", "headers"),
    [
        (state(per=Per.MINUTE, fits_at=NOW + 12.2), {"retry-after": "13"}),
        (state(per=Per.MINUTE, fits_at=NOW + 60), {"retry-after": "60"}),
        (state(per=Per.MINUTE, fits_at=NOW + 60.9), {"retry-after": "60"}),
        (state(per=Per.HOUR, fits_at=NOW + 60), {"retry-after": "60"}),
        (state(per=Per.HOUR, fits_at=NOW + 60.1), {"retry-after": "61", "x-should-retry": "false"}),
        (state(per=Per.MINUTE, fits_at=NOW), {"retry-after": "1"}),
        (state(), {"retry-after": "36000", "x-should-retry": "false"}),
        (state(fits_at=NOW + 5), {"retry-after": "5", "x-should-retry": "false"}),
        (state(per=Per.WEEK), {"retry-after": "36000", "x-should-retry": "false"}),
        (state(per=Per.MONTH), {"retry-after": "36000", "x-should-retry": "false"}),
        (state(per=Per.TOTAL, fits_at=None), {"x-should-retry": "false"}),
        (state(amount=101, fits_at=None), {"x-should-retry": "false"}),
        (state(per=Per.MINUTE, amount=101, fits_at=None), {"x-should-retry": "false"}),
        (state(unit=Unit.CONCURRENT, per=None, fits_at=None), {"retry-after": "2"}),
        (state(unit=Unit.CONCURRENT, per=None, limit=0, used=0, fits_at=None), {"x-should-retry": "false"}),
    ],
)
def test_when_to_try_again(found: RuleState, headers: dict[str, str]) -> None:
    """Worth waiting is a minute at most; no time is named for what never comes; days and more are not for retries."""
    assert told(found).headers == headers


def test_the_latest_reset_leads_and_all_are_listed() -> None:
    """Three rules refuse: the month is told, and programs read of each its rule, numbers and reset."""
    month = datetime.fromisoformat("2026-12-01T00:00:00+01:00").timestamp()
    error = told(
        state(per=Per.MINUTE, name="images-minute", fits_at=NOW + 3.5, limit=5, used=5),
        state(
            per=Per.MONTH,
            unit=Unit.USD,
            name="usd-month",
            fits_at=month,
            limit=40_000_000,
            used=4 * 10**7,
            amount=80_000,
        ),
        state(name="trial", mode="shadow", fits_at=month + 1),
        state(refused=False, name="fits"),
        state(),
    )
    assert "(rule usd-month)" in error.message
    assert error.headers["retry-after"] == str(round(month - NOW))
    quota = error.extra["quota"]
    assert isinstance(quota, list)
    assert [facts["rule"] for facts in quota] == ["usd-month", "images-day", "images-minute"]
    assert quota[0] == {
        "rule": "usd-month",
        "scope": "design",
        "unit": "usd",
        "per": "month",
        "limit": 40.0,
        "used": 40.0,
        "requested": 0.08,
        "resets_at": "2026-12-01T00:00:00+01:00",
    }
    assert quota[2]["resets_at"] == "2026-11-22T14:00:04+01:00"


def test_a_full_account_is_no_quota_of_the_teams() -> None:
    """The upstream account's own cap answers 503 overloaded; beside a rule of the team's it is not mentioned."""
    cap = state(unit=Unit.CONCURRENT, per=None, scope="account:main", name="account", fits_at=None)
    error = told(cap)
    assert isinstance(error, Overloaded)
    assert (error.status, error.headers) == (503, {"retry-after": "2"})
    both = told(cap, state())
    assert isinstance(both, InsufficientQuota)
    assert "account" not in str(both.body())


def headers(*states: RuleState, end: object = None) -> dict[str, str]:
    told = limit_headers(Verdict(admitted=True, now=NOW, states=states), end)  # type: ignore[arg-type]
    return {name.decode(): value.decode() for name, value in told}


def test_of_each_unit_the_rule_with_least_remaining_is_told() -> None:
    """Two image rules: the tighter one; requests and usd beside it; shadow rules and slots are not told."""
    found = headers(
        state(used=40, name="images-day", refused=False),
        state(used=495, limit=500, per=Per.MONTH, name="images-month", refused=False),
        state(used=100, name="trial", mode="shadow"),
        state(unit=Unit.CONCURRENT, per=None, used=4, limit=4, name="slots", refused=False),
        state(unit=Unit.REQUESTS, per=Per.MINUTE, used=3, limit=10, resets_at=NOW + 30.5, name="requests-minute"),
        state(unit=Unit.USD, per=Per.TOTAL, used=1_500_000, limit=40_000_000, resets_at=None, name="usd-total"),
    )
    assert found == {
        "x-ratelimit-limit-images": "500",
        "x-ratelimit-remaining-images": "5",
        "x-ratelimit-reset-images": "10h0m0s",
        "x-ratelimit-rule-images": "images-month",
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "31s",
        "x-ratelimit-rule-requests": "requests-minute",
        "x-ratelimit-limit-usd": "40.00",
        "x-ratelimit-remaining-usd": "38.50",
        "x-ratelimit-rule-usd": "usd-total",
    }


@pytest.mark.parametrize(
    ("end", "images", "usd", "requests"),
    [
        (None, "90", "39.76", "9"),
        (committed(ordered=10, cost=240_000, made=10), "90", "39.76", "9"),
        (committed(ordered=10, cost=240_000, made=4), "96", "39.904", "9"),
        (refunded(sent=True), "100", "40.00", "9"),
        (refunded(sent=False), "100", "40.00", "10"),
        (presumed(ordered=10, cost=240_000), "90", "39.76", "9"),
    ],
)
def test_remaining_is_what_remains_after_the_end(end: object, images: str, usd: str, requests: str) -> None:
    """What was given back by the time of the answer counts as remaining."""
    found = headers(
        state(used=10, amount=10, refused=False),
        state(unit=Unit.USD, used=240_000, limit=40_000_000, amount=240_000, refused=False),
        state(unit=Unit.REQUESTS, used=1, limit=10, amount=1, refused=False),
        end=end,
    )
    assert [found[f"x-ratelimit-remaining-{unit}"] for unit in ("images", "usd", "requests")] == [images, usd, requests]


def test_a_limit_lowered_below_its_use_leaves_nothing() -> None:
    """Remaining is never negative."""
    assert headers(state(used=150, limit=100))["x-ratelimit-remaining-images"] == "0"


@pytest.mark.parametrize(
    ("micro", "text"),
    [
        (0, "0.00"),
        (1, "0.000001"),
        (40_000, "0.04"),
        (1_500_000, "1.50"),
        (39_904_000, "39.904"),
        (10**15, "1000000000.00"),
    ],
)
def test_dollars(micro: int, text: str) -> None:
    """At least two decimals, no more than are needed."""
    assert dollars(micro) == text


@given(st.integers(0, 2**53))
def test_dollars_lose_nothing(micro: int) -> None:
    """The text is the number, exactly."""
    whole, decimals = dollars(micro).split(".")
    assert int(whole) * 10**6 + int(decimals.ljust(6, "0")) == micro
    assert len(decimals) >= 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0, "0s"),
        (0.01, "1s"),
        (59.2, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (86_341, "23h59m1s"),
        (2_592_000, "720h0m0s"),
    ],
)
def test_durations_have_openais_form(seconds: float, text: str) -> None:
    """Whole seconds, rounded up, in the form of OpenAI's own headers."""
    assert duration(seconds) == text


def test_times_for_programs() -> None:
    """RFC 3339 in the rule's zone, rounded up to a second; None stays None."""
    assert iso(NOW + 0.2, "Asia/Kolkata") == "2026-11-22T18:30:01+05:30"
    assert iso(None, "UTC") is None
