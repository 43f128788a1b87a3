"""A real Prometheus on the files of deploy/ scrapes a gateway of four workers; every panel has something to show."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import wire
from tests.support.running import NO_TLS, SECRETS, Running, base_config, free_port, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import wait_until

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
BOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in (DEPLOY / "grafana" / "dashboards").glob("*.json")}

#: What Grafana would put in the place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$job": "gateway", "$team": ".*"}

WORKERS = 4
PATIENCE = 60.0  # seconds until all queries have data: two scrapes after the traffic, and an evaluation of the rules


@dataclass(frozen=True)
class Query:
    """One query of one panel."""

    board: str
    panel: str
    expression: str


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    found = []
    for name, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                expression = target["expr"]
                for variable, value in VARIABLES.items():
                    expression = expression.replace(variable, value)
                found.append(Query(name, panel["title"], expression))
    return found


@dataclass(frozen=True)
class Prometheus:
    url: str

    def get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=20, verify=NO_TLS)
        assert answer.json()["status"] == "success", answer.text
        return answer.json()["data"]

    def ask(self, expression: str) -> dict[tuple[str, ...], float]:
        """The samples that are numbers, by the values of their labels."""
        result = self.get("query", query=expression)["result"]
        samples = {tuple(found["metric"].values()): float(found["value"][1]) for found in result}
        return {labels: value for labels, value in samples.items() if value == value}  # noqa: PLR0124  not NaN


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorThread) -> Iterator[Running]:
    config = base_config(upstream=simulator.base_url, workers=WORKERS)
    design = config["teams"]["design"]
    design["keys"][0]["expires"] = "2099-12-31"
    design["quotas"] += [{"usd": 5, "per": "month", "warn_at": ["80%"]}]
    config["organization"] = {"quotas": [{"usd": 400, "per": "month"}]}
    with running_gateway(config=config) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(gateway: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus on the files of deploy/, but for the target and a faster pace."""
    folder = tmp_path_factory.mktemp("prometheus")
    for name in ("recording.yaml", "alerts.yaml"):
        (folder / name).write_bytes((DEPLOY / "prometheus" / name).read_bytes())
    text = (DEPLOY / "prometheus" / "prometheus.yaml").read_text("utf-8")
    target = gateway.admin_url.removeprefix("http://")
    for old, new in (("gateway:9464", target), ("_interval: 15s", "_interval: 1s")):
        assert old in text
        text = text.replace(old, new)
    (folder / "prometheus.yaml").write_text(text, "utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    made = Prometheus(f"http://{address}")
    try:

        def scrapes() -> bool:
            assert process.poll() is None, (folder / "log").read_text("utf-8")
            try:
                return bool(made.ask('up{job="gateway"} == 1'))
            except (httpx.TransportError, json.JSONDecodeError):
                return False

        wait_until(scrapes, seconds=PATIENCE)
        yield made
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def traffic(gateway: Running, simulator: SimulatorThread, prometheus: Prometheus) -> None:
    """Orders of two teams after the first scrape, refusals, and a fault of the upstream's; all of it scraped."""
    del prometheus  # has begun to look
    free, design = SECRETS["free"], SECRETS["design"]
    for quality in ("standard", "hd"):
        for key in (free, design):
            assert wire.ask(gateway.url, wire.generation(key, n=2, quality=quality)).status == 200
    edit = wire.edit(design, wire.image(wire.png(length=100_000)), wire.text("prompt", "x"))
    assert wire.ask(gateway.url, edit).status == 200
    assert wire.ask(gateway.url, wire.generation(design, n=10)).status == 429
    assert wire.ask(gateway.url, wire.generation(None)).status == 401
    simulator.script({"status": 500})
    assert wire.ask(gateway.url, wire.generation(free)).status == 502


@pytest.mark.slow
@pytest.mark.debian("prometheus")
@pytest.mark.usefixtures("traffic")
def test_every_panel_has_data(prometheus: Prometheus) -> None:
    """Each query of each panel of each dashboard returns numbers, as Grafana would ask it."""
    empty = queries()
    assert len(empty) > 50
    ends = time.monotonic() + PATIENCE
    while empty and time.monotonic() < ends:
        empty = [query for query in empty if not prometheus.ask(query.expression)]
    assert empty == []


@pytest.mark.slow
@pytest.mark.debian("prometheus")
@pytest.mark.usefixtures("traffic")
def test_panels_show_what_was_made(prometheus: Prometheus, simulator: SimulatorThread) -> None:
    """Images of today and the rate of images, over four workers, are those that the upstream made."""
    made = simulator.record.totals.images_made
    assert made == 9
    (today,) = (query for query in queries() if query.panel == "Images today")
    wait_until(lambda: sum(prometheus.ask(today.expression).values()) == made)
    wait_until(lambda: sum(prometheus.ask('gateway_images_total{job="gateway"}').values()) == made)


@pytest.mark.slow
@pytest.mark.debian("prometheus")
@pytest.mark.usefixtures("traffic")
def test_variables_have_values(prometheus: Prometheus) -> None:
    """What a dashboard lets its reader choose from is there to choose: jobs, and all teams."""
    asked = 0
    for board in BOARDS.values():
        for variable in board["templating"]["list"]:
            if variable["type"] != "query":
                continue
            series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            found = prometheus.get(f"label/{label}/values", **{"match[]": series.replace("$job", "gateway")})
            assert set(found) == ({"gateway"} if label == "job" else {"design", "free", "research"})
            asked += 1
    assert asked == 5


@pytest.mark.slow
@pytest.mark.debian("prometheus")
@pytest.mark.usefixtures("traffic")
def test_every_rule_can_be_evaluated(prometheus: Prometheus) -> None:
    """Prometheus finds no rule that fails on the gateway's own series, such as by labels that do not match."""

    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), seconds=PATIENCE)
    assert [rule["name"] for rule in rules() if rule["health"] != "ok"] == []
    assert len(rules()) > 30


@pytest.mark.parametrize("name", ["cost", "operators", "teams"])
def test_a_dashboard_can_be_imported(name: str) -> None:
    """It has a fixed uid, a datasource that its reader chooses, a unit on each panel, and no panel upon another."""
    board = BOARDS[name]
    assert board["uid"] == f"image-gateway-{name}"
    assert "id" not in board
    (chosen,) = (variable for variable in board["templating"]["list"] if variable["type"] == "datasource")
    assert chosen["query"] == "prometheus"
    source = {"type": "prometheus", "uid": f"${{{chosen['name']}}}"}
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in panels(board):
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_the_dashboards_are_those() -> None:
    """One for the teams' usage, one for operators, one for cost."""
    assert sorted(BOARDS) == ["cost", "operators", "teams"]
