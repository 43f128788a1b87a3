"""How many Prometheus series a config can come to at most, one term for each metric.

Prometheus pays for series, not for samples, and a config of many teams and models multiplies them. The bound is
exact where labels come from the config and generous where they come from outside (statuses, error codes).
"""

from collections.abc import Iterator

from gateway.config.rules import ENDPOINTS, orders
from gateway.core.catalog import Settings
from gateway.core.errors import GatewayError

LONG = 20  #: series of one histogram to 300 s: its buckets, +Inf, sum and count
SHORT = 16  #: series of one histogram to 1 s
STATUSES = 40  #: upstream statuses ever seen of one account, with timeout, cut and connect_error
OPERATIONS = 8  #: kinds of calls to the store
REASONS = 8  #: why a key or token was refused
SINGLE = 16  #: metrics without labels, build and config info


def series_bound(settings: Settings) -> int:
    """Return an upper bound on the series of ``/metrics`` on one host."""
    return sum(bounds(settings).values())


def bounds(settings: Settings) -> dict[str, int]:
    """Return the bound of each group of metrics, which are named without their prefix."""
    # Requests of nobody known and for nothing known are counted as well.
    teams, endpoints, accounts = len(settings.teams), len(ENDPOINTS) + 1, len(settings.upstream.accounts)
    outcomes = len({error.outcome for error in _errors(GatewayError)} | {"ok", "replayed"})
    codes = len({error.code for error in _errors(GatewayError) if isinstance(error.code, str)}) + 2  # and others' own
    ordered = [
        {(endpoint, model.alias, size, quality) for endpoint, model, size, quality in orders(settings.models, team)}
        for team in settings.teams.values()
    ]
    asked = sum(len({order[:2] for order in of_team}) for of_team in ordered)
    # Of models that a team may not order two outcomes can be, of those that there are not one.
    unordered = len(ENDPOINTS) * (2 * len(settings.models) + 1)
    rules = [*settings.organization, *(rule for team in settings.teams.values() for rule in team.rules)]
    return {
        "requests_total": (endpoints * (teams + 1) + asked) * outcomes + teams * unordered - 2 * asked,
        "errors_total": (teams + 1) * codes,
        "images and image cost": 5 * sum(map(len, ordered)),
        "period_images, period_cost_usd": 2 * 2 * teams,
        "quota_limit, quota_used, quota_reset_seconds, quota_refusals_total": 4 * len(rules),
        "quota_warning": sum(len(rule.warn_at) for rule in rules),
        "auth_failures_total": 2 * teams + REASONS,
        "key_expiry_timestamp_seconds": len(settings.keys),
        "request_duration_seconds": endpoints * outcomes * LONG,
        "upstream_duration_seconds": sum(len(model.endpoints) for model in settings.models.values()) * LONG,
        "overhead_seconds": endpoints * SHORT,
        "inflight_requests, upload_bytes_total, client_retries_total": 3 * endpoints,
        "upstream_responses_total": accounts * STATUSES,
        "upstream_inflight, upstream_concurrency_limit": 2 * accounts,
        "store_errors_total, store_duration_seconds": OPERATIONS * (1 + SHORT),
        "reservations_expired_total, unmetered_requests_total": 2 * teams,
        "without labels": SINGLE,
    }


def _errors(root: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield root
    for error in root.__subclasses__():
        yield from _errors(error)
