"""What is measured side by side: nothing in between, ours, nginx, LiteLLM without and with limits. Each runs on the
measured core alone.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis

from gateway.ledger.valkey import find_server
from tests.bench.processes import LOAD_CORE, MEASURED_CORE, Tree, started_on
from tests.bench.upstream import Upstream, wait_for_port
from tests.support.running import SECRETS, base_config, free_port, running_gateway

TEAM = "design"

_LITELLM_KEY = "sk-bench-0123456789"
_LITELLM_AUTH = f"""
from litellm.proxy._types import UserAPIKeyAuth


async def authorize(request, api_key):
    if api_key != "{_LITELLM_KEY}":
        raise ValueError("unknown key")
    return UserAPIKeyAuth(api_key=api_key, team_id="design", rpm_limit=1_000_000_000)
"""
_PROVING = 3  #: requests
_LITELLM_START = 90.0
_INSTALL_LIMIT = 900
_START = 20.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One that runs. ports: by scenario. tree: its processes but the store. rests: stopped while others are measured,
    because it is never quite idle.
    """

    name: str
    ports: Mapping[str, int]
    key: str = ""
    tree: Tree | None = None
    store: Tree | None = None
    rests: bool = False
    facts: str = field(default="", compare=False)

    def wake(self) -> None:
        if self.rests and self.tree is not None:
            _signal(self.tree, signal.SIGCONT)

    def rest(self) -> None:
        if self.rests and self.tree is not None:
            _signal(self.tree, signal.SIGSTOP)

    def settle(self) -> None:
        if self.tree is not None:
            self.tree.settle()


class Missing(Exception):
    """A variant that cannot run here; the message says what is lacking."""


def direct(upstream: Upstream) -> Variant:
    port = upstream.port
    return Variant("direct", {"generations": port, "edits": port, "answers": port})


@contextlib.contextmanager
def ours(upstream: Upstream) -> Iterator[Variant]:
    """`gateway serve`, one worker, the embedded store on the load's core, rules as a team has them, no log kept."""
    config = base_config(upstream=upstream.base_url)
    config["upstream"]["accounts"][0]["max_concurrent"] = 5000
    config["teams"] = {TEAM: {**config["teams"][TEAM], "quotas": _rules()}}
    with running_gateway(config=config, start=False) as gateway:
        (gateway.folder / "gateway.log").symlink_to(os.devnull)
        with started_on(MEASURED_CORE):
            gateway.start()
        store = Tree(gateway.pid, store=True)
        store.move(LOAD_CORE)
        port = int(gateway.url.rpartition(":")[2])
        ports = {"generations": port, "edits": port, "answers": port}
        yield Variant("ours", ports, SECRETS[TEAM], Tree(gateway.pid), store)


def _rules() -> list[dict[str, Any]]:
    """The usual kinds of rule, none of which is reached."""
    return [
        {"images": 1_000_000_000, "per": "day"},
        {"requests": 1_000_000_000, "per": "minute"},
        {"usd": 1_000_000_000, "per": "month"},
        {"concurrent": 5000},
    ]


@contextlib.contextmanager
def nginx(upstream: Upstream) -> Iterator[Variant]:
    """A reverse proxy with one worker: as it is for generations and answers, without buffers for edits."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise Missing("nginx (Debian package nginx)")
    plain, unbuffered = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as name:
        config = Path(name, "nginx.conf")
        config.write_text(_nginx_config(Path(name), upstream.port, plain, unbuffered))
        with started_on(MEASURED_CORE):
            process = subprocess.Popen([program, "-p", name, "-e", f"{name}/error.log", "-c", str(config)])
        try:
            wait_for_port(unbuffered, _START)
            ports = {"generations": plain, "edits": unbuffered, "answers": plain}
            version = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
            yield Variant("nginx", ports, tree=Tree(process.pid), facts=version.strip().rpartition(": ")[2])
        finally:
            process.terminate()
            process.wait(_START)


def _nginx_config(folder: Path, upstream: int, plain: int, unbuffered: int) -> str:
    who = "user root;" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    passing = 'proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";'
    return f"""
{who}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    {temporary}
    client_max_body_size 64m;
    keepalive_requests 100000000;
    upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 100000000; }}
    server {{ listen 127.0.0.1:{plain} backlog=4096; location / {{ {passing} }} }}
    server {{
        listen 127.0.0.1:{unbuffered} backlog=4096;
        location / {{ {passing} proxy_request_buffering off; proxy_buffering off; }}
    }}
}}
"""


@contextlib.contextmanager
def litellm(upstream: Upstream) -> Iterator[Variant]:
    """LiteLLM's proxy with a master key and one worker, no database, no limits. Installed once, beside this project."""
    with tempfile.TemporaryDirectory(prefix="bench-litellm-") as name:
        config = _litellm_config(upstream, f"general_settings: {{master_key: {_LITELLM_KEY}}}", "telemetry: false")
        with _litellm(Path(name), config) as (process, port, version):
            ports = {"generations": port, "edits": port, "answers": port}
            yield Variant("LiteLLM", ports, _LITELLM_KEY, Tree(process.pid), rests=True, facts=version)


