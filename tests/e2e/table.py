"""The error table of the contract as requests that end in each of its rows."""

import math
import resource
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from gateway.core import errors
from gateway.core.errors import GatewayError
from gateway.simulator.script import Behaviour
from tests.e2e import wire
from tests.e2e.conftest import token
from tests.e2e.rows import GIVEN_BACK, PROMPT, UNKNOWN, Charged, Row, edit, order, raw
from tests.e2e.watching import Watched, noon_zone, series
from tests.e2e.wire import Answer
from tests.simulator.pictures import png
from tests.support.simulated import API_KEY
from tests.support.site import wait_until

CONTACT = r"Ask image-gateway@example\.com$"
INVALID = "invalid_request_error"

SMALL = png()


# Before a row


def spend(team: str, **fields: object) -> Callable[[Watched, ExitStack], None]:
    """Has the team make what its rule allows."""

    def prepare(watched: Watched, _: ExitStack) -> None:
        if watched.used(team) == dict.fromkeys(watched.used(team), 0):
            assert order(team, **fields)(watched).status == 200

    return prepare


def _hold(*teams: str, path: str = "edits") -> Callable[[Watched, ExitStack], None]:
    """Begins a request for each of the teams and leaves it without a body."""

    def prepare(watched: Watched, held: ExitStack) -> None:
        for number, team in enumerate(teams, 1):
            connection = held.enter_context(wire.connected(watched.url))
            if path == "edits":
                connection.send(wire.edit_head(watched.key(team), length=1000))
            else:
                connection.send(wire.head(wire.GENERATIONS, "Content-Length: 99", key=watched.key(team)))
            inflight = number
            wait_until(lambda: watched.metric("gateway_inflight_requests", endpoint=path) >= inflight)  # noqa: B023

    return prepare


def _fill(watched: Watched, held: ExitStack) -> None:
    """Begins an edit and a generation, as many as the worker holds."""
    _hold("plain")(watched, held)
    _hold("plain", path="generations")(watched, held)


def _without_disk(watched: Watched, held: ExitStack) -> None:
    """No file of the worker's may grow beyond 2 MB, as on a full disk."""
    pid = watched.worker()
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (2 * 1024 * 1024, hard))
    held.callback(resource.prlimit, pid, resource.RLIMIT_FSIZE, (soft, hard))


# Sending


def _with(key: str | None, *lines: str) -> Callable[[Watched], Answer]:
    return lambda watched: wire.ask(watched.url, wire.generation(key, *lines))


def _plain(method: str, path: str) -> Callable[[Watched], Answer]:
    def send(watched: Watched) -> Answer:
        return wire.ask(watched.url, wire.head(path, key=watched.key("plain"), method=method, content_type=None))

    return send


def _typed(content_type: str, *lines: str) -> Callable[[Watched], Answer]:
    def send(watched: Watched) -> Answer:
        head = wire.head(
            wire.GENERATIONS, "Content-Length: 2", *lines, key=watched.key("plain"), content_type=content_type
        )
        return wire.ask(watched.url, head + b"{}")

    return send


def _stalled(watched: Watched) -> Answer:
    with wire.connected(watched.url) as connection:
        connection.send(wire.head(wire.GENERATIONS, "Content-Length: 100", key=watched.key("plain")) + b'{"prompt": ')
        return connection.read()


def _stalled_upload(watched: Watched) -> Answer:
    body = wire.form(wire.image(wire.png(length=1024 * 1024)), wire.text("prompt", PROMPT))
    return wire.ask(watched.url, wire.edit_head(watched.key("plain"), length=len(body)), body[:500_000])


def _chunked_json(watched: Watched) -> Answer:
    head = wire.head(wire.GENERATIONS, "Transfer-Encoding: chunked", key=watched.key("plain"))
    return wire.ask(watched.url, head, *wire.chunks(b" " * (512 * 1024 + 1)))


