"""Everything the gateway may answer with instead of an image: one class per row of the error table.

    GatewayError
    ├── AuthenticationFailed            401 invalid_api_key
    ├── ParameterError                  400 invalid_value
    │   ├── MissingParameter            400 missing_required_parameter
    │   ├── UnknownParameter            400 unknown_parameter
    │   ├── DuplicateParameter          400 duplicate_parameter
    │   ├── InvalidImage                400 invalid_image
    │   └── MalformedRequest            400 invalid_value (framing; the connection closes)
    ├── PermissionRefused               403
    │   ├── TeamSuspended               403 team_suspended
    │   ├── TeamUnknown                 403 team_unknown
    │   ├── ModelNotAllowed             403 model_not_allowed
    │   ├── SizeNotAllowed              403 size_not_allowed
    │   ├── QualityNotAllowed           403 quality_not_allowed
    │   └── EndpointNotAllowed          403 endpoint_not_allowed
    ├── ModelNotFound                   404 model_not_found
    ├── UnknownUrl                      404 unknown_url
    ├── MethodNotAllowed                405 method_not_allowed
    ├── RequestTimeout                  408 request_timeout
    ├── RequestTooLarge                 413 request_too_large
    ├── UnsupportedMediaType            415 unsupported_media_type
    ├── IdempotencyKeyReused            422 idempotency_key_reused
    ├── IdempotencyAnswerGone           422 idempotency_answer_gone
    ├── QuotaExceeded
    │   ├── RateLimitExceeded           429 rate_limit_exceeded (minute, hour, concurrent)
    │   └── InsufficientQuota           429 insufficient_quota (day, week, month, total)
    ├── Overloaded                      503 overloaded
    ├── StoreUnavailable                503 quota_store_unavailable
    ├── ClientGone                      (nobody is left to read it)
    ├── InternalError                   500 internal_error
    └── UpstreamError
        ├── UpstreamUnreachable         503 upstream_unreachable: provably nothing was executed
        ├── UpstreamAuthFailed          502 upstream_auth_failed
        ├── UpstreamAccountExhausted    503 upstream_account_exhausted
        ├── UpstreamRefused             400, 404, 413, 415, 422 as the upstream said
        ├── UpstreamRateLimited         429 upstream_rate_limited
        ├── UpstreamFailed              502 upstream_error: it answered that it did not do it
        └── OutcomeUnknown              424 upstream_outcome_unknown: it may have been made and charged

A class carries its status, type, code and the outcome label of the metrics; an instance carries the sentence a
person reads, the parameter it is about, extra facts for programs and response headers. Foreign exceptions are
translated at the edge where they appear, always ``from exc``; the response shape is OpenAI's
``{"error": {"message", "type", "param", "code"}}``.
"""

from collections.abc import Mapping
from typing import ClassVar


class GatewayError(Exception):
    """The root. `message` is for a person; `param` names the request's field; `extra` joins the error object.

    headers: names in lower case, joined to the response's. close: end the connection after the answer, because
    what follows on it can no longer be told apart from the body.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    outcome: ClassVar[str] = "internal_error"
    close: bool = False
    advice: ClassVar[Mapping[str, str]] = {}  #: headers that every answer of the class has

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.extra: dict[str, object] = dict(extra or {})
        self.headers: dict[str, str] = {**self.advice, **(headers or {})}

    def body(self) -> dict[str, object]:
        """The answer's JSON, the four names of OpenAI's shape first."""
        error: dict[str, object] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        error.update(self.extra)
        return {"error": error}


class InternalError(GatewayError):
    """Our own fault. The sentence says nothing of its cause: that stands in the log beside the request id."""


class AuthenticationFailed(GatewayError):
    """No, unknown, expired or revoked key, or a bad JWT: one body for all; `reason`, and `team` where it is known,
    only for log and metric.
    """

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    outcome = "refused_auth"
    advice: ClassVar[Mapping[str, str]] = {"www-authenticate": "Bearer"}

    def __init__(self, message: str, *, reason: str, team: str = "none") -> None:
        super().__init__(message)
        self.reason = reason
        self.team = team


class ParameterError(GatewayError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"
    outcome = "refused_invalid"


class MissingParameter(ParameterError):
    code = "missing_required_parameter"


class UnknownParameter(ParameterError):
    code = "unknown_parameter"


class DuplicateParameter(ParameterError):
    code = "duplicate_parameter"


class InvalidImage(ParameterError):
    code = "invalid_image"


class MalformedRequest(ParameterError):
    """The HTTP framing or the body's grammar is broken: nothing after it can be trusted to be where it seems."""

    close = True


