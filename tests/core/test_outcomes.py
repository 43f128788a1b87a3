"""An upstream's refusal as the team gets it: contract 4.3, and nothing of our account in it."""

import json

import pytest

from gateway.core import errors
from gateway.core.outcomes import premature, refusal, unknown
from gateway.core.secret import Secret

KEY = Secret("threex-4711-account-key")
NOW = 784_111_777.0  # Sunday, 6 November 1994, 08:49:37 in Greenwich: the date of RFC 9110's examples


def refused(
    status: int, *, retry_after: str | None = None, released: bool = True, **facts: object
) -> errors.GatewayError:
    body = json.dumps({"error": facts}).encode()
    return refusal(status, body, released=released, retry_after=retry_after, now=NOW, account_key=KEY)


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422])
def test_its_own_words_on_the_order_are_passed_on(status: int) -> None:
    """Status, message, type, code and param are the upstream's; the outcome is that it refused."""
    error = refused(status, message="Not this prompt.", type="image_error", code="content_policy", param="prompt")
    assert error.status == status
    assert error.outcome == "upstream_refused"
    assert error.body() == {
        "error": {"message": "Not this prompt.", "type": "image_error", "param": "prompt", "code": "content_policy"}
    }


def test_without_words_a_refusal_still_has_the_usual_shape() -> None:
    """An empty or foreign body becomes a sentence and OpenAI's type."""
    error = refusal(400, b"<html>", released=True, retry_after=None, now=NOW, account_key=KEY)
    assert (error.type, error.code) == ("invalid_request_error", None)
    assert error.message


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 502])
def test_the_accounts_key_is_never_repeated(status: int) -> None:
    """Whatever the upstream repeats of our key, the team does not read it."""
    error = refused(status, message=f"bad key {KEY.reveal()}", code=KEY.reveal(), param=KEY.reveal())
    assert KEY.reveal() not in json.dumps(error.body())
    assert KEY.reveal() not in str(error.headers)


@pytest.mark.parametrize(
    ("retry_after", "headers"),
    [
        ("7", {"retry-after": "7"}),
        ("60", {"retry-after": "60"}),
        ("61", {"retry-after": "61", "x-should-retry": "false"}),
        ("9" * 9, {"retry-after": "9" * 9, "x-should-retry": "false"}),
        ("Sun, 06 Nov 1994 08:49:44 GMT", {"retry-after": "7"}),
        ("Sunday, 06-Nov-94 08:49:44 GMT", {"retry-after": "7"}),
        ("Sun Nov  6 08:49:44 1994", {"retry-after": "7"}),
        ("Sun, 06 Nov 1994 08:49:37 GMT", {"retry-after": "1"}),
        ("Sun, 06 Nov 1994 08:00:00 GMT", {"retry-after": "1"}),
        ("Sun, 06 Nov 1994 09:49:37 GMT", {"retry-after": "3600", "x-should-retry": "false"}),
        *((f"{odd} 08:49:44 GMT", {}) for odd in ("Sun, 31 Feb 1994", "Fri, 31 Dec 9999", "Sun, 06 Now 1994", "Sun,")),
        ("Sun, 06 Nov 1994 25:49:44 GMT", {}),
        ("Sun, 06 Nov " + "9" * 5000, {}),
        *((odd, {}) for odd in (None, "", "-1", "1.5", "²", "9" * 10, "9" * 5000)),
    ],
)
def test_a_rate_limits_retry_after_is_passed_on(retry_after: str | None, headers: dict[str, str]) -> None:
    """Seconds as the upstream said them, or until the date that it said; what is neither, or beyond sense, is left out.

    Over a minute it is said that waiting is not worth it: OpenAI's SDK for Node would sleep for as long as it takes.
    """
    error = refused(429, retry_after=retry_after, message="slow down")
    assert isinstance(error, errors.UpstreamRateLimited)
    assert error.headers == headers


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(402, None, None), (429, "insufficient_quota", None), (429, None, "check your billing")],
)
def test_an_empty_account_is_told_as_such(status: int, code: str | None, message: str | None) -> None:
    """402, and a 429 for billing, are 503 and not worth a retry."""
    error = refused(status, retry_after="1", code=code, message=message)
    assert (error.status, error.code) == (503, "upstream_account_exhausted")
    assert error.headers == {"x-should-retry": "false"}


@pytest.mark.parametrize("status", [502, 504, 520, 524, 529])
def test_a_lost_origin_is_unknown_once_the_request_was_whole(status: int) -> None:
    """After the closing bytes it may have been made: 424. Before them it cannot have been: sending again is safe."""
    after = refused(status, message="bad gateway")
    assert (after.status, after.code, after.outcome) == (424, "upstream_outcome_unknown", "unknown")
    assert after.headers == {"x-should-retry": "false"}
    before = refused(status, released=False, message="bad gateway")
    assert (before.status, before.code) == (503, "upstream_unreachable")
    assert before.headers["x-should-retry"] == "true"


@pytest.mark.parametrize("status", [302, 405, 409, 418, 500, 501, 503])
def test_any_other_answer_is_a_failure_that_made_nothing(status: int) -> None:
    """502 upstream_error names the status and repeats no word of the upstream's."""
    error = refused(status, message="internal details")
    assert (error.status, error.code) == (502, "upstream_error")
    assert str(status) in error.message
    assert "internal details" not in error.message


def test_a_success_before_the_request_was_whole_is_none() -> None:
    """A 2xx that comes before the closing bytes went up made nothing; an unknown one warns of sending again."""
    assert (premature().status, premature().code) == (502, "upstream_error")
    assert "Do not send the request again" in unknown().message
