"""A real gateway for tests: the `serve` command with gunicorn workers, over real sockets, on a config of the test's.

with running_simulator() as simulator, running_gateway(upstream=simulator.base_url) as gateway:
    httpx.post(f"{gateway.url}/v1/images/generations", headers=gateway.auth(), json={"prompt": "x"})
"""

import contextlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from gateway.core import keys
from tests.support.simulated import API_KEY

#: One secret for each team of `base_config`, made once for a test run.
SECRETS = {team: keys.make(os.urandom(keys.RANDOM_BYTES)) for team in ("design", "research", "free")}

UPSTREAM_KEY = API_KEY

START_LIMIT = 20.0  # seconds
END_LIMIT = 20.0

NO_TLS = False  # for httpx: loading certificates takes a twentieth of a second each time, and nothing here has TLS


def base_config(*, upstream: str, workers: int = 1) -> dict[str, Any]:
    """A config that binds little: `free` is unlimited, `design` may make 10 images a day, `research` 37.

    Ports are 0 here and are filled in by `running_gateway`.
    """

    def key(team: str) -> list[dict[str, str]]:
        return [{"id": "test", "sha256": keys.digest(SECRETS[team]).hex()}]

    prices = {"1024x1024": "0.040", "1792x1024": "0.080", "1024x1792": "0.080"}
    return {
        "timezone": "UTC",
        "contact": "image-gateway@example.com",
        "listen": {"public": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers},
        "upstream": {
            "base_url": upstream,
            "accounts": [{"name": "main", "api_key": "env:TEST_UPSTREAM_KEY", "max_concurrent": 1000}],
        },
        "store": {"kind": "embedded", "data_dir": "./data"},
        "default_model": "dall-e-3",
        "models": {
            "dall-e-3": {
                "upstream_name": "dall-e-3",
                "endpoints": ["generations", "edits"],
                "sizes": list(prices),
                "qualities": ["standard", "hd"],
                "default_size": "1024x1024",
                "default_quality": "standard",
                "max_n": 10,
                "edits": {"quality": "standard", "max_images": 1},
                "price_usd": {"standard": {**prices}, "hd": {**prices, "1024x1024": "0.080"}},
                "parameters": {"user": "string"},
                "ignore": ["background", "moderation"],
            }
        },
        "teams": {
            "design": {"keys": key("design"), "quotas": [{"images": 10, "per": "day"}]},
            "research": {"keys": key("research"), "quotas": [{"images": 37, "per": "day"}]},
            "free": {"keys": key("free"), "unlimited": True},
        },
    }


@dataclass(slots=True)
class Running:
    """A gateway that runs. folder holds its config and its data, and outlives a restart.

    ulimit: a limit that it is started with, in the shell's words: "-n 128", or "-S -n 128" for the soft one alone.
    module: what Python runs, with its first arguments, in the place of the `gateway` command.
    """

    folder: Path
    config: dict[str, Any]
    url: str = ""
    admin_url: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    ulimit: str = ""
    module: Sequence[str] = ("gateway",)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def auth(self, team: str = "free") -> dict[str, str]:
        return {"authorization": f"Bearer {SECRETS[team]}"}

    def start(self) -> None:
        """Write the config and run `gateway serve` on it until it is ready."""
        stream = io.StringIO()
        YAML().dump(plain_numbers(self.config), stream)
        path = self.folder / "config.yaml"
        path.write_text(stream.getvalue(), "utf-8")
        limited = ["sh", "-c", f'ulimit {self.ulimit} && exec "$@"', "sh"] if self.ulimit else []
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*limited, sys.executable, "-m", *self.module, "serve", "--config", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TEST_UPSTREAM_KEY": UPSTREAM_KEY, **self.environ},
                start_new_session=True,
            )
        ends = time.monotonic() + START_LIMIT
        while time.monotonic() < ends and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=2, verify=NO_TLS).status_code == 200:
                    return
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"the gateway did not start:\n{self.log_text()[-4000:]}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as an operator would; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the gateway did not end:\n{self.log_text()[-4000:]}") from None

    def kill(self) -> None:
        """End it and every worker and store of it without a word."""
        assert self.process is not None
        pid = self.process.pid
        children: list[str] = []
        with contextlib.suppress(OSError):  # the store is among them, and in no group of the gateway's
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self.process.wait()

    def log_text(self) -> str:
        """All lines that are whole: one that is being written is seen up to the end of a page of the file."""
        text = (self.folder / "gateway.log").read_text("utf-8", "replace")
        return text[: text.rfind("\n") + 1]

    def requests_logged(self) -> list[dict[str, Any]]:
        """The log lines of requests to the image endpoints, oldest first."""
        lines = [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == "request" and line.get("endpoint") != "other"]

    def metric(self, name: str, **labels: str) -> float:
        """The sum over /metrics of the samples with this name and these labels."""
        (total,) = self.metrics(name, **labels)
        return total

    def metrics(self, *names: str, **labels: str) -> tuple[float, ...]:
        """The same for several names, of one moment."""
        text = httpx.get(f"{self.admin_url}/metrics", timeout=10, verify=NO_TLS).text
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [  # the parser takes its time, so it is given nothing in vain
            line for line in text.splitlines() if line.startswith(names) and all(label in line for label in wanted)
        ]
        totals = dict.fromkeys(names, 0.0)
        for sample, found, value in _samples("\n".join([*lines, ""])):
            if sample in totals and labels.items() <= found.items():
                totals[sample] += value
        return tuple(totals[name] for name in names)


@contextlib.contextmanager
def running_gateway(
    *,
    upstream: str = "",
    config: Mapping[str, Any] | None = None,
    workers: int = 1,
    environ: Mapping[str, str] | None = None,
    ulimit: str = "",
    module: Sequence[str] = ("gateway",),
    start: bool = True,
) -> Iterator[Running]:
    """Run a gateway for the block's time. config: the whole of it, by default `base_config` on `upstream`."""
    with tempfile.TemporaryDirectory(prefix="gateway-test-") as name:
        whole = dict(config) if config is not None else base_config(upstream=upstream, workers=workers)
        public, admin = free_port(), free_port()
        whole["listen"] = {**whole["listen"], "public": f"127.0.0.1:{public}", "admin": f"127.0.0.1:{admin}"}
        running = Running(
            Path(name),
            whole,
            f"http://127.0.0.1:{public}",
            f"http://127.0.0.1:{admin}",
            dict(environ or {}),
            ulimit,
            module,
        )
        try:
            if start:
                running.start()
            yield running
        finally:
            if running.process is not None and running.process.poll() is None:
                running.stop()


def free_port() -> int:
    """One that nobody has: below those that the system gives to connections, and each only once."""
    while True:
        port = random.SystemRandom().randrange(10_240, 32_768)
        with socket.socket() as listener:
            if port not in _GIVEN and listener.connect_ex(("127.0.0.1", port)) != 0:
                _GIVEN.add(port)
                return port


_GIVEN: set[int] = set()


def plain_numbers(config: Any) -> Any:
    """Prices are strings in Python, so that no float comes between; in YAML they are plain numbers."""
    if isinstance(config, dict):
        return {
            name: _price_table(value) if name == "price_usd" else plain_numbers(value) for name, value in config.items()
        }
    return [plain_numbers(item) for item in config] if isinstance(config, list) else config


def _price_table(table: Any) -> Any:
    return {quality: {size: float(Decimal(price)) for size, price in sizes.items()} for quality, sizes in table.items()}


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