class PermissionRefused(GatewayError):
    status = 403
    type = "permission_error"
    code = "endpoint_not_allowed"
    outcome = "refused_policy"


class TeamSuspended(PermissionRefused):
    code = "team_suspended"


class TeamUnknown(PermissionRefused):
    code = "team_unknown"


class ModelNotAllowed(PermissionRefused):
    code = "model_not_allowed"


class SizeNotAllowed(PermissionRefused):
    code = "size_not_allowed"


class QualityNotAllowed(PermissionRefused):
    code = "quality_not_allowed"


class EndpointNotAllowed(PermissionRefused):
    code = "endpoint_not_allowed"


class ModelNotFound(GatewayError):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"
    outcome = "refused_invalid"


class UnknownUrl(GatewayError):
    status = 404
    type = "invalid_request_error"
    code = "unknown_url"
    outcome = "refused_invalid"


class MethodNotAllowed(GatewayError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"
    outcome = "refused_invalid"


class RequestTimeout(GatewayError):
    """The body stalled or came too slowly; the connection closes, for its rest may still come."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"
    outcome = "refused_invalid"
    close = True


class RequestTooLarge(GatewayError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"
    outcome = "refused_invalid"


class UnsupportedMediaType(GatewayError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"
    outcome = "refused_invalid"


class IdempotencyKeyReused(GatewayError):
    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"
    outcome = "refused_invalid"


class IdempotencyAnswerGone(GatewayError):
    status = 422
    type = "invalid_request_error"
    code = "idempotency_answer_gone"
    outcome = "refused_invalid"


class QuotaExceeded(GatewayError):
    """At least one rule refuses; `extra["quota"]` lists each with its limit, use and reset."""

    status = 429
    outcome = "refused_quota"


class RateLimitExceeded(QuotaExceeded):
    type = "requests"
    code = "rate_limit_exceeded"


class InsufficientQuota(QuotaExceeded):
    type = "insufficient_quota"
    code = "insufficient_quota"


class Overloaded(GatewayError):
    status = 503
    type = "server_error"
    code = "overloaded"
    outcome = "overloaded"
    advice: ClassVar[Mapping[str, str]] = {"retry-after": "2"}


class StoreUnavailable(GatewayError):
    """No decision can be had and the config says deny. Nothing was sent: sending again is safe."""

    status = 503
    type = "server_error"
    code = "quota_store_unavailable"
    outcome = "store_unavailable"
    advice: ClassVar[Mapping[str, str]] = {"retry-after": "3", "x-should-retry": "true"}


class ClientGone(GatewayError):
    """The client left before its body was complete. 499 stands in the log only: nobody is left to read it."""

    status = 499
    type = "invalid_request_error"
    code = "client_gone"
    outcome = "client_gone"
    close = True


class UpstreamError(GatewayError):
    status = 502
    type = "server_error"
    code: str | None = "upstream_error"
    outcome = "upstream_error"


class UpstreamUnreachable(UpstreamError):
    """Nothing was sent, or the connection ended before the closing bytes: the upstream cannot have acted."""

    status = 503
    code = "upstream_unreachable"
    outcome = "upstream_unreachable"
    advice: ClassVar[Mapping[str, str]] = {"retry-after": "3", "x-should-retry": "true"}


class UpstreamAuthFailed(UpstreamError):
    code = "upstream_auth_failed"


class UpstreamAccountExhausted(UpstreamError):
    status = 503
    code = "upstream_account_exhausted"
    advice: ClassVar[Mapping[str, str]] = {"x-should-retry": "false"}


class UpstreamRefused(UpstreamError):
    """The upstream's own words on the request, cleaned: its status, type and code stand on the instance."""

    type = "invalid_request_error"
    outcome = "upstream_refused"

    def __init__(
        self, message: str, *, status: int, kind: str = "invalid_request_error", code: str | None, param: str | None
    ) -> None:
        super().__init__(message, param=param)
        self.status = status
        self.type = kind
        self.code = code


class UpstreamRateLimited(UpstreamError):
    status = 429
    type = "requests"
    code = "upstream_rate_limited"
    outcome = "upstream_rate_limited"


class UpstreamFailed(UpstreamError):
    """It answered, and its answer says that nothing was made (500, 501, 503, an odd 3xx or 4xx)."""


class OutcomeUnknown(UpstreamError):
    """The closing bytes went up and no readable answer came back: it may have been made and charged.

    424, for every SDK sends a 5xx again, and one of them ignores ``x-should-retry``.
    """

    status = 424
    type = "upstream_error"
    code = "upstream_outcome_unknown"
    outcome = "unknown"
    advice: ClassVar[Mapping[str, str]] = {"x-should-retry": "false"}
