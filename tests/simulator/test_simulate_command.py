"""`gateway simulate` as a process: it says where it is, serves, and ends when told to."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.support.simulated import SimulatorThread

COMMAND = (sys.executable, "-c", "import typer; from gateway.cli.simulate import simulate; typer.run(simulate)")


@contextmanager
def simulating(*options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The process, and the base URL from the first line it prints."""
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/v1", process.stdout.readline())
            assert found is not None
            yield process, found.group()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_till_a_signal_and_exits_0(number: signal.Signals) -> None:
    """With the given key it generates; Ctrl-C and SIGTERM both end it in order."""
    with simulating("--port", "0", "--api-key", "sk-mine") as (process, base_url):
        answer = httpx.post(
            f"{base_url}/images/generations", headers={"Authorization": "Bearer sk-mine"}, json={"prompt": "a cat"}
        )
        assert answer.status_code == 200
        process.send_signal(number)
        assert process.wait(10) == 0


def test_a_taken_port_is_one_line_and_exit_1(simulator: SimulatorThread) -> None:
    """The address stands in the message, and no traceback."""
    ended = subprocess.run(
        [*COMMAND, "--port", str(simulator.port)], capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{simulator.port}" in ended.stderr
    assert "Traceback" not in ended.stderr
