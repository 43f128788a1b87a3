"""For each alert what makes it fire, in promtool's notation of series, and the nearest thing that does not.

`a+bxn` is a sample a and n more, each b above the one before; `_xn` are n missing ones.
"""

from dataclasses import dataclass, field

Series = dict[str, str]

HOST_A = 'job="gateway", instance="a:9464"'
HOST_B = 'job="gateway", instance="b:9464"'
RULE = 'team="design", rule="images-day", unit="images", per="day", mode="enforce"'


@dataclass(frozen=True)
class Case:
    """fires: series under which the alert fires `at` with these labels (severity and name apart) and this summary.
    quiet, also_quiet: series under which it does not. interval: minutes between two samples. waits: minutes for which
    it is pending before.
    """

    alert: str
    fires: Series
    labels: dict[str, str]
    summary: str
    quiet: Series
    also_quiet: Series = field(default_factory=dict)
    at: str = "20m"
    interval: int = 1
    waits: int = 0
    severity: str = "warning"
    job: dict[str, str] = field(default_factory=lambda: {"job": "gateway"})


def orders(ok: str, failed: str, *, outcome: str = "upstream_error") -> Series:
    """Orders of host a that ended well, and of host b that did not."""
    name = 'gateway_requests_total{%s, team="design", endpoint="generations", model="dall-e-3", outcome="%s"}'
    return {name % (HOST_A, "ok"): ok, name % (HOST_B, outcome): failed}


def quota(used: str, *, limit: str = "100x60", mode: str = "enforce", per: str = "day") -> Series:
    """One rule, as two hosts show it."""
    rule = RULE.replace("enforce", mode).replace('per="day"', f'per="{per}"')
    return {
        f"gateway_quota_{kind}{{{host}, {rule}}}": values
        for host in (HOST_A, HOST_B)
        for kind, values in (("used", used), ("limit", limit))
    }


def answers(host: str, status: str, values: str) -> Series:
    return {f'gateway_upstream_responses_total{{{host}, account="main", status="{status}"}}': values}


def errors(code: str, values: str) -> Series:
    return {f'gateway_errors_total{{{HOST_A}, team="design", code="{code}"}}': values}


