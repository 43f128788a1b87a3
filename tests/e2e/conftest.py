"""Gateways that many tests share, each a real `gateway serve` with one worker before the simulator."""

import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from tests.e2e.watching import Watched, noon_zone
from tests.support.running import base_config, free_port, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import team

#: So high that nothing refuses, so that each unit shows what was charged.
PLAIN = {
    "quotas": [
        {"images": 100_000, "per": "day"},
        {"usd": 100_000, "per": "month"},
        {"requests": 100_000, "per": "day"},
        {"concurrent": 500},
    ]
}

#: What the issuer `corp` of the roomy gateway signs with.
JWT_SECRET = "a secret that is shared with the issuer corp"

ISSUERS: dict[str, Any] = {
    "corp": {
        "issuer": "https://id.test",
        "audience": "image-gateway",
        "algorithms": ["HS256"],
        "secret": "env:TEST_JWT_SECRET",
    }
}

#: Teams that are refused, each by one thing.
NARROW: dict[str, dict[str, Any]] = {
    "square": {
        "models": ["dall-e-3"],
        "sizes": ["1024x1024"],
        "qualities": ["standard"],
        "endpoints": ["generations"],
    },
    "gone": {"suspended": "budget review"},
    "late": {"quotas": [{"images": 10, "per": "day"}]},
    "minute": {"quotas": [{"requests": 1, "per": "minute"}]},
    "hour": {"quotas": [{"images": 1, "per": "hour"}]},
    "single": {"quotas": [{"concurrent": 1}]},
    "day": {"quotas": [{"images": 1, "per": "day"}]},
    "week": {"quotas": [{"requests": 1, "per": "week"}]},
    "month": {"quotas": [{"usd": 0.04, "per": "month"}]},
    "total": {"quotas": [{"images": 1, "per": "total"}]},
    "few": {"quotas": [{"images": 2, "per": "day"}]},
    "brisk": {"quotas": [{"images": 2, "per": "minute"}]},
    "several": {
        "quotas": [
            {"images": 1, "per": "day"},
            {"usd": 0.04, "per": "month"},
            {"requests": 1, "per": "hour"},
            {"images": 100, "per": "week"},
        ]
    },
}


def config(at: str, **sections: dict[str, Any]) -> dict[str, Any]:
    """`base_config` on the upstream `at`, with two small models, noon as the hour, and a team `plain`.

    sections: merged into those of their names.
    """
    whole = base_config(upstream=at)
    model = whole["models"]["dall-e-3"]
    model |= {"sizes": ["1024x1024", "1792x1024"], "max_n": 10}
    prices = {"1024x1024": "0.040", "1792x1024": "0.080"}
    model["price_usd"] = {"standard": prices, "hd": prices}
    whole["models"]["drawing"] = {
        **model,
        "endpoints": ["generations"],
        "sizes": ["1024x1024"],
        "qualities": ["standard"],
        "price_usd": {"standard": {"1024x1024": "0.040"}},
    }
    whole |= {"timezone": noon_zone(), "teams": {"plain": team("plain", PLAIN)}}
    for name, section in sections.items():
        whole[name] = {**whole.get(name, {}), **section}
    return whole


def token(team: str, *, valid: int = 3600, secret: str = JWT_SECRET) -> str:
    """A token of `corp` for a team. valid: seconds from now."""
    now = int(time.time())
    claims = {"iss": "https://id.test", "aud": "image-gateway", "team": team, "iat": now - 900, "exp": now + valid}
    return jwt.encode(claims, secret, algorithm="HS256")


@pytest.fixture(scope="session")
def one_simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def simulator(one_simulator: SimulatorThread) -> Iterator[SimulatorThread]:
    """The simulator all these gateways go to, with nothing recorded and nothing scripted, before and after."""
    one_simulator.simulator.clear_script()
    one_simulator.record.clear()
    yield one_simulator
    left = len(one_simulator.simulator._script)
    one_simulator.simulator.clear_script()
    assert left == 0, "a scripted behaviour met no request"


@pytest.fixture(scope="session")
def one_roomy(one_simulator: SimulatorThread) -> Iterator[Watched]:
    teams = {name: team(name, settings) for name, settings in NARROW.items()}
    teams["late"]["keys"][0]["expires"] = "2020-01-01"
    whole = config(one_simulator.base_url)
    whole["teams"] |= teams
    whole["jwt_issuers"] = ISSUERS
    with running_gateway(config=whole, environ={"TEST_JWT_SECRET": JWT_SECRET}) as gateway:
        yield Watched(gateway, one_simulator)


@pytest.fixture
def roomy(one_roomy: Watched, simulator: SimulatorThread) -> Watched:
    """The gateway with a team for everything; nothing about it is scarce."""
    return one_roomy


@pytest.fixture(scope="session")
def impatient(one_simulator: SimulatorThread) -> Iterator[Watched]:
    """Waits one second for a body and two for an answer."""
    whole = config(
        one_simulator.base_url,
        request_limits={"body_idle_timeout": "1s"},
        upstream={"connect_timeout": "1s", "total_timeout": "2s"},
    )
    with running_gateway(config=whole) as gateway:
        yield Watched(gateway, one_simulator)


@pytest.fixture(scope="session")
def cramped(one_simulator: SimulatorThread) -> Iterator[Watched]:
    """Room for two requests, one at the account, two images a day for all teams; nobody listens at its upstream."""
    whole = config(
        f"http://127.0.0.1:{free_port()}/v1",
        request_limits={"max_inflight_per_worker": 2},
        organization={"quotas": [{"images": 2, "per": "day"}]},
    )
    whole["upstream"]["edit_framing"] = "spool"
    whole["upstream"]["accounts"][0]["max_concurrent"] = 1
    with running_gateway(config=whole) as gateway:
        yield Watched(gateway, one_simulator)


def storeless(simulator: SimulatorThread, when_down: str) -> dict[str, Any]:
    """A config whose store stands at TEST_STORE_URL."""
    store = {"kind": "redis", "url": "env:TEST_STORE_URL", "namespace": when_down, "when_down": when_down}
    whole = {**config(simulator.base_url), "store": store}
    whole["teams"]["few"] = team("few", NARROW["few"])
    return whole
