"""What is owed after an outcome, and what each status of an upstream means: contract 4.3 and 5.3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import errors
from gateway.core.settlement import End, Settlement, committed, error_for, presumed, refunded

#: Contract 4.3, row by row; what is not named here is "any other 3xx or 4xx" or a failure.
ROWS: dict[int, tuple[type[errors.GatewayError], int, str | None]] = {
    **dict.fromkeys((401, 403), (errors.UpstreamAuthFailed, 502, "upstream_auth_failed")),
    402: (errors.UpstreamAccountExhausted, 503, "upstream_account_exhausted"),
    429: (errors.UpstreamRateLimited, 429, "upstream_rate_limited"),
    **dict.fromkeys((500, 501, 503), (errors.UpstreamFailed, 502, "upstream_error")),
    **dict.fromkeys((301, 302, 304, 307, 308), (errors.UpstreamFailed, 502, "upstream_error")),
    **dict.fromkeys(
        (405, 406, 408, 409, 410, 411, 412, 418, 425, 431, 451), (errors.UpstreamFailed, 502, "upstream_error")
    ),
    **dict.fromkeys((502, 504, *range(520, 530)), (errors.OutcomeUnknown, 424, "upstream_outcome_unknown")),
}
REFUSED = (400, 404, 413, 415, 422)


@pytest.mark.parametrize("status", ROWS)
def test_a_status_means_its_row(status: int) -> None:
    """Each row of the table: the class, what the client gets, the code."""
    kind, answered, code = ROWS[status]
    found = error_for(status)
    assert found is kind
    assert (found.status, found.code) == (answered, code)


@pytest.mark.parametrize("status", REFUSED)
def test_a_refusal_of_the_order_is_passed_on(status: int) -> None:
    """What the upstream says of the order itself is for the team to read."""
    assert error_for(status) is errors.UpstreamRefused


def test_the_table_is_total() -> None:
    """Every status from 100 to 599 is a success or exactly one error; a 2xx and only a 2xx is none."""
    for status in range(100, 600):
        found = error_for(status)
        assert (found is None) == (200 <= status <= 299)
        assert found is None or issubclass(found, errors.UpstreamError)
        if status not in ROWS and status not in REFUSED and found is not None:
            assert found is (errors.UpstreamFailed if status < 500 else errors.OutcomeUnknown), status


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("insufficient_quota", "", errors.UpstreamAccountExhausted),
        ("billing_hard_limit_reached", "", errors.UpstreamAccountExhausted),
        (None, "You exceeded your current quota, please check your plan.", errors.UpstreamAccountExhausted),
        (None, "Your credit balance is too low", errors.UpstreamAccountExhausted),
        (None, "Our load balancer takes no more. Credit: the edge team.", errors.UpstreamRateLimited),
        (None, "BILLING problem", errors.UpstreamAccountExhausted),
        ("rate_limit_exceeded", "Limit 5 per minute. Try again in 12s.", errors.UpstreamRateLimited),
        (None, "", errors.UpstreamRateLimited),
    ],
)
def test_a_429_may_speak_of_the_bill(code: str | None, message: str, kind: type[errors.GatewayError]) -> None:
    """A 429 for the account's balance is no rate limit: waiting does not help."""
    assert error_for(429, code=code, message=message) is kind


@given(st.integers(1, 10), st.integers(0, 12), st.integers(0, 10_000_000))
def test_what_came_is_charged_and_never_more_than_was_ordered(ordered: int, made: int, unit: int) -> None:
    """k of n images cost k/n of the price, exactly; more than n cost n; none is a refund of a request that stays."""
    found = committed(ordered=ordered, cost=ordered * unit, made=made)
    charged = min(ordered, made)
    assert found == Settlement(End.COMMITTED if charged else End.REFUNDED, charged, charged * unit, 1)


def test_a_refund_keeps_the_request_once_anything_was_sent() -> None:
    """Nothing was made: no image, no money; a request only if a byte of it went up."""
    assert refunded(sent=True) == Settlement(End.REFUNDED, 0, 0, 1)
    assert refunded(sent=False) == Settlement(End.REFUNDED, 0, 0, 0)


def test_what_nobody_knows_is_charged_in_full() -> None:
    """An unknown outcome keeps the whole charge, flagged."""
    assert presumed(ordered=3, cost=240_000) == Settlement(End.PRESUMED, 3, 240_000, 1)
