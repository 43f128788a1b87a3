"""The shell completes commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

GATEWAY = Path(sys.executable).with_name("gateway")


@pytest.mark.parametrize(("typed", "completed"), [("gateway us", "usage"), ("gateway keys ro", "rotate")])
def test_a_command_is_completed(typed: str, completed: str) -> None:
    """What bash is told by the script that `gateway --install-completion` puts in place."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_GATEWAY_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [GATEWAY], env={**os.environ, **words}, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == [completed]


def test_completion_can_be_installed(tmp_path: Path) -> None:
    """The script goes into the user's home and calls the command."""
    environ = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    subprocess.run([GATEWAY, "--install-completion", "bash"], env=environ, capture_output=True, timeout=30, check=True)
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert "_GATEWAY_COMPLETE" in script.read_text("utf-8")
