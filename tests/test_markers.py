"""What becomes of a test that cannot run here, on a developer's machine and on CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = '''
import pytest

@pytest.mark.debian("no-such-package")
def test_without_its_package():
    """Needs what nobody has."""

@pytest.mark.xfail(reason="known", strict=True)
def test_that_fails_as_expected():
    """An expected failure is no skip."""
    assert False

def test_that_runs():
    """One that needs nothing."""
'''


def run(folder: Path, *, ci: str) -> tuple[int, str]:
    """Run these tests under the suite's own conftest and options; exit status and output."""
    root = Path(__file__).parent.parent
    (folder / "conftest.py").write_text((root / "tests" / "conftest.py").read_text("utf-8"), "utf-8")
    (folder / "pyproject.toml").write_text((root / "pyproject.toml").read_text("utf-8"), "utf-8")
    (folder / "test_it.py").write_text(TESTS, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py"],
        cwd=folder,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_skip_names_its_package_and_fails_on_ci(tmp_path: Path, ci: str) -> None:
    """Without its Debian package a test is skipped, and on CI the same is a failure; both name the package."""
    status, output = run(tmp_path, ci=ci)
    assert "needs the Debian package no-such-package" in output
    counts = "1 passed, 1 xfailed, 1 error" if ci else "1 passed, 1 skipped, 1 xfailed"
    assert counts in output
    assert status == (1 if ci else 0)
