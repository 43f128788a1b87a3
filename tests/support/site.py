"""A gateway before a simulator, for tests that come as a team's own program would: by address and key."""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from PIL import Image

from gateway.core import keys
from gateway.simulator.record import RecordedRequest
from tests.simulator.pictures import decoded
from tests.support.running import NO_TLS, SECRETS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator

_T = TypeVar("_T")

_DOCUMENT = Path(__file__).parent.parent / "data" / "clients" / "documented.md"


@dataclass(frozen=True, slots=True)
class Site:
    """Both, with what a test asks of them again and again."""

    gateway: Running
    simulator: SimulatorThread

    @property
    def base_url(self) -> str:
        return f"{self.gateway.url}/v1"

    def key(self, team: str = "free") -> str:
        return SECRETS[team]

    def environ(self, team: str = "free") -> dict[str, str]:
        """This process's environment with the team's key where OpenAI's clients look for one."""
        return {**os.environ, "OPENAI_API_KEY": self.key(team)}

    def only_request(self) -> RecordedRequest:
        """The one request that the upstream was sent since `fresh`."""
        (request,) = self.simulator.record.requests
        return request

    @property
    def made(self) -> int:
        """Images that the upstream made since `fresh`."""
        return self.simulator.record.totals.images_made

    def fresh(self) -> None:
        self.simulator.simulator.clear_script()
        self.simulator.record.clear()

    def count(self, team: str, **labels: str) -> "Count":
        return Count(self.gateway, {"team": team, **labels})


class Count:
    """How many requests and images of a team the gateway has counted since this was made."""

    def __init__(self, gateway: Running, labels: Mapping[str, str]) -> None:
        self._gateway, self._labels = gateway, labels
        self._before = self._now()

    def is_at_last(self, *, requests: int, images: int = 0) -> bool:
        """Wait till that many requests have ended; whether there are no more, and exactly so many images charged.

        A request is counted when its last byte is out, which its client may have read a moment earlier.
        """
        return wait_until(lambda: (now := self._since())[0] >= requests and now) == (requests, images)

    def _since(self) -> tuple[float, float]:
        now = self._now()
        return now[0] - self._before[0], now[1] - self._before[1]

    def _now(self) -> tuple[float, ...]:
        return self._gateway.metrics("gateway_requests_total", "gateway_images_total", **self._labels)


def picture(url: str) -> Image.Image:
    """The PNG that is there, decoded."""
    return decoded(httpx.get(url, timeout=10, verify=NO_TLS).raise_for_status().content)


def wait_until(holds: Callable[[], _T], *, seconds: float = 10.0, interval: float = 0.01) -> _T:
    """Look again and again till it is true, which is returned; AssertionError when it is not in that time."""
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends, f"after {seconds} s it still does not hold"
        time.sleep(interval)
    return found


@contextmanager
def running_site(
    *, teams: Mapping[str, Mapping[str, Any]] | None = None, workers: int = 1, keep_raw: bool = False
) -> Iterator[Site]:
    """A site for the block's time. teams: more teams beside `base_config`'s; each gets a key and, if it names no
    quotas, has no limits.
    """
    with running_simulator(keep_raw=keep_raw) as simulator:
        config = base_config(upstream=simulator.base_url, workers=workers)
        for name, settings in (teams or {}).items():
            config["teams"][name] = team(name, settings)
        with running_gateway(config=config) as gateway:
            yield Site(gateway, simulator)


def team(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A team's part of a config, with a key that `Running.auth` and `Site.key` know."""
    secret = SECRETS.setdefault(name, keys.make(os.urandom(keys.RANDOM_BYTES)))
    limits = {} if "quotas" in settings else {"unlimited": True}
    return {"keys": [{"id": "test", "sha256": keys.digest(secret).hex()}], **limits, **settings}


def documented(language: str, *, containing: str) -> str:
    """The example of the API document in that language that has these words."""
    blocks: Sequence[str] = re.findall(rf"```{language}\n(.*?)```", _DOCUMENT.read_text("utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return found
