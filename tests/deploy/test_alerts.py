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
#: The groups in the order in which they are evaluated where several are due at once: left alone, promtool shuffles
#: them, and an alert may look at the ratio of one interval earlier.
ORDER = [
    group["name"]
    for name in ("recording.yaml", "alerts.yaml")
    for group in YAML(typ="safe").load((RULES / name).read_text("utf-8"))["groups"]
]
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
        "interval": f"{case.interval}m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": fired}],
    }


def pending(case: Case) -> dict[str, Any]:
    """One of promtool's questions: how often the alert was pending before it fired."""
    asked = f'sum(count_over_time(ALERTS{{alertname="{case.alert}", alertstate="pending"}}[1d]))'
    samples = [{"labels": "{}", "value": case.waits // case.interval}] if case.waits else []
    return {"promql_expr_test": [{"expr": asked, "eval_time": case.at, "exp_samples": samples}]}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_when_it_should_and_only_then(case: Case, tmp_path: Path) -> None:
    """It fires, once, after its time, with its labels and in words a person understands; and not on the nearest
    harmless thing.
    """
    fired = {
        "exp_labels": {**case.job, **case.labels, "severity": case.severity},
        "exp_annotations": {"summary": case.summary, "runbook_url": f"{RUNBOOK}{case.alert.lower()}"},
    }
    tests = {
        "rule_files": [str(RULES / "recording.yaml"), str(RULES / "alerts.yaml")],
        "evaluation_interval": f"{case.interval}m",
        "group_eval_order": ORDER,
        "tests": [
            promtools(case, case.fires, [fired]) | pending(case),
            *(promtools(case, series, []) for series in (case.quiet, case.also_quiet) if series),
        ],
    }
    with (tmp_path / "tests.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(tests, file)
    checked = promtool("test", "rules", str(tmp_path / "tests.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def burning(*spans: tuple[str, float, float], every: int) -> Series:
    """Orders of one host over time. spans: how long (`3h`), orders a minute, the share that fails.

    every: minutes between two samples.
    """
    counters = {"ok": [0.0], "upstream_error": [0.0]}
    for long, orders, share in spans:
        minutes = int(long[:-1]) * {"m": 1, "h": 60, "d": 1440}[long[-1]]
        for _ in range(minutes // every):
            for outcome, part in (("ok", 1 - share), ("upstream_error", share)):
                counters[outcome].append(counters[outcome][-1] + orders * every * part)
    name = 'gateway_requests_total{job="gateway", instance="a:9464", team="design", endpoint="edits", outcome="%s"}'
    return {name % outcome: " ".join(f"{count:g}" for count in counts) for outcome, counts in counters.items()}


FAST, SLOWLY = "GatewayErrorBudgetBurningFast", "GatewayErrorBudgetBurningSlowly"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alert", "spans", "fires"),
    [
        (FAST, [("7h", 1e4, 0.0), ("1h", 1e4, 0.08)], True),
        (FAST, [("7h", 1e4, 0.0), ("1h", 1e4, 0.065)], False),
        (FAST, [("7h", 1e4, 0.0), ("10m", 1e4, 0.2)], False),  # a hiccup
        (FAST, [("7h", 1e4, 0.0), ("50m", 1e4, 0.2), ("10m", 1e4, 0.0)], False),  # over by now
        (FAST, [("8h", 1e4, 0.035)], True),
        (FAST, [("8h", 1e4, 0.025)], False),
        (FAST, [("7h", 1e4, 0.06), ("40m", 1e4, 0.0)], False),  # over by now
        (SLOWLY, [("3d", 2e4, 0.0), ("1d", 1e4, 0.016)], True),
        (SLOWLY, [("3d", 2e4, 0.0), ("1d", 1e4, 0.014)], False),
        (SLOWLY, [("3d", 2e4, 0.0), ("21h", 1e4, 0.018), ("3h", 1e4, 0.0)], False),  # over by now
        (SLOWLY, [("3d", 2e4, 0.0), ("4h", 1e4, 0.04)], False),  # for too short a time
        (SLOWLY, [("4d", 1e4, 0.006)], True),
        (SLOWLY, [("4d", 1e4, 0.004)], False),
        (SLOWLY, [("4d", 1e4, 0.014), ("7h", 1e4, 0.0)], False),  # over by now
    ],
)
def test_the_budgets_alerts_look_at_two_windows_each(
    alert: str, spans: list[tuple[str, float, float]], fires: bool, tmp_path: Path
) -> None:
    """The shares of failed orders stand where the pages of the books have them (14.4, 6, 3 and 1 times 0.5 %), just
    above and just below, and what is over by now is told of no more.
    """
    every = 2 if alert == FAST else 15
    series = burning(*spans, every=every)
    end = (len(next(iter(series.values())).split()) - 1) * every
    tests = {
        "rule_files": [str(RULES / "recording.yaml"), str(RULES / "alerts.yaml")],
        "evaluation_interval": f"{every}m",
        "group_eval_order": ORDER,
        "tests": [
            {
                "interval": f"{every}m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                        "eval_time": f"{end}m",
                        "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                    }
                ],
            }
        ],
    }
    with (tmp_path / "tests.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(tests, file)
    checked = promtool("test", "rules", str(tmp_path / "tests.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
