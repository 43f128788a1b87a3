"""`gateway demo`: one command on a machine with nothing but this package."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import pytest
from PIL import Image, ImageChops

from tests.support.processes import Family, family, seconds_until
from tests.support.running import NO_TLS, free_port
from tests.support.site import picture, wait_until

pytestmark = pytest.mark.slow

GATEWAY = [sys.executable, "-m", "gateway"]
END_LIMIT = 40.0  # seconds

#: The same, told to end in the moment in which Python forks, where it ignores what a signal's handler raises.
TOLD_WHILE_IT_FORKS = """
import os, signal
from gateway.cli.main import main
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGTERM))
main()
"""


@pytest.fixture
def kin() -> Iterator[Family]:
    with family() as found:
        (found.folder / "here").mkdir()
        yield found


@contextmanager
def demo(kin: Family, *words: str, gateway: Sequence[str] = GATEWAY) -> Iterator["subprocess.Popen[str]"]:
    """`gateway demo` in a folder of its own, as from a terminal; what it says can be read from its stdout."""
    with subprocess.Popen(
        [*gateway, "demo", *words],
        cwd=kin.folder / "here",
        env={**os.environ, **kin.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            kin.kill()


def read_to_end_of_help(process: "subprocess.Popen[str]") -> str:
    """What it prints once it is ready, whose last line names Ctrl-C."""
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if line.startswith("Ctrl-C"):
            return told
    raise AssertionError(f"it ended early: {told}")


def nothing_left(kin: Family) -> bool:
    """No process, and nothing where temporary files or sockets go."""
    return (kin.alive(), list(kin.temporary.iterdir()), list(kin.runtime.iterdir())) == ({}, [], [])


def test_once_makes_a_picture_and_an_edit(kin: Family) -> None:
    """`demo --once` saves two PNGs of 1024x1024, tells paths and charges, exits 0, and leaves nothing but them."""
    with demo(kin, "--once") as process:
        told, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")
    folder = kin.folder / "here" / "gateway-demo"
    assert told.splitlines() == [
        f"generation: {folder / 'generation.png'} (1024x1024), charged $0.04",
        f"edit: {folder / 'edit.png'} (1024x1024), charged $0.04",
        "Team design has used 2 images, $0.08, today.",
    ]
    with Image.open(folder / "generation.png") as first, Image.open(folder / "edit.png") as second:
        assert first.format == second.format == "PNG"
        assert first.size == second.size == (1024, 1024)
        changed = ImageChops.difference(first.convert("RGB"), second.convert("RGB")).getbbox()
    assert changed == (0, 0, 1024, 512), "the edit paints in its mask's hole, the upper half"
    assert sorted(path.name for path in folder.parent.rglob("*.png")) == ["edit.png", "generation.png"]
    assert nothing_left(kin)


@pytest.mark.debian("curl")
def test_its_lines_run_as_they_stand_and_ctrl_c_ends_it(kin: Family) -> None:
    """Both curl lines and the Python lines work as printed, both keys too; Ctrl-C ends all with exit 0."""
    port = free_port()
    with demo(kin, "--port", str(port)) as process:
        told = read_to_end_of_help(process)
        url = f"http://127.0.0.1:{port}"
        assert told.startswith(f"\nThe gateway listens on {url}\n")

        lines = re.findall(r"^  curl .*\n(?:    .*\n)+", told, re.MULTILINE)
        assert [line.split()[1] for line in lines] == [f"{url}/v1/images/generations", f"{url}/v1/images/edits"]
        for line in lines:
            assert picture(_url(run(["bash", "-c", textwrap.dedent(line)]))).size == (1024, 1024)

        program = re.search(r"^  from openai import .*\n(?:  .*\n)+", told, re.MULTILINE)
        assert program is not None
        urls = run([sys.executable, "-c", textwrap.dedent(program[0])]).split()
        assert [picture(made).size for made in urls] == [(1024, 1024)] * 2

        keys = re.findall(r"key for team (\w+): +(\S+)", told)
        assert [team for team, _ in keys] == ["design", "research"]
        for team, key in keys:
            answer = httpx.get(f"{url}/v1/usage", headers={"authorization": f"Bearer {key}"}, verify=NO_TLS)
            assert (answer.json()["team"], answer.json()["today"]["images"]) == (team, 4 if team == "design" else 0)
        metrics = re.search(r"http://\S+/metrics", told)
        assert metrics is not None
        assert "gateway_images_total{" in httpx.get(metrics[0], verify=NO_TLS).text

        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=END_LIMIT)
    assert (process.returncode, rest, complaints) == (0, "\nEnding.\n", "")
    assert nothing_left(kin)


def run(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _url(answer: str) -> str:
    found = re.search(r'"url": ?"([^"]+)"', answer)
    assert found is not None, answer
    return found[1]


def test_a_termination_while_it_starts_leaves_nothing(kin: Family) -> None:
    """SIGTERM as soon as the demo has started a process: it ends, and neither a process nor a folder is left."""
    with demo(kin, "--port", str(free_port())) as process:
        wait_until(lambda: kin.children(process.pid))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=END_LIMIT)
    assert nothing_left(kin)


def test_a_termination_is_heard_while_a_process_is_started(kin: Family) -> None:
    """SIGTERM in the middle of a fork: it ends as well, before the second process, and the first one ends with it."""
    with demo(kin, "--port", str(free_port()), gateway=[sys.executable, "-c", TOLD_WHILE_IT_FORKS]) as process:
        told, _ = process.communicate(timeout=END_LIMIT)
    assert process.returncode != 0
    assert "Ctrl-C" not in told
    assert nothing_left(kin)


def test_a_killed_demo_leaves_no_process(kin: Family) -> None:
    """After SIGKILL of the demo its gateway, store and simulator end by themselves within seconds."""
    with demo(kin, "--port", str(free_port())) as process:
        read_to_end_of_help(process)
        assert len(kin.alive()) == 6, "the demo, the simulator, a master, two workers and a store"
        process.kill()
        process.wait()
        seconds_until(kin, limit=10)
        process.communicate()
    assert list(kin.runtime.iterdir()) == []
    assert [path.name.rsplit("-", 1)[0] for path in kin.temporary.iterdir()] == ["gateway-demo"], "its own folder alone"


def test_a_taken_port_is_said(kin: Family) -> None:
    """On a port that is taken the demo says so in one sentence, exits 1 and leaves nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with demo(kin, "--port", str(port)) as process:
            told, complaints = process.communicate(timeout=60)
    assert (process.returncode, told) == (1, "")
    assert complaints == f"Port {port} on 127.0.0.1 is taken; choose another with --port.\n"
    assert nothing_left(kin)
