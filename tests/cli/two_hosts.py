"""Two gateways on one store, and the commands that quota administrators call beside them."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from typer.testing import CliRunner

from gateway.cli.main import app
from tests.e2e.watching import noon_zone
from tests.support.running import NO_TLS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import team
from tests.support.valkey import valkey


@dataclass(frozen=True)
class Hosts:
    first: Running
    second: Running
    simulator: SimulatorThread
    store_url: str

    @property
    def both(self) -> tuple[Running, Running]:
        return self.first, self.second

    def order(self, team: str, *, n: int = 1, at: Running | None = None, **more: Any) -> httpx.Response:
        url = f"{(at or self.first).url}/v1/images/generations"
        order = {"prompt": "a lighthouse", "n": n, **more}
        return httpx.post(url, headers=self.first.auth(team), json=order, timeout=20, verify=NO_TLS)

    def usage(self, team: str, rule: str, *, at: Running | None = None) -> dict[str, Any]:
        """The team's own rule as the team reads it."""
        answer = httpx.get(f"{(at or self.first).url}/v1/usage", headers=self.first.auth(team), verify=NO_TLS).json()
        (found,) = [told for told in answer["rules"] if (told["scope"], told["rule"]) == (team, rule)]
        return dict(found)

    def command(self, *words: str) -> Any:
        config = str(self.first.folder / "config.yaml")
        return CliRunner(env={"TEST_STORE_URL": self.store_url}).invoke(app, [*words, "--config", config])

    def told(self, *words: str) -> Any:
        """What the command says with --json."""
        result = self.command(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def logged(self, event: str, **facts: object) -> list[dict[str, Any]]:
        """The lines of that event in both hosts' logs that have these facts."""
        lines = [line for host in self.both for line in host.log_text().splitlines() if line.startswith("{")]
        found = [json.loads(line) for line in lines if f'"{event}"' in line]
        return [line for line in found if line["event"] == event and facts.items() <= line.items()]


@contextmanager
def running_hosts(
    teams: Mapping[str, Mapping[str, Any]], change: Callable[[dict[str, Any]], None] = lambda _: None
) -> Iterator[Hosts]:
    """teams: beside those of `base_config`. change: the rest of the config."""
    with ExitStack() as stack:
        simulator = stack.enter_context(running_simulator())
        url = stack.enter_context(valkey())
        config = base_config(upstream=simulator.base_url)
        config["store"] = {"kind": "redis", "url": "env:TEST_STORE_URL"}
        for name, facts in teams.items():
            config["teams"][name] = team(name, facts)
        config["timezone"] = noon_zone()
        change(config)
        first, second = (
            stack.enter_context(running_gateway(config=config, environ={"TEST_STORE_URL": url})) for _ in range(2)
        )
        yield Hosts(first, second, simulator, url)
