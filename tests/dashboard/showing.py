"""A gateway whose dashboard has something to show: teams with a past, rules in every state, refusals.

The past is written into the store as the gateway books it; all of today comes of real orders.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import redis
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.ledger import scripts
from tests.support.running import NO_TLS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import team, wait_until
from tests.support.valkey import valkey

Amounts = Mapping[tuple[str, str, int], int]

#: What a team orders on a common day of the past: (size, quality, price in micro-dollars) -> images.
_HABITS: Mapping[str, Amounts] = {
    "design": {("1024x1024", "standard", 40_000): 21, ("1024x1024", "hd", 80_000): 9, ("1792x1024", "hd", 80_000): 4},
    "research": {("1024x1024", "standard", 40_000): 34},
    "marketing": {("1792x1024", "standard", 80_000): 12, ("1024x1792", "standard", 80_000): 6},
    "former": {("1024x1024", "standard", 40_000): 3},
}

_TODAY: Mapping[str, Sequence[Mapping[str, object]]] = {
    "design": [{"n": 8}, {"n": 5, "quality": "hd"}, {"n": 5, "quality": "hd"}, {"n": 4, "quality": "hd"}],
    "research": [{"n": 10}, {"n": 10}, {"n": 9}],
    "marketing": [{"n": 4, "size": "1792x1024"}, {"n": 2}, {"n": 1}],
    "interns": [{}],
    "free": [{"n": 3}],
}

TEAMS: Mapping[str, Mapping[str, Any]] = {
    "design": {
        "quotas": [
            {"images": 60, "per": "day"},
            {"images": 12, "per": "day", "quality": "hd"},
            {"usd": 45, "per": "month", "warn_at": ["50%", "80%"]},
            {"requests": 600, "per": "hour"},
            {"images": 30, "per": "day", "mode": "shadow", "name": "trial-30"},
            {"concurrent": 4, "wait": "30s"},
        ]
    },
    "research": {"quotas": [{"images": 40, "per": "day"}, {"usd": 400, "per": "month"}], "sizes": ["1024x1024"]},
    "marketing": {"quotas": [{"images": 6, "per": "day"}]},
    "interns": {"quotas": [{"images": 20, "per": "week"}], "suspended": "budget <b>review</b>"},
    "free": {},
}

#: Some places all round the world, so that it is always afternoon in one of them.
_PLACES = (
    "Pacific/Auckland", "Asia/Tokyo", "Asia/Kolkata", "Asia/Dubai", "Europe/Berlin", "America/Sao_Paulo",
    "America/New_York", "America/Los_Angeles", "Pacific/Honolulu",
)  # fmt: skip


def afternoon() -> str:
    """A zone in which most of a day is over, but in which it does not end while tests run."""
    return min(_PLACES, key=lambda place: abs(datetime.now(ZoneInfo(place)).hour - 15))


@dataclass(frozen=True)
class Showing:
    gateway: Running
    simulator: SimulatorThread
    store: str

    @property
    def page(self) -> str:
        return self.gateway.admin_url

    @property
    def today(self) -> date:
        return datetime.now(ZoneInfo(self.gateway.config["timezone"])).date()

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.page}{path}", headers=headers, timeout=20, verify=NO_TLS)

    def order(self, team: str, **more: Any) -> int:
        """The status of a generation."""
        url = f"{self.gateway.url}/v1/images/generations"
        order = {"prompt": "a lighthouse", **more}
        return httpx.post(url, headers=self.gateway.auth(team), json=order, timeout=20, verify=NO_TLS).status_code

    def command(self, *words: str) -> str:
        """What a command prints."""
        config = str(self.gateway.folder / "config.yaml")
        result = CliRunner(env={"TEST_STORE_URL": self.store}).invoke(app, [*words, "--config", config])
        assert result.exit_code == 0, result.output
        return result.stdout

    def told(self, *words: str) -> Any:
        """What a command says with --json."""
        return json.loads(self.command(*words, "--json"))


def book(url: str, team: str, day: date, amounts: Amounts, *, unknown: int = 0) -> None:
    """Put a day of the past into the store. unknown: images of the first kind beside, whose end nobody knows."""
    names = scripts.keys("gateway")[-1]
    with redis.Redis.from_url(url, decode_responses=True) as store:
        for i, ((size, quality, price), images) in enumerate(amounts.items()):
            label = f"test|main|dall-e-3|{size}|{quality}|generations"
            for kind, number in (("delivered", images), ("unknown", unknown if i == 0 else 0)):
                for table in (f"{names}{team}:{day}", f"{names}{team}:{day:%Y-%m}"):
                    if number:
                        store.hincrby(table, f"{label}|{kind}|images", number)
                        store.hincrby(table, f"{label}|{kind}|usd", number * price)
        store.zadd(f"{names}teams", {team: datetime.now(UTC).timestamp() * 1000})


@contextmanager
def running_showing(*, workers: int = 2, token: str = "", teams: Mapping[str, Any] = TEAMS) -> Iterator[Showing]:
    """token: what `listen.admin_token` is, if there is one."""
    with ExitStack() as stack:
        store = stack.enter_context(valkey())
        simulator = stack.enter_context(running_simulator())
        config = base_config(upstream=simulator.base_url, workers=workers)
        config["timezone"] = afternoon()
        config["store"] = {"kind": "redis", "url": "env:TEST_STORE_URL"}
        config["teams"] = {name: team(name, settings) for name, settings in teams.items()}
        config["organization"] = {"quotas": [{"usd": 420, "per": "month"}]}
        environ = {"TEST_STORE_URL": store}
        if token:
            config["listen"]["admin_token"] = "env:TEST_ADMIN_TOKEN"
            environ["TEST_ADMIN_TOKEN"] = token
        gateway = stack.enter_context(running_gateway(config=config, environ=environ))
        yield Showing(gateway, simulator, store)


def with_a_past(showing: Showing, *, days: int = 45) -> None:
    """The same figures each time, but for the dates: they end yesterday. Rules of a month know of it, too."""
    dice = random.Random(7)
    for age in range(1, days):
        day = showing.today - timedelta(days=age)
        quiet = 0.2 if day.weekday() >= 5 else 1.0
        for name, habits in _HABITS.items():
            amounts = {kind: round(usual * quiet * dice.uniform(0.6, 1.4)) for kind, usual in habits.items()}
            if name != "former" or age > 12:
                book(showing.store, name, day, amounts, unknown=1 if dice.random() < 0.05 else 0)
    usage = showing.told("usage", "--by", "team")
    used = {row["team"]: row["usd"] for row in usage["rows"]} | {"organization": usage["total"]["usd"]}
    for name in ("design", "research", "organization"):
        words = ["--team", name, "--rule", "usd-month", "--to", f"{used.get(name, 0):.2f}"]
        showing.command("quota", "reset", *words, "--reason", "what the month began with")


def with_a_present(showing: Showing) -> None:
    """Orders of today: whole ones, some of unknown outcome, some refused by rules, permissions and the upstream."""
    for name, orders in _TODAY.items():
        for order in orders:
            assert showing.order(name, **order) in {200, 403, 429}
    models = f"{showing.gateway.url}/v1/models"  # which is no order
    assert httpx.get(models, headers=showing.gateway.auth("design"), verify=NO_TLS).status_code == 200
    for behaviour, status in (({"status": 504}, 424), ({"status": 500}, 502)):
        showing.simulator.script(behaviour)
        assert showing.order("free") == status
    # Refusals are kept a moment after they are told.
    wait_until(lambda: all(showing.told("why", "--team", name) for name in ("design", "marketing", "interns")))
