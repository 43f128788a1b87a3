"""A gateway with a simulated upstream, two teams and a store of its own, in a folder that goes away afterwards.

The gateway is the very one that `gateway serve` runs: only its config and its upstream are made here.
"""

import base64
import ctypes
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from gateway.core import keys

try:
    from PIL import Image
except ImportError as missing:  # pragma: no cover  needs an environment without the extra
    raise SystemExit("The demo needs Pillow and a store: pip install 'image-gateway[demo]'") from missing

_START_LIMIT = 30.0  # seconds until both processes answer
_END_LIMIT = 15.0  # seconds until they have ended before they are killed

_CONFIG = """\
contact: the people who run this demo
listen:
  public: 127.0.0.1:{port}
  admin: 127.0.0.1:{admin_port}
  workers: 2
upstream:
  base_url: http://127.0.0.1:{upstream_port}/v1
  accounts:
    - {{name: simulator, api_key: env:GATEWAY_DEMO_UPSTREAM_KEY, max_concurrent: 100}}
store:
  kind: embedded
  data_dir: ./data
default_model: dall-e-3
models:
  dall-e-3:
    upstream_name: dall-e-3
    endpoints: [generations, edits]
    sizes: [1024x1024, 1792x1024, 1024x1792]
    qualities: [standard, hd]
    default_size: 1024x1024
    default_quality: standard
    max_n: 10
    edits: {{quality: standard, max_images: 1}}
    price_usd:
      standard: {{1024x1024: 0.040, 1792x1024: 0.080, 1024x1792: 0.080}}
      hd: {{1024x1024: 0.080, 1792x1024: 0.120, 1024x1792: 0.120}}
    parameters: {{user: string}}
    ignore: [background, moderation]
plans:
  small:
    quotas:
      - {{images: 100, per: day}}
      - {{requests: 30, per: minute}}
      - {{concurrent: 4, wait: 30s}}
teams:
  design:
    plan: small
    keys:
      - {{id: demo, sha256: "{design}"}}
    quotas:
      - {{images: 40, per: day, quality: hd}}
      - {{usd: 40, per: month, warn_at: [50%, 80%]}}
  research:
    plan: small
    sizes: [1024x1024]
    keys:
      - {{id: demo, sha256: "{research}"}}
organization:
  quotas:
    - {{usd: 420, per: month}}
"""


class DemoError(Exception):
    """The demo cannot run; the message says why."""


@dataclass(frozen=True, slots=True)
class Made:
    """One image that the demo made through itself. cost_usd as the gateway's header says it."""

    what: str
    path: Path
    width: int
    height: int
    cost_usd: str


