"""A gateway whose config is saved anew while it runs, for tests of what a saved change brings about."""

import contextlib
import hashlib
import io
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.e2e import wire
from tests.support.running import SECRETS, Running, running_gateway
from tests.support.simulated import SimulatorThread
from tests.support.site import wait_until

WORKERS = 2

#: Seconds in which a saved change has to be in force everywhere, and as much again for a machine that is busy.
PROMPT = 4.0

Change = Callable[[Any], None]
Way = Callable[[Path, bytes], None]


@dataclass(slots=True)
class Site:
    """A gateway of two workers, and the config that it has between two tests."""

    gateway: Running
    simulator: SimulatorThread
    original: bytes = b""

    @property
    def path(self) -> Path:
        return self.gateway.folder / "config.yaml"

    def save(self, change: Change, way: Way | None = None) -> str:
        """Change the file; the new version's hash."""
        yaml, out = YAML(), io.BytesIO()
        tree = yaml.load(self.path.read_bytes())
        change(tree)
        yaml.dump(tree, out)
        return self.put(out.getvalue(), way)

    def put(self, data: bytes, way: Way | None = None) -> str:
        (way or renamed)(self.path, data)
        return hashlib.sha256(data).hexdigest()[:12]

    def in_force(self, version: str) -> bool:
        """Whether all workers are on that version and say that the file is."""
        text = self.exposition()
        happy = "\ngateway_config_last_reload_successful 1.0\n" in text
        return happy and f'\ngateway_config_info{{hash="{version}"}} {WORKERS}.0\n' in text

    def apply(self, change: Change, way: Way | None = None) -> str:
        """Change the file and wait till that is in force everywhere."""
        version = self.save(change, way)
        wait_until(lambda: self.in_force(version), seconds=PROMPT)
        return version

    def refuse(self, change: Change | bytes) -> None:
        """Save what is wrong, and wait till it is counted, once, and all workers say so."""
        name = "gateway_config_reloads_total"
        wanted = self.gateway.metric(name, result="failure") + 1
        if isinstance(change, bytes):
            self.put(change)
        else:
            self.save(change)
        left = self.workers()

        def all_say_so() -> bool:
            request = wire.head("/readyz?verbose", key=None, method="GET", content_type=None)
            with wire.connected(self.gateway.admin_url) as line:
                line.send(request)
                told = line.read().json()["config"]["problems"]
                if told:
                    left.difference_update(pid for pid in list(left) if serves(pid, line.socket))
            return not left

        wait_until(all_say_so, seconds=PROMPT)
        assert self.gateway.metric(name, result="failure") == wanted
        assert self.gateway.metric("gateway_config_last_reload_successful") == 0

    def ask(self, team: str = "free", **fields: object) -> wire.Answer:
        """A generation, on a connection of its own."""
        return wire.ask(self.gateway.url, wire.generation(SECRETS[team], **fields))

    def statuses(self, team: str = "free", times: int = 8) -> set[int]:
        """What that many generations get, each on a connection of its own: as a rule all workers take some."""
        return {self.ask(team).status for _ in range(times)}

    def verbose(self) -> dict[str, Any]:
        request = wire.head("/readyz?verbose", key=None, method="GET", content_type=None)
        return wire.ask(self.gateway.admin_url, request).json()

    def problems(self) -> list[str]:
        found = self.verbose()["config"]["problems"]
        assert isinstance(found, list)
        return found

    def reloads(self) -> tuple[float, float]:
        """Changes that took effect, and those that did not."""
        name = "gateway_config_reloads_total"
        return self.gateway.metric(name, result="success"), self.gateway.metric(name, result="failure")

    def workers(self) -> set[int]:
        found = set()
        for pid in Path(f"/proc/{self.gateway.pid}/task/{self.gateway.pid}/children").read_text().split():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if command and b"valkey" not in command:
                    found.add(int(pid))
        return found

    def page(self) -> str:
        return self._shown("/config")

    def exposition(self) -> str:
        return self._shown("/metrics")

    def _shown(self, path: str) -> str:
        answer = wire.ask(self.gateway.admin_url, wire.head(path, key=None, method="GET", content_type=None))
        assert answer.status == 200
        return answer.body.decode()


def serves(pid: int, client: socket.socket) -> bool:
    """Whether that process has the other end of a client's connection. It may be one of many that listen."""
    here, there = (f":{address[1]:04X}" for address in (client.getpeername(), client.getsockname()))
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        _, local, remote, *_, inode = line.split()[:10]
        if local.endswith(here) and remote.endswith(there):
            return f"socket:[{inode}]" in {_target(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return False


def _target(entry: Path) -> str:
    with contextlib.suppress(OSError):  # it was closed meanwhile
        return str(entry.readlink())
    return ""


def in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def renamed(path: Path, data: bytes) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(data)
    other.rename(path)


def as_kubernetes_does(path: Path, data: bytes) -> None:
    """The file is a link through ``..data``, and that is swapped."""
    dated = path.parent / f"..{time.monotonic_ns()}"
    dated.mkdir()
    (dated / path.name).write_bytes(data)
    (path.parent / "..data_tmp").symlink_to(dated.name)
    (path.parent / "..data_tmp").rename(path.parent / "..data")
    if not path.is_symlink():
        path.unlink()
        path.symlink_to(f"..data/{path.name}")


def in_pieces(path: Path, data: bytes) -> None:
    """A slow writer: what stands there in between is no config, or another one."""
    with path.open("wb") as file:
        for start in range(0, len(data), 1024):
            file.write(data[start : start + 1024])
            file.flush()
            time.sleep(0.02)


@contextlib.contextmanager
def running_on(simulator: SimulatorThread, config: Mapping[str, Any]) -> Iterator[Site]:
    """A gateway on that config, in force in all workers."""
    with running_gateway(config=config) as gateway:
        site = Site(gateway, simulator)
        site.original = site.path.read_bytes()
        wait_until(lambda: site.in_force(hashlib.sha256(site.original).hexdigest()[:12]))
        yield site


@contextlib.contextmanager
def given_back(site: Site) -> Iterator[Site]:
    """The gateway on its first config, which it gets back afterwards."""
    site.simulator.simulator.clear_script()
    site.simulator.record.clear()
    yield site
    version = site.put(site.original)
    wait_until(lambda: site.in_force(version), seconds=PROMPT)


def suspend(name: str) -> Change:
    def change(tree: Any) -> None:
        tree["teams"][name]["suspended"] = "under review"

    return change