CASES = (
    Case(
        "GatewayAbsent",
        {f"up{{{HOST_A}}}": "0x60", f"up{{{HOST_B}}}": "0x60"},
        {},
        "No gateway answers Prometheus.",
        {f"up{{{HOST_A}}}": "0x60", f"up{{{HOST_B}}}": "1x60"},
        severity="critical",
        job={},
        waits=3,
    ),
    Case(
        "GatewayHostDown",
        {f"up{{{HOST_A}}}": "1x60", f"up{{{HOST_B}}}": "0x60"},
        {"instance": "b:9464"},
        "The gateway on b:9464 does not answer Prometheus.",
        {f"up{{{HOST_A}}}": "1x60", f"up{{{HOST_B}}}": "1x17 0x43"},
        waits=3,
    ),
    Case(
        "GatewayErrorBudgetBurningFast",
        orders("0+90x120", "0+10x120"),
        {},
        "10% of the orders fail: the month's error budget is gone within days.",
        orders("0+96x120", "0+4x55 220x64"),  # over by now
        orders("0+0.1x120", "0x65 2x55"),  # two orders in a quiet night
        at="1h10m",
        severity="critical",
        waits=2,
    ),
    Case(
        "GatewayErrorBudgetBurningSlowly",
        orders("0+98x100", "0+2x100"),
        {},
        "2% of the orders fail: the month's error budget will not last.",
        # What teams do to themselves burns nothing.
        orders("0+98x100", "0+2x100", outcome="refused_quota"),
        at="7h",
        interval=5,
        waits=15,
    ),
    Case(
        "GatewayInternalErrors",
        {
            f'gateway_requests_total{{{host}, team="design", outcome="internal_error"}}': "0x15 1x45"
            for host in (HOST_A, HOST_B)
        },
        {},
        "The gateway answered 2 requests with a fault of its own in 10 minutes.",
        orders("0+9x60", "0x15 1x45", outcome="refused_invalid"),
    ),
    Case(
        "GatewayOverheadHigh",
        {
            f'gateway_overhead_seconds_bucket{{{HOST_A}, endpoint="generations", le="{le}"}}': values
            for le, values in (("0.025", "0+90x60"), ("0.05", "0+100x60"), ("+Inf", "0+100x60"))
        },
        {"endpoint": "generations"},
        "The gateway itself takes 47.5ms for the slowest hundredth of generations.",
        {
            f'gateway_overhead_seconds_bucket{{{HOST_A}, endpoint="generations", le="{le}"}}': values
            for le, values in (("0.025", "0+995x60"), ("0.05", "0+1000x60"), ("+Inf", "0+1000x60"))
        },
        waits=10,
    ),
    Case(
        "GatewayStoreDown",
        {f"gateway_store_up{{{HOST_A}}}": "1x60", f"gateway_store_up{{{HOST_B}}}": "1x10 0x50"},
        {},
        "A gateway finds its store away: no quota can be decided there.",
        {f"gateway_store_up{{{HOST_A}}}": "1x60", f"gateway_store_up{{{HOST_B}}}": "1x10 0 1x50"},
        severity="critical",
        waits=1,
    ),
    Case(
        "GatewayUnmeteredRequests",
        {f'gateway_unmetered_requests_total{{{host}, team="design"}}': "0x12 9x48" for host in (HOST_A, HOST_B)},
        {},
        "18 orders passed without a quota in 10 minutes, because the store is away.",
        {f'gateway_unmetered_requests_total{{{HOST_A}, team="design"}}': "9x60"},
        severity="critical",
    ),
    Case(
        "GatewayStoreHistoryLost",
        {f"gateway_store_history_lost_total{{{HOST_A}}}": "0x12 1x48"},
        {},
        "The store has lost history: what is used of quotas is too low.",
        {f"gateway_store_history_lost_total{{{HOST_A}}}": "1x60"},
        severity="critical",
    ),
    Case(
        "GatewayEmbeddedStoreOnTwoHosts",
        {f'gateway_store_info{{{host}, kind="embedded"}}': "1x60" for host in (HOST_A, HOST_B)},
        {},
        "2 hosts count quotas each for themselves: a team has that many times its quota.",
        {f'gateway_store_info{{{host}, kind="redis"}}': "1x60" for host in (HOST_A, HOST_B)},
        severity="critical",
        waits=5,
    ),
    Case(
        "GatewayReservationsExpiring",
        {f'gateway_reservations_expired_total{{{host}, team="design"}}': "0x70 3x20" for host in (HOST_A, HOST_B)},
        {},
        "6 orders of the last hour had no end and stay charged.",
        {f'gateway_reservations_expired_total{{{HOST_A}, team="design"}}': "0x5 3x85"},
        at="80m",
    ),
    Case(
        "GatewayUpstreamFailing",
        answers(HOST_A, "200", "0x10 3x50")
        | answers(HOST_A, "503", "0x10 2x50")
        | answers(HOST_B, "200", "0x10 3x50")
        | answers(HOST_B, "timeout", "0x10 2x50"),
        {"account": "main"},
        "3xCoder fails 40% of the orders of account main.",
        # refusals are no failures
        answers(HOST_A, "200", "0+6x60") | answers(HOST_A, "503", "0+1x60") | answers(HOST_A, "400", "0+3x60"),
        answers(HOST_A, "200", "0x10 3x50") | answers(HOST_A, "503", "0x10 2x50"),  # two in a quiet night
        severity="critical",
        waits=5,
    ),
    Case(
        "GatewayUpstreamKeyRefused",
        errors("upstream_auth_failed", "0x15 1x45"),
        {},
        "3xCoder refuses a key of ours.",
        errors("invalid_api_key", "0x15 1x45"),
        severity="critical",
    ),
    Case(
        "GatewayUpstreamAccountExhausted",
        errors("upstream_account_exhausted", "0x15 1x45"),
        {},
        "An account at 3xCoder has no credit.",
        errors("upstream_account_exhausted", "0x2 1x58"),
        severity="critical",
    ),
    Case(
        "GatewayUpstreamNearlyFull",
        {
            f'gateway_upstream_inflight{{{HOST_A}, account="main"}}': "50x60",
            f'gateway_upstream_inflight{{{HOST_B}, account="main"}}': "45x60",
            f'gateway_upstream_concurrency_limit{{{HOST_A}, account="main"}}': "100x60",
            f'gateway_upstream_concurrency_limit{{{HOST_B}, account="main"}}': "100x60",
        },
        {"account": "main"},
        "Account main has 95% of the requests in flight that it allows.",
        {
            f'gateway_upstream_inflight{{{HOST_A}, account="main"}}': "50x60",
            f'gateway_upstream_inflight{{{HOST_B}, account="main"}}': "40x60",
            f'gateway_upstream_concurrency_limit{{{HOST_A}, account="main"}}': "100x60",
            f'gateway_upstream_concurrency_limit{{{HOST_B}, account="main"}}': "100x60",
        },
        waits=5,
    ),
    Case(
        "GatewayImagesUnknown",
        {f'gateway_images_unknown_total{{{host}, team="design"}}': "0x70 2x20" for host in (HOST_A, HOST_B)},
        {},
        "4 images of the last hour are charged, and nobody knows whether they were made.",
        {f'gateway_images_unknown_total{{{HOST_A}, team="design"}}': "2x90"},
        at="80m",
    ),
    Case(
        "GatewayConfigReloadFailed",
        {f"gateway_config_last_reload_successful{{{HOST_A}}}": "1x10 0x50"},
        {"instance": "a:9464"},
        "The configuration file of a:9464 is not in force.",
        {f"gateway_config_last_reload_successful{{{HOST_A}}}": "1x60"},
        waits=2,
    ),
    Case(
        "GatewayConfigLaggard",
        {
            f'gateway_config_info{{{HOST_A}, hash="new"}}': "4x60",
            f'gateway_config_info{{{HOST_B}, hash="new"}}': "3x60",
            f'gateway_config_info{{{HOST_B}, hash="old"}}': "1x60",
        },
        {},
        "Workers are on 2 versions of the configuration.",
        {
            f'gateway_config_info{{{HOST_A}, hash="new"}}': "4x60",
            f'gateway_config_info{{{HOST_B}, hash="new"}}': "_x17 4x43",
            f'gateway_config_info{{{HOST_B}, hash="old"}}': "4x17 stale",
        },
        waits=5,
    ),
    Case(
        "GatewayKeyExpiresSoon",
        {f'gateway_key_expiry_timestamp_seconds{{{HOST_A}, team="design", key="ci"}}': "612000x120"},
        {"team": "design", "key": "ci"},
        "Key ci of team design ends in 7d 0h 0m 0s.",
        {
            f'gateway_key_expiry_timestamp_seconds{{{HOST_A}, team="design", key="ci"}}': "1300000x120",
            f'gateway_key_expiry_timestamp_seconds{{{HOST_A}, team="design", key="gone"}}': "100x120",
        },
        at="2h",
        waits=60,
    ),
    Case(
        "GatewayQuotaNearlyUsed",
        quota("80x60"),
        {"team": "design", "rule": "images-day", "unit": "images", "per": "day", "mode": "enforce"},
        "design has used 80% of rule images-day.",
        quota("79x60") | quota("100x60", per="week"),
        severity="info",
        waits=5,
    ),
    Case(
        "GatewayQuotaUsed",
        quota("100x60"),
        {"team": "design", "rule": "images-day", "unit": "images", "per": "day", "mode": "enforce"},
        "design has used all of rule images-day: its orders are refused.",
        quota("99x60") | quota("100x60", mode="shadow") | quota("10x60", limit="10x60", per="minute"),
        waits=5,
    ),
)