class Demo:
    """Runs while the context is entered. port 0 takes free ones, also for the admin listener."""

    team = "design"
    other_team = "research"

    def __init__(self, folder: Path, *, port: int) -> None:
        self._folder = folder
        self.key, self.other_key = keys.make(os.urandom(keys.RANDOM_BYTES)), keys.make(os.urandom(keys.RANDOM_BYTES))
        self._upstream_key = keys.make(os.urandom(keys.RANDOM_BYTES))
        self._upstream_port = _free_port()
        public = _free_port(port)
        if port not in (0, public):
            raise DemoError(f"Port {port} on 127.0.0.1 is taken; choose another with --port.")
        admin = _free_port(9464 if port else 0)
        self.url, self.admin_url = f"http://127.0.0.1:{public}", f"http://127.0.0.1:{admin}"
        self._config = _CONFIG.format(
            port=public,
            admin_port=admin,
            upstream_port=self._upstream_port,
            design=keys.digest(self.key).hex(),
            research=keys.digest(self.other_key).hex(),
        )
        self.photo = folder / "photo.png"  #: a picture to edit, for whoever has none at hand
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.photo.write_bytes(_picture())
        path = self._folder / "config.yaml"
        path.write_text(self._config, "utf-8")
        try:
            self._start("simulate", "--port", str(self._upstream_port), log="simulator")
            self._start("serve", "--config", str(path), log="gateway")
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def wait(self) -> None:
        """Until one of the processes ends by itself, which is an error."""
        while all(process.poll() is None for process in self._processes):
            time.sleep(0.2)
        raise DemoError(f"The demo ended by itself.\n{self._last_words()}")

    def make_both(self, folder: Path) -> list[Made]:
        """A generation, and an edit of its upper half, saved as PNG files."""
        folder.mkdir(exist_ok=True)
        with httpx.Client(
            trust_env=False, base_url=f"{self.url}/v1", headers={"authorization": f"Bearer {self.key}"}, timeout=60
        ) as http:
            generated = http.post(
                "/images/generations", json={"prompt": "A lighthouse at dusk", "response_format": "b64_json"}
            )
            first = _saved(generated, "generation", folder / "generation.png")
            image = first.path.read_bytes()
            files = {"image": ("image.png", image, "image/png"), "mask": ("mask.png", _mask(image), "image/png")}
            form = {"prompt": "Add a rainbow in the sky", "response_format": "b64_json"}
            edited = http.post("/images/edits", files=files, data=form)
            return [first, _saved(edited, "edit", folder / "edit.png")]

    def usage(self) -> dict[str, Any]:
        """What the team's own ``GET /v1/usage`` says."""
        headers = {"authorization": f"Bearer {self.key}"}
        answer = httpx.get(f"{self.url}/v1/usage", headers=headers, trust_env=False)
        told: dict[str, Any] = answer.json()
        return told

    def _start(self, *words: str, log: str) -> None:
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with (self._folder / f"{log}.log").open("wb") as output:
            try:
                # Until the process is known here: an end that is asked for while Python forks would be lost in its
                # callbacks, whose exceptions are ignored, or would leave the process behind.
                signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
                self._processes.append(
                    subprocess.Popen(  # noqa: S603  our own command
                        [sys.executable, "-m", "gateway", *words],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env={
                            **os.environ,
                            "GATEWAY_DEMO_UPSTREAM_KEY": self._upstream_key,
                            "GATEWAY_SIMULATOR_KEY": self._upstream_key,
                        },
                        start_new_session=True,  # Ctrl-C is for the demo, which ends them in order
                        preexec_fn=partial(_begin, heard),  # noqa: PLW1509  no thread is running here
                    )
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, heard)

    def _wait_until_ready(self) -> None:
        ends = time.monotonic() + _START_LIMIT
        while time.monotonic() < ends:
            if any(process.poll() is not None for process in self._processes):
                break
            try:
                if httpx.get(f"{self.url}/readyz", timeout=1, trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise DemoError(f"The demo did not start.\n{self._last_words()}")

    def _end(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(_END_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _last_words(self) -> str:
        logs = [self._folder / f"{name}.log" for name in ("simulator", "gateway")]
        return "\n".join(log.read_text("utf-8", "replace")[-2000:] for log in logs if log.exists()).strip()


def _begin(blocked: Collection[int]) -> None:
    """In the child: it hears what the demo heard. Should that be killed, the kernel ends this process too (Linux;
    elsewhere it stays).
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _free_port(wanted: int = 0) -> int:
    """`wanted` if it is free, else any free port of the loopback."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", wanted))
        except OSError:
            return _free_port()
        port: int = listener.getsockname()[1]
        return port


def _saved(answer: httpx.Response, what: str, path: Path) -> Made:
    if not answer.is_success:
        raise DemoError(f"The {what} failed: {answer.status_code} {answer.text}")
    path.write_bytes(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    with Image.open(path) as image:
        width, height = image.size
    return Made(what, path.resolve(), width, height, answer.headers["x-gateway-cost-usd"])


def _mask(image: bytes) -> bytes:
    """A mask of the image's size whose upper half is transparent: there the edit may paint."""
    with Image.open(io.BytesIO(image)) as opened:
        width, height = opened.size
    mask = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, width, height // 2))
    out = io.BytesIO()
    mask.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _picture() -> bytes:
    """A sky over a field."""
    picture = Image.new("RGB", (512, 512), (135, 180, 230))
    picture.paste((80, 140, 70), (0, 320, 512, 512))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
