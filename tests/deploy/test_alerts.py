"""Prometheus's own tools read the rules, and each alert fires when it should and keeps quiet when it should not."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.deploy.alert_cases import CASES, Case, Series

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
RULES = DEPLOY / "prometheus"
RUNBOOK = "https://git.example.com/image-gateway/deploy/README.md#"

pytestmark = pytest.mark.debian("prometheus")


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, check=False)


def alerts() -> dict[str, Any]:
    """Each alert's rule by its name."""
    groups = YAML(typ="safe").load((RULES / "alerts.yaml").read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have on a code host."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_prometheus_takes_the_rules() -> None:
    """`promtool` has no objection to the rules, nor to the configuration that names them."""
    for words in (
        ("rules", *map(str, (RULES / name for name in ("recording.yaml", "alerts.yaml")))),
        ("config", str(RULES / "prometheus.yaml")),
    ):
        checked = promtool("check", *words)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_case_and_a_runbook() -> None:
    """No alert is untested, and each leads to a section of the operators' page that is there."""
    known = alerts()
    assert sorted(case.alert for case in CASES) == sorted(known)
    headings = anchors(DEPLOY / "README.md")
    for name, rule in known.items():
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOK}{name.lower()}"
        assert name.lower() in headings


def promtools(case: Case, series: Series, fired: list[dict[str, Any]]) -> dict[str, Any]:
    """One of promtool's tests: of these series, what has fired."""
    return {
        "interval": case.interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": fired}],
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_when_it_should_and_only_then(case: Case, tmp_path: Path) -> None:
    """It fires, once, with its labels and in words a person understands; and not on the nearest harmless thing."""
    fired = {
        "exp_labels": {**case.job, **case.labels, "severity": case.severity},
        "exp_annotations": {"summary": case.summary, "runbook_url": f"{RUNBOOK}{case.alert.lower()}"},
    }
    tests = {
        "rule_files": [str(RULES / "recording.yaml"), str(RULES / "alerts.yaml")],
        "evaluation_interval": case.interval,
        "tests": [
            promtools(case, case.fires, [fired]),
            *(promtools(case, series, []) for series in (case.quiet, case.also_quiet) if series),
        ],
    }
    with (tmp_path / "tests.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(tests, file)
    checked = promtool("test", "rules", str(tmp_path / "tests.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
