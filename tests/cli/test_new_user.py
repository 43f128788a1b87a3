"""As somebody who has never seen the gateway: from an empty folder to a monthly report, by commands and an editor."""

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gateway.core.keys import looks_like_key
from tests.support.running import NO_TLS, free_port
from tests.support.simulated import API_KEY, SimulatorThread, running_simulator
from tests.support.site import wait_until

GATEWAY = [sys.executable, "-m", "gateway"]


class Desk:
    """A folder, a keyboard and an editor. The config is found as ./config.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.environ = {name: value for name, value in os.environ.items() if name != "GATEWAY_CONFIG"}

    def calls(self, *words: str) -> str:
        """Standard output of a command that must do well."""
        done = subprocess.run(
            [*GATEWAY, *words],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def edits(self, old: str, new: str) -> None:
        text = self.config.read_text("utf-8")
        assert text.count(old) == 1, old
        self.config.write_text(text.replace(old, new), "utf-8")

    @contextmanager
    def serves(self, url: str) -> Iterator[None]:
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*GATEWAY, "serve"], cwd=self.folder, env=self.environ, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            wait_until(lambda: answers(url), seconds=20)
            yield
        finally:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", verify=NO_TLS).status_code == 200
    except httpx.TransportError:
        return False


def curl(url: str, key: str) -> int:
    """The status of an order as the page shows it."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/v1/images/generations"]
    command += ["-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json"]
    done = subprocess.run(
        [*command, "-d", '{"prompt": "A lighthouse at dusk"}'], capture_output=True, text=True, timeout=30, check=True
    )
    return int(done.stdout)


@contextmanager
def colleagues(order: Callable[[], int]) -> Iterator["Counter[int]"]:
    """Two who order all the time; how their orders ended."""
    statuses: Counter[int] = Counter()
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            statuses[order()] += 1

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def settled(desk: Desk, simulator: SimulatorThread) -> bool:
    total = json.loads(desk.calls("usage", "--json"))["total"]
    return (total["images"], total["unknown"]) == (simulator.record.totals.images_made, 0)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.debian("curl")
def test_from_an_empty_folder_to_a_monthly_report(tmp_path: Path) -> None:
    """Each step by what the page and --help say; no order of the others fails while limit and keys are changed."""
    desk, public, admin = Desk(tmp_path), free_port(), free_port()
    url = f"http://127.0.0.1:{public}"
    with running_simulator() as simulator:
        first = desk.calls("init", "--team", "design", "--contact", "ann@example.com", "--images", "2").strip()
        desk.edits("0.0.0.0:8080 ", f"127.0.0.1:{public} ")
        desk.edits("127.0.0.1:9464 ", f"127.0.0.1:{admin} ")
        desk.edits("upstream:  ", f"upstream:\n  base_url: {simulator.base_url}\n  ")
        ci = desk.calls("keys", "new", "--team", "design", "--id", "ci", "--write").strip()
        assert looks_like_key(first)
        assert looks_like_key(ci)
        desk.calls("check", "--strict")
        desk.environ["THREEXCODER_API_KEY"] = API_KEY
        with desk.serves(url):
            desk.calls("doctor")
            desk.calls("explain", "--team", "design", "-n", "2")
            told = [curl(url, ci) for _ in range(3)]
            assert told == [200, 200, 429]

            def refused() -> bool:
                told.append(curl(url, ci))
                return told[-1] == 401

            with httpx.Client(verify=NO_TLS, headers={"authorization": f"Bearer {first}"}, timeout=20) as client:

                def order() -> int:
                    return client.post(f"{url}/v1/images/generations", json={"prompt": "a pier"}).status_code

                with colleagues(order) as statuses:
                    wait_until(lambda: statuses[429])
                    desk.edits("{images: 2, per: day}", "{images: 100000, per: day}")
                    wait_until(lambda: statuses[200] > 5)
                    assert not refused()

                    desk.config.write_text(re.sub(r"\n.*id: \"ci\".*", "", desk.config.read_text("utf-8")), "utf-8")
                    wait_until(refused)

                    words = ["keys", "rotate", "--team", "design", "--id", "first", "--overlap", "1d", "--write"]
                    second = desk.calls(*words).strip()
                    wait_until(lambda: curl(url, second) == 200)
                    assert curl(url, first) == 200
                    served = statuses[200]
                    wait_until(lambda: statuses[200] > served)
                assert set(statuses) == {200, 429}

            wait_until(lambda: settled(desk, simulator))
            report = desk.calls("usage", "--by", "team,key", "--format", "csv").splitlines()
            assert report[0] == "team,key,images,delivered,unknown,usd,usd_unknown"
            assert [line.split(",")[:2] for line in report[1:]] == [
                ["design", "ci"],
                ["design", "first"],
                ["design", "first-2"],
            ]
            made = told.count(200)
            assert report[1].split(",")[2:5] == [str(made), str(made), "0"]
            assert float(report[1].split(",")[5]) == round(0.04 * made, 2)
        listed = json.loads(desk.calls("keys", "list", "--json"))
        assert [(key["id"], key["state"]) for key in listed] == [("first", "expiring"), ("first-2", "active")]
        log = (tmp_path / "log").read_text("utf-8")
        assert not any(secret in log for secret in (first, ci, second, API_KEY))