def _half_an_edit(watched: Watched) -> Answer:
    """Sends half of it and waits for the answer."""
    body = wire.form(wire.image(wire.png(length=1024 * 1024)), wire.text("prompt", PROMPT))
    return wire.ask(watched.url, wire.edit_head(watched.key("plain"), length=len(body)), body[: len(body) // 2])


# Headers


Check = Callable[[str | None], bool]


def _from(least: int, most: int) -> Check:
    return lambda value: value is not None and value.isdigit() and least <= int(value) <= most


def _until(ends: Callable[[datetime], datetime]) -> Check:
    """The seconds from now to what `ends` makes of today's first moment, in the gateway's zone."""

    def check(value: str | None) -> bool:
        now = datetime.now(ZoneInfo(noon_zone()))
        left = ends(now.replace(hour=0, minute=0, second=0, microsecond=0)) - now
        return value is not None and abs(int(value) - math.ceil(left.total_seconds())) <= 2

    return check


def tomorrow(today: datetime) -> datetime:
    return today + timedelta(days=1)


def next_monday(today: datetime) -> datetime:
    return today + timedelta(days=7 - today.weekday())


def first_of_next_month(today: datetime) -> datetime:
    return (today.replace(day=1) + timedelta(days=32)).replace(day=1)


#: What the log says of an order that names none of them.
DEFAULTS = {"size": "1024x1024", "quality": "standard", "n": 1}

NO_RETRY = {"x-should-retry": "false"}
SAFE_RETRY = {"retry-after": "3", "x-should-retry": "true"}
COST = {**NO_RETRY, "x-gateway-cost-usd": "0.04"}


def _unauthorized(when: str, reason: str, send: Callable[[Watched], Answer]) -> Row:
    return Row(
        when=when,
        error=errors.AuthenticationFailed,
        send=send,
        status=401,
        type=INVALID,
        code="invalid_api_key",
        outcome="refused_auth",
        says=f"^The key is missing, unknown or no longer valid.* {CONTACT}",
        headers={"www-authenticate": "Bearer"},
        known=False,
        ordered=False,
        more={series("gateway_auth_failures_total", reason=reason, team="late" if reason == "expired" else "none"): 1},
        log={"reason": reason, "team": "late" if reason == "expired" else None},
    )


UNAUTHORIZED = (
    _unauthorized("no key", "missing", _with(None)),
    _unauthorized("empty key", "missing", _with("")),
    _unauthorized("mistyped key", "malformed", _with("igw_" + "0" * 39)),
    _unauthorized("unknown key", "unknown", _with("k" * 40)),
    _unauthorized("short secret", "unknown", _with("k")),
    _unauthorized("other scheme", "malformed", _with(None, "Authorization: Basic a2V5OmtleQ==")),
    _unauthorized("expired key", "expired", order("late")),
    _unauthorized("unsigned JWT", "token_invalid", _with("eyJhbGciOiJub25lIn0.eyJ0ZWFtIjoicGxhaW4ifQ.")),
    _unauthorized("JWT of others", "token_invalid", _with(token("plain", secret="x" * 40))),
    _unauthorized("expired JWT", "token_expired", _with(token("plain", valid=-60))),
)


def _invalid(
    when: str,
    code: str,
    param: str | None,
    says: str,
    send: Callable[[Watched], Answer],
    *,
    error: type[GatewayError] = errors.ParameterError,
    ordered: bool = False,
    **more: object,
) -> Row:
    return Row(
        when=when,
        error=error,
        send=send,
        status=400,
        type=INVALID,
        code=code,
        outcome="refused_invalid",
        says=says,
        param=param,
        ordered=ordered,
        **more,  # type: ignore[arg-type]  # fields of Row
    )


WRONG = (
    _invalid(
        "n is 0",
        "invalid_value",
        "n",
        "^n must be an integer from 1 to 10; got 0",
        order(n=0),
        ordered=True,
        log={**DEFAULTS, "n": 0},
    ),
    _invalid(
        "a size that there is not",
        "invalid_value",
        "size",
        "^size must be one of",
        order(size=PROMPT),
        ordered=True,
        log={**DEFAULTS, "size": None},
    ),
    _invalid(
        "no prompt",
        "missing_required_parameter",
        "prompt",
        "^prompt is missing",
        raw(b'{"n": 1}'),
        error=errors.MissingParameter,
        ordered=True,
    ),
    _invalid(
        "unknown parameter",
        "unknown_parameter",
        "sizes",
        'Did you mean "size"',
        order(sizes="1024x1024"),
        error=errors.UnknownParameter,
        ordered=True,
    ),
    _invalid(
        "two n",
        "duplicate_parameter",
        "n",
        '"n" is given twice',
        raw(b'{"prompt": "x", "n": 1, "n": 10}'),
        error=errors.DuplicateParameter,
    ),
    _invalid(
        "two keys that differ",
        "invalid_value",
        "Authorization",
        "two keys that differ",
        lambda watched: wire.ask(watched.url, wire.generation(watched.key("plain"), f"api-key: {'k' * 40}")),
        known=False,
    ),
    _invalid(
        "two hosts",
        "invalid_value",
        None,
        "exactly one Host header",
        lambda watched: wire.ask(watched.url, wire.generation(watched.key("plain"), "Host: other.test")),
        error=errors.MalformedRequest,
        known=False,
    ),
    _invalid(
        "a GIF named .png",
        "invalid_image",
        "image",
        "looks like a GIF file",
        edit(wire.image(b"GIF89a" + bytes(100))),
        error=errors.InvalidImage,
        endpoint="edits",
    ),
)

FORBIDDEN = tuple(
    Row(
        when=when,
        error=error,
        send=send,
        status=403,
        type="permission_error",
        code=code,
        outcome="refused_policy",
        says=f"{says}.* {CONTACT}",
        param=param,
        team=team,
        endpoint=endpoint,
        model=str(named.get("model", "dall-e-3")),
        ordered=bool(named),
        log={**DEFAULTS, **named} if named else {},
    )
    for when, error, code, param, team, endpoint, says, send, named in (
        (
            "team suspended",
            errors.TeamSuspended,
            "team_suspended",
            None,
            "gone",
            "generations",
            "^Team gone is suspended: budget review",
            order("gone"),
            {},
        ),
        (
            "model of others",
            errors.ModelNotAllowed,
            "model_not_allowed",
            "model",
            "square",
            "generations",
            "^Team square may not use model drawing",
            order("square", model="drawing"),
            {"model": "drawing"},
        ),
        (
            "size of others",
            errors.SizeNotAllowed,
            "size_not_allowed",
            "size",
            "square",
            "generations",
            "^Team square may not use size 1792x1024",
            order("square", size="1792x1024"),
            {"size": "1792x1024"},
        ),
        (
            "quality of others",
            errors.QualityNotAllowed,
            "quality_not_allowed",
            "quality",
            "square",
            "generations",
            "^Team square may not use quality hd",
            order("square", quality="hd"),
            {"quality": "hd"},
        ),
        (
            "endpoint of others",
            errors.EndpointNotAllowed,
            "endpoint_not_allowed",
            None,
            "square",
            "edits",
            "^Team square may not use edits",
            edit(wire.image(SMALL), team="square"),
            {},
        ),
        (
            "endpoint of other models",
            errors.EndpointNotAllowed,
            "endpoint_not_allowed",
            "model",
            "plain",
            "edits",
            "^Model drawing has no edits",
            edit(wire.text("model", "drawing"), wire.image(SMALL)),
            {"model": "drawing"},
        ),
    )
)

TEAMLESS = (
    Row(
        when="JWT for no known team",
        error=errors.TeamUnknown,
        send=_with(token("nobody")),
        status=403,
        type="permission_error",
        code="team_unknown",
        outcome="refused_policy",
        says=f"names no team of this gateway.* {CONTACT}",
        known=False,
        ordered=False,
    ),
)

UNFIT = tuple(
    Row(
        when=when,
        error=error,
        send=send,
        status=error.status,
        type=INVALID,
        code=code,
        outcome="refused_invalid",
        says=says,
        param=param,
        endpoint=endpoint,
        on=on,
        model="other",
        known=known,
        ordered=error is errors.ModelNotFound,
        headers=headers,
    )
    for when, error, code, param, endpoint, on, known, says, send, headers in (
        (
            "unknown model",
            errors.ModelNotFound,
            "model_not_found",
            "model",
            "generations",
            "roomy",
            True,
            "dall-e-9.*Models for team plain: dall-e-3, drawing",
            order(model="dall-e-9"),
            {},
        ),
        (
            "unknown URL",
            errors.UnknownUrl,
            "unknown_url",
            None,
            "other",
            "roomy",
            False,
            "^There is nothing at POST /v1/images/variations",
            _plain("POST", "/v1/images/variations"),
            {},
        ),
        (
            "wrong method",
            errors.MethodNotAllowed,
            "method_not_allowed",
            None,
            "generations",
            "roomy",
            False,
            "^GET is not taken here; send POST",
            _plain("GET", wire.GENERATIONS),
            {"allow": "POST"},
        ),
        (
            "stalled body",
            errors.RequestTimeout,
            "request_timeout",
            None,
            "generations",
            "impatient",
            True,
            "stalled or came too slowly",
            _stalled,
            {},
        ),
        (
            "stalled upload",
            errors.RequestTimeout,
            "request_timeout",
            None,
            "edits",
            "impatient",
            True,
            "stalled or came too slowly",
            _stalled_upload,
            {},
        ),
        (
            "JSON too large by its length",
            errors.RequestTooLarge,
            "request_too_large",
            None,
            "generations",
            "roomy",
            True,
            "larger than 524288 bytes",
            order(user="x" * (512 * 1024)),
            {},
        ),
        (
            "JSON too large as it comes",
            errors.RequestTooLarge,
            "request_too_large",
            None,
            "generations",
            "roomy",
            True,
            "larger than 524288 bytes",
            _chunked_json,
            {},
        ),
        (
            "image too large",
            errors.RequestTooLarge,
            "request_too_large",
            "image",
            "edits",
            "roomy",
            True,
            "^image is larger than 4194304 bytes",
            edit(wire.image(wire.png(length=6 * 1024 * 1024))),
            {},
        ),
        (
            "wrong content type",
            errors.UnsupportedMediaType,
            "unsupported_media_type",
            None,
            "generations",
            "roomy",
            True,
            "application/json",
            _typed("text/plain"),
            {},
        ),
        (
            "encoded body",
            errors.UnsupportedMediaType,
            "unsupported_media_type",
            None,
            "generations",
            "roomy",
            True,
            "no Content-Encoding",
            _typed("application/json", "Content-Encoding: gzip"),
            {},
        ),
    )
)


def _keyed(name: str, **fields: object) -> Callable[[Watched], Answer]:
    """An order with an Idempotency-Key."""

    def send(watched: Watched) -> Answer:
        key = watched.key("plain")
        return wire.ask(watched.url, wire.generation(key, f"Idempotency-Key: {name}", prompt=PROMPT, **fields))

    return send


def _before(send: Callable[[Watched], Answer], *script: Behaviour) -> Callable[[Watched, ExitStack], None]:
    """Has something sent first, whatever it comes to."""

    def prepare(watched: Watched, _: ExitStack) -> None:
        watched.simulator.script(*script)
        send(watched)

    return prepare


LONG_ORDER = {"response_format": "b64_json", "n": 2}

IDEMPOTENCY = tuple(
    Row(
        when=when,
        error=error,
        prepare=prepare,
        send=send,
        status=422,
        type=INVALID,
        code=code,
        outcome="refused_invalid",
        says=says,
    )
    for when, error, code, prepare, send, says in (
        (
            "idempotency key of another order",
            errors.IdempotencyKeyReused,
            "idempotency_key_reused",
            _before(_keyed("reused")),
            _keyed("reused", n=2),
            "^This Idempotency-Key was sent before with another order",
        ),
        (
            "idempotency key of a long answer",
            errors.IdempotencyAnswerGone,
            "idempotency_answer_gone",
            _before(_keyed("gone", **LONG_ORDER), Behaviour(pad=300_000)),
            _keyed("gone", **LONG_ORDER),
            "^The answer to this Idempotency-Key's order was too long to be kept",
        ),
    )
)


def _quota(
    when: str,
    team: str,
    says: str,
    headers: Mapping[str, Check | str],
    *refusing: tuple[str, str],
    short: bool,
    send: Callable[[Watched], Answer] | None = None,
    **more: object,
) -> Row:
    """refusing: name and window of the rules that refuse, the leading one first. short: minute, hour, concurrent."""
    return Row(
        when=when,
        error=errors.RateLimitExceeded if short else errors.InsufficientQuota,
        send=send or order(team),
        status=429,
        type="requests" if short else "insufficient_quota",
        code="rate_limit_exceeded" if short else "insufficient_quota",
        outcome="refused_quota",
        says=f"{says}.* {CONTACT}",
        extra=frozenset({"quota"}),
        headers=headers,
        team=team,
        refusing=tuple((team, name, per) for name, per in refusing),
        log={"rule": refusing[0][0], "upstream_status": None, "images": None},
        **more,  # type: ignore[arg-type]  # fields of Row
    )


QUOTA = (
    _quota(
        "minute rule",
        "minute",
        r"^Team minute has used 1 of 1 requests in the last minute \(rule requests-minute\)\. Free again",
        # Told apart by the test below: both depend on how much of the minute is over.
        {"retry-after": _from(55, 61), "x-should-retry": lambda value: value in (None, "false")},
        ("requests-minute", "minute"),
        short=True,
        prepare=spend("minute"),
    ),
    _quota(
        "hour rule",
        "hour",
        r"^Team hour has used 1 of 1 images in the last hour \(rule images-hour\)\. Free again",
        {"retry-after": _from(3500, 3660), **NO_RETRY},
        ("images-hour", "hour"),
        short=True,
        prepare=spend("hour"),
    ),
    _quota(
        "concurrent rule",
        "single",
        r"^Team single has 1 of 1 requests in flight \(rule concurrent\)\. Free again when one ends\.",
        {"retry-after": "2"},
        ("concurrent", "now"),
        short=True,
        prepare=_hold("single"),
        held=1,
    ),
    _quota(
        "concurrent rule, edit",
        "single",
        r"^Team single has 1 of 1 requests in flight",
        {"retry-after": "2"},
        ("concurrent", "now"),
        short=True,
        prepare=_hold("single"),
        held=1,
        send=edit(wire.image(SMALL), team="single"),
        endpoint="edits",
        ordered=False,
    ),
    _quota(
        "day rule",
        "day",
        r"^Team day has used 1 of 1 images today \(rule images-day\)\. Free again \d{4}-\d\d-\d\d 00:00 Etc/GMT",
        {"retry-after": _until(tomorrow), **NO_RETRY},
        ("images-day", "day"),
        short=False,
        prepare=spend("day"),
    ),
    _quota(
        "day rule, edit",
        "day",
        r"^Team day has used 1 of 1 images today",
        {"retry-after": _until(tomorrow), **NO_RETRY},
        ("images-day", "day"),
        short=False,
        prepare=spend("day"),
        send=edit(wire.image(SMALL), team="day"),
        endpoint="edits",
        ordered=False,
    ),
    _quota(
        "week rule",
        "week",
        r"^Team week has used 1 of 1 requests this week \(rule requests-week\)\. Free again",
        {"retry-after": _until(next_monday), **NO_RETRY},
        ("requests-week", "week"),
        short=False,
        prepare=spend("week"),
    ),
    _quota(
        "month rule in dollars",
        "month",
        r"^Team month has used \$0\.04 of \$0\.04 this month \(rule usd-month\)\. Free again",
        {"retry-after": _until(first_of_next_month), **NO_RETRY},
        ("usd-month", "month"),
        short=False,
        prepare=spend("month"),
    ),
    _quota(
        "total rule",
        "total",
        r"^Team total has used 1 of 1 images in total \(rule images-total\)\. It does not come free again by itself\.",
        NO_RETRY,
        ("images-total", "total"),
        short=False,
        prepare=spend("total"),
    ),
    _quota(
        "more than is left",
        "few",
        r"has used 1 of 2 images today \(rule images-day\); this request asks for 2 images, more than is left\. Free",
        {"retry-after": _until(tomorrow), **NO_RETRY},
        ("images-day", "day"),
        short=False,
        prepare=spend("few"),
        send=order("few", n=2),
    ),
    _quota(
        "more than can ever fit, day",
        "few",
        r"this request asks for 3 images, more than the limit, so it can never fit\.",
        NO_RETRY,
        ("images-day", "day"),
        short=False,
        send=order("few", n=3),
    ),
    _quota(
        "more than can ever fit, minute",
        "brisk",
        r"^Team brisk has used 0 of 2 images in the last minute .*asks for 3 images.*can never fit",
        NO_RETRY,
        ("images-minute", "minute"),
        short=True,
        send=order("brisk", n=3),
    ),
    _quota(
        "several rules",
        "several",
        r"^Team several has used \$0\.04 of \$0\.04 this month \(rule usd-month\)",
        {"retry-after": _until(first_of_next_month), **NO_RETRY},
        ("usd-month", "month"),
        ("images-day", "day"),
        ("requests-hour", "hour"),
        short=False,
        prepare=spend("several"),
    ),
    Row(
        when="rule of the organization",
        error=errors.InsufficientQuota,
        on="cramped",
        send=order(n=3),
        status=429,
        type="insufficient_quota",
        code="insufficient_quota",
        outcome="refused_quota",
        says=rf"^All teams together have used 0 of 2 images today \(rule images-day of the organization\).* {CONTACT}",
        extra=frozenset({"quota"}),
        headers=NO_RETRY,
        refusing=(("organization", "images-day", "day"),),
        log={"rule": "images-day", "n": 3},
    ),
)

OVERLOADED = tuple(
    Row(
        when=when,
        error=errors.Overloaded,
        on="cramped",
        prepare=prepare,
        held=held,
        send=send,
        status=503,
        type="server_error",
        code="overloaded",
        outcome="overloaded",
        says=says,
        headers={"retry-after": "2"},
        endpoint=endpoint,
        ordered=ordered,
    )
    for when, prepare, held, send, endpoint, ordered, says in (
        ("worker full", _fill, 2, order(), "generations", False, "as many requests in flight as it may hold"),
        (
            "account full",
            _hold("plain"),
            1,
            order(),
            "generations",
            True,
            "as many images in the making as its accounts",
        ),
        (
            "account full, edit",
            _hold("plain"),
            1,
            edit(wire.image(SMALL)),
            "edits",
            False,
            "as many images in the making as its accounts",
        ),
    )
)

UNREACHABLE = (
    Row(
        when="nobody listens",
        error=errors.UpstreamUnreachable,
        on="cramped",
        send=order(),
        status=503,
        type="server_error",
        code="upstream_unreachable",
        outcome="upstream_unreachable",
        says="could not be reached. Nothing was made; sending it again is safe",
        headers=SAFE_RETRY,
        charged=Charged(refunded=1),
        upstream="connect_error",
    ),
    *(
        Row(
            when=when,
            error=errors.UpstreamUnreachable,
            send=_half_an_edit,
            script=(script,),
            status=503,
            type="server_error",
            code="upstream_unreachable",
            outcome="upstream_unreachable",
            says="Nothing was made; sending it again is safe",
            headers=SAFE_RETRY,
            endpoint="edits",
            ordered=False,
            upstream=status,
        )
        for when, status, script in (
            ("cut before the closing bytes", "cut", Behaviour(fault="close_before_body_end", after=1000)),
            ("502 before the closing bytes", "502", Behaviour(fault="refuse_body", status=502, after=1000)),
            ("520 before the closing bytes", "520", Behaviour(fault="refuse_body", status=520, after=1000)),
        )
    ),
)


def _answered(
    status: int,
    error: type[GatewayError],
    says: str,
    *,
    when: str = "",
    headers: dict[str, str] | None = None,
    script: Behaviour | None = None,
) -> Row:
    """The upstream answers a generation with this status."""
    return Row(
        when=f"upstream {status} {when}".strip(),
        error=error,
        send=order(),
        script=(script or Behaviour(status=status),),
        status=error.status,
        type=error.type,
        code=error.code,
        outcome=error.outcome,
        says=says,
        headers=headers or {},
        charged=GIVEN_BACK,
        upstream=str(status),
        log={"account": "main"},
    )


def _words(**error: str | None) -> dict[str, object]:
    return {"error": {"message": "No.", "type": None, "param": None, "code": None, **error}}


LEAKY = f"Key {API_KEY} is no good, see https://x.test/a?sig=abc and\n ask sk-other-1234567890"

ANSWERED = (
    *(_answered(status, errors.UpstreamAuthFailed, "does not accept the gateway's own key") for status in (401, 403)),
    _answered(402, errors.UpstreamAccountExhausted, "no credit left", headers=NO_RETRY),
    *(
        _answered(
            429,
            errors.UpstreamAccountExhausted,
            "no credit left",
            when=when,
            headers=NO_RETRY,
            script=Behaviour(status=429, headers={"retry-after": "7"}, body=_words(**words)),
        )
        for when, words in (
            ("for its quota", {"code": "insufficient_quota"}),
            ("for its billing", {"message": "You have reached your billing hard limit."}),
        )
    ),
    _answered(
        429,
        errors.UpstreamRateLimited,
        "takes no more requests right now",
        when="with Retry-After",
        headers={"retry-after": "7"},
        script=Behaviour(status=429, headers={"retry-after": "7"}),
    ),
    _answered(429, errors.UpstreamRateLimited, "takes no more requests right now", when="without"),
    *(
        _answered(status, errors.UpstreamFailed, f"answered {status} and made nothing")
        for status in (300, 302, 304, 408, 409, 418, 451, 500, 501, 503)
    ),
    *(
        Row(
            when=f"upstream {status}",
            error=errors.UpstreamRefused,
            send=order(),
            script=(
                Behaviour(
                    status=status,
                    body=_words(message=LEAKY, type="image_generation_user_error", code="policy", param="prompt"),
                ),
            ),
            status=status,
            type="image_generation_user_error",
            code="policy",
            param="prompt",
            outcome="upstream_refused",
            says=r"^Key \*\*\* is no good, see https://x\.test/a\?\*\*\* and ask \*\*\*$",
            charged=GIVEN_BACK,
            upstream=str(status),
            metric="upstream_refused",
        )
        for status in (400, 404, 413, 415, 422)
    ),
    Row(
        when="upstream 400 without words",
        error=errors.UpstreamRefused,
        send=order(),
        script=(Behaviour(status=400, body="<html>"),),
        status=400,
        type=INVALID,
        code=None,
        outcome="upstream_refused",
        says="^The image service answered 400 without saying why",
        charged=GIVEN_BACK,
        upstream="400",
        metric="upstream_refused",
    ),
    Row(
        when="upstream 200 before the closing bytes",
        error=errors.UpstreamFailed,
        send=_half_an_edit,
        script=(Behaviour(fault="refuse_body", status=200, after=1000, body={"data": [{"url": "https://x.test"}]}),),
        status=502,
        type="server_error",
        code="upstream_error",
        outcome="upstream_error",
        says="answered before it had the whole request",
        endpoint="edits",
        ordered=False,
        upstream="200",
    ),
    Row(
        when="upstream 413 before the closing bytes",
        error=errors.UpstreamRefused,
        send=_half_an_edit,
        script=(Behaviour(fault="refuse_body", status=413, after=1000, body=_words(code="too_big")),),
        status=413,
        type=INVALID,
        code="too_big",
        outcome="upstream_refused",
        says="^No.$",
        endpoint="edits",
        ordered=False,
        upstream="413",
        metric="upstream_refused",
    ),
)

OPAQUE = tuple(
    Row(
        when=f"upstream {when}",
        error=errors.OutcomeUnknown,
        on=on,
        send=order(),
        script=(script,),
        status=424,
        type="upstream_error",
        code="upstream_outcome_unknown",
        outcome="unknown",
        says="may have been made",
        extra=frozenset({"charged"}),
        headers=COST,
        charged=UNKNOWN,
        upstream=upstream,
        reached=when != "cut in the closing bytes",
        log={"upstream_status": 200} if answered else {},
    )
    for when, on, upstream, answered, script in (
        *(
            (str(status), "roomy", str(status), False, Behaviour(status=status))
            for status in (502, 504, 505, *range(520, 530), 599)
        ),
        ("silent", "impatient", "timeout", False, Behaviour(fault="hang")),
        ("silent after its head", "impatient", "timeout", True, Behaviour(fault="hang", after=10)),
        ("gone without an answer", "roomy", "cut", False, Behaviour(fault="drop")),
        ("reset", "roomy", "cut", False, Behaviour(fault="reset")),
        ("cut in its answer", "roomy", "cut", True, Behaviour(fault="cut")),
        # It closes within what is one write of the gateway's, who cannot know how much of that was read.
        ("cut in the closing bytes", "roomy", "cut", False, Behaviour(fault="close_before_body_end")),
        ("200 that is no JSON", "roomy", "200", False, Behaviour(status=200, body="<html>")),
        ("200 without data", "roomy", "200", False, Behaviour(status=200, body={"created": 1})),
        ("200 with odd data", "roomy", "200", False, Behaviour(status=200, body={"data": [{"id": 1}]})),
        ("200 that is empty", "roomy", "200", False, Behaviour(status=200, body="")),
        ("204", "roomy", "204", False, Behaviour(status=204, body="")),
    )
)

OWN_FAULT = (
    Row(
        when="disk full",
        error=errors.InternalError,
        on="cramped",
        prepare=_without_disk,
        send=edit(wire.image(wire.png(length=4 * 1024 * 1024))),
        status=500,
        type="server_error",
        code="internal_error",
        outcome="internal_error",
        says=r"^The gateway failed on this request\. It has been logged\.$",
        endpoint="edits",
        ordered=False,
    ),
)

ROWS = (
    *UNAUTHORIZED,
    *WRONG,
    *FORBIDDEN,
    *TEAMLESS,
    *UNFIT,
    *IDEMPOTENCY,
    *QUOTA,
    *OVERLOADED,
    *UNREACHABLE,
    *ANSWERED,
    *OPAQUE,
    *OWN_FAULT,
)