@contextlib.contextmanager
def litellm_with_limits(upstream: Upstream) -> Iterator[Variant]:
    """The same with what it has of ours without a database: a key by a hook (`custom_auth`), whose requests a minute it
    counts in a store, which keeps nothing on disk. Generations alone.
    """
    with tempfile.TemporaryDirectory(prefix="bench-litellm-") as name, _valkey(Path(name)) as (store, store_port):
        folder = Path(name)
        (folder / "bench_auth.py").write_text(_LITELLM_AUTH)
        config = _litellm_config(
            upstream,
            "general_settings: {master_key: sk-bench-master-0123456789, custom_auth: bench_auth.authorize}",
            # No kind of call is cached: each order is an order.
            f"telemetry: false, cache: true, cache_params: {{type: redis, host: 127.0.0.1, port: {store_port},"
            " supported_call_types: []}",
        )
        with _litellm(folder, config) as (process, port, _):
            _prove_limits(upstream, port, store_port)
            ports = {"generations": port}
            yield Variant(
                "LiteLLM+limits", ports, _LITELLM_KEY, Tree(process.pid), Tree(store.pid, store=True), rests=True
            )


def _litellm_config(upstream: Upstream, general: str, settings: str) -> str:
    return (
        "model_list:\n  - model_name: dall-e-3\n    litellm_params:\n      model: openai/dall-e-3\n"
        f"      api_base: {upstream.base_url}\n      api_key: sk-upstream\n"
        f"    model_info: {{mode: image_generation}}\n{general}\nlitellm_settings: {{{settings}}}\n"
    )


@contextlib.contextmanager
def _litellm(folder: Path, config: str) -> Iterator[tuple["subprocess.Popen[bytes]", int, str]]:
    """Its process, port and version."""
    program = _install_litellm()
    port = free_port()
    path = folder / "config.yaml"
    path.write_text(config)
    words = [str(program), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
    # With its own list of models: it would fetch one over the network otherwise.
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with started_on(MEASURED_CORE), (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environ, start_new_session=True, cwd=folder)
    try:
        wait_for_port(port, _LITELLM_START)
        yield process, port, _version(program)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _valkey(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A store on the load's core, in memory alone; and its port."""
    port = free_port()
    words = [str(find_server()), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    with started_on(LOAD_CORE):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port, _START)
        yield process, port
    finally:
        process.terminate()
        process.wait(_START)


def _prove_limits(upstream: Upstream, port: int, store_port: int) -> None:
    """Each request is counted in the store, and each goes up. Missing if not: it would be another comparison."""
    seen = upstream.seen().requests
    for _ in range(_PROVING):
        body = {"model": "dall-e-3", "prompt": "a lighthouse", "n": 1, "size": "1024x1024"}
        url, headers = f"http://127.0.0.1:{port}/v1/images/generations", {"Authorization": f"Bearer {_LITELLM_KEY}"}
        httpx.post(url, json=body, headers=headers, timeout=_START).raise_for_status()
    with redis.Redis(port=store_port, decode_responses=True) as client:
        counted = [client.get(key) for key in client.scan_iter("*:requests")]
    made = upstream.seen().requests - seen
    if counted != [str(_PROVING)] or made != _PROVING:
        raise Missing(f"LiteLLM's limits: of {_PROVING} requests {made} went up, the store counts {counted}")


def _install_litellm() -> Path:
    """Into an environment of its own, which is kept for the next run."""
    home = Path(tempfile.gettempdir(), "image-gateway-bench", "litellm")
    program = home / "bin" / "litellm"
    installed = home / "installed"
    if installed.exists():
        return program
    print("installing LiteLLM ...", file=sys.stderr, flush=True)
    commands: list[list[str]] = [
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [str(home / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_LIMIT)
    except subprocess.CalledProcessError as exc:
        raise Missing(f"LiteLLM (pip says: {exc.stderr.strip()[-300:]})") from exc
    except subprocess.TimeoutExpired as exc:
        raise Missing(f"LiteLLM (not installed within {_INSTALL_LIMIT} s)") from exc
    installed.touch()
    return program


def _version(program: Path) -> str:
    asked = "from importlib.metadata import version; print('LiteLLM', version('litellm'))"
    said = subprocess.run([str(program.parent / "python"), "-c", asked], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def _signal(tree: Tree, number: int) -> None:
    for pid in tree.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


PEERS: tuple[Callable[[Upstream], contextlib.AbstractContextManager[Variant]], ...] = (
    nginx,
    litellm,
    litellm_with_limits,
)
