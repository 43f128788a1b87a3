"""What a machine may lack, said by markers, and the rule that on CI nothing may be lacking.

A test that needs a program of a Debian package, or node and its packages, is skipped where they are missing, by a
reason that names them. With ``CI=true`` every skip is a failure with the same reason: CI installs what tests need.
"""

import os
import shutil
import signal
from collections.abc import Generator

import pytest

#: The program that shows that a Debian package is there, where it has another name.
PROGRAMS = {"prometheus": "promtool", "nodejs": "node", "systemd": "systemd-analyze"}

# A shell has what it runs in its background ignore interrupts, and so would all that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = [
        package
        for marker in item.iter_markers("debian")
        for package in marker.args
        if shutil.which(PROGRAMS.get(package, package)) is None
    ]
    if item.get_closest_marker("npm") is not None:
        missing += [package for package in ("nodejs", "npm") if shutil.which(PROGRAMS.get(package, package)) is None]
    if missing:
        pytest.skip(f"needs the Debian package {' and '.join(missing)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_on_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_on_ci(report)
    return report


def _fail_on_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure is reported as a skip as well, but it did run.
    if os.environ.get("CI") == "true" and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"On CI nothing is skipped. {reason}"
