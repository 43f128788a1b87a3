"""Who orders what: teams with every kind of limit, clients with a key each, orders of every kind, all from one seed.

Limits are so tight that they are reached, and stay so while refunds make room again.
"""

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.config.compile import compile_settings
from gateway.config.document import Document
from gateway.core import keys
from gateway.core.quota import Unit
from tests.e2e.watching import noon_zone
from tests.faults.history import Kind, Limit
from tests.support.running import SECRETS, UPSTREAM_KEY, base_config

CLIENTS = 5  # of each team

SIZES = ("1024x1024", "1792x1024")
PRICES = {("1024x1024", "standard"): 40_000, ("1792x1024", "standard"): 80_000}
PRICES |= {("1024x1024", "hd"): 80_000, ("1792x1024", "hd"): 80_000}

TEAMS: Mapping[str, list[dict[str, Any]]] = {
    "scarce": [{"images": 60, "per": "day"}, {"usd": 2.4, "per": "day"}],
    "paced": [{"images": 60, "per": "minute"}, {"requests": 50, "per": "minute"}],
    "narrow": [{"concurrent": 2}, {"images": 100_000, "per": "day"}],
    "patient": [{"concurrent": 1, "wait": "3s"}, {"requests": 100_000, "per": "day"}],
    "roomy": [{"images": 100_000, "per": "day"}, {"usd": 100_000, "per": "month"}],
}

#: Seconds: of an edit's body, of the upstream. A charge nobody ends is presumed 60 s after both.
BODY_LIMIT, UPSTREAM_LIMIT = 5, 6
PRESUMED_AFTER = BODY_LIMIT + UPSTREAM_LIMIT + 60


def config(upstream: str, *, workers: int) -> dict[str, Any]:
    """For a gateway whose store stands at TEST_STORE_URL."""
    whole = base_config(upstream=upstream, workers=workers)
    whole["timezone"] = noon_zone()
    whole["upstream"] |= {"connect_timeout": "1s", "total_timeout": f"{UPSTREAM_LIMIT}s"}
    whole["store"] = {"kind": "redis", "url": "env:TEST_STORE_URL"}
    whole["request_limits"] = {"body_idle_timeout": "3s", "body_total_timeout": f"{BODY_LIMIT}s"}
    whole["organization"] = {"quotas": [{"images": 100_000, "per": per} for per in ("day", "minute")]}
    prices = {quality: {size: _dollars(size, quality) for size in SIZES} for quality in ("standard", "hd")}
    whole["models"]["dall-e-3"] |= {"sizes": list(SIZES), "price_usd": prices}
    whole["teams"] = {
        team: {
            "keys": [
                {"id": f"{team}-{number}", "sha256": keys.digest(secret(f"{team}-{number}")).hex()}
                for number in range(CLIENTS)
            ],
            "quotas": quotas,
        }
        for team, quotas in TEAMS.items()
    }
    return whole


def secret(key: str) -> str:
    return SECRETS.setdefault(key, keys.make(random.randbytes(keys.RANDOM_BYTES)))


def limits(document: Document) -> dict[str, Limit]:
    """The limits by the names of their counters. document: a config as it was read."""
    settings = compile_settings(document, {"TEST_STORE_URL": "redis://unused", "TEST_UPSTREAM_KEY": UPSTREAM_KEY})
    scopes = {team.id: team.rules for team in settings.teams.values()} | {"organization": settings.organization}
    return {
        rule.counter: Limit(
            scope, rule.unit.value, "now" if rule.unit is Unit.CONCURRENT else str(rule.per), rule.limit
        )
        for scope, rules in scopes.items()
        for rule in rules
    }


@dataclass(frozen=True, slots=True)
class Order:
    """keyed: with an Idempotency-Key. base64: pictures in the answer, which may so be too long to be read whole.

    leaves: seconds after which the client has lost interest, None if it waits. again: seconds after which it sends the
    same once more beside the first, as programs do that have lost count; None if it does not.
    """

    name: str
    kind: Kind
    keyed: bool
    base64: bool
    leaves: float | None
    again: float | None


def orders(seed: str) -> Iterator[Order]:
    """One client's, without end."""
    chance = random.Random(seed)
    for number in itertools.count():
        edit = chance.random() < 0.3
        quality = "standard" if edit else chance.choice(["standard", "hd"])
        kind = ("edits" if edit else "generations", chance.choice(SIZES), quality, chance.choice([1, 1, 2, 3]))
        keyed = chance.random() < 0.3
        yield Order(
            name=f"{seed}-{number}",
            kind=kind,
            keyed=keyed,
            base64=chance.random() < 0.05,
            leaves=chance.uniform(0.0, 1.0) if chance.random() < 0.05 else None,
            again=chance.uniform(0.0, 1.5) if keyed and chance.random() < 0.3 else None,
        )


#: What the upstream does instead of answering well, each as often as it stands here.
MISBEHAVIOURS: list[dict[str, Any]] = [
    {"status": 500, "times": 2},
    {"status": 503, "times": 2},
    {"status": 400, "times": 2},
    {"status": 429, "times": 2, "headers": {"retry-after": "1"}},
    {"status": 502},
    {"status": 504, "made": 1},
    {"fault": "drop"},
    {"fault": "reset"},
    {"fault": "cut"},
    {"fault": "cut", "after": 30},
    {"fault": "hang"},
    {"images": 1, "times": 3},
    {"status": 200, "body": "<html>"},
    {"endpoint": "edits", "fault": "close_before_body_end", "after": 100},
]


def _dollars(size: str, quality: str) -> str:
    return f"{PRICES[size, quality] / 1_000_000:.3f}"
