"""The gateway as a service of systemd: the unit is in order, and the master says how it stands."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import base_config, running_gateway

UNIT = Path(__file__).parent.parent.parent / "deploy" / "systemd" / "image-gateway.service"

PATIENCE = 20.0  # seconds for the next word of the master

#: systemd-analyze's figure of what a service could do to its host: 0 nothing, 10 all.
EXPOSURE = 1.5


class Manager:
    """A socket as systemd gives it to a service, and what was said to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(PATIENCE)

    def hear(self) -> str:
        """The next message's first line."""
        return self._socket.recv(4096).decode("ascii").splitlines()[0]

    def is_told_nothing_more(self) -> bool:
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self._socket.recv(4096)
            return False
        return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path / "notify")) as made:
        yield made


@pytest.mark.slow
def test_the_master_says_how_it_stands(manager: Manager) -> None:
    """READY comes once, when all workers serve, and again after a reload; STOPPING comes at the end; nothing else."""
    config = base_config(upstream="http://127.0.0.1:9", workers=4)
    with running_gateway(config=config, environ={"NOTIFY_SOCKET": str(manager.path)}, start=False) as gateway:
        started = threading.Thread(target=gateway.start)
        started.start()
        assert manager.hear() == "READY=1"
        assert gateway.metric("gateway_inflight_limit") == 4 * 5000
        started.join()
        os.kill(gateway.pid, signal.SIGHUP)
        assert manager.hear() == "RELOADING=1"
        assert manager.hear() == "READY=1"
        assert gateway.stop() == 0
        assert manager.hear() == "STOPPING=1"
        assert manager.is_told_nothing_more()


def checked(unit: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze on a unit of this text."""
    path = folder / UNIT.name
    path.write_text(unit, "utf-8")
    command = ["systemd-analyze", *words, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.debian("systemd")
def test_the_unit_is_in_order(tmp_path: Path) -> None:
    """systemd reads every line of the unit, and finds a service that can do little to its host."""
    # The program is not installed here.
    text = re.sub(r"/opt/image-gateway/bin/gateway", sys.executable, UNIT.read_text("utf-8"))
    assert text.count(sys.executable) >= 1
    verified = checked(text, tmp_path, "verify", "--man=no")
    assert (verified.returncode, verified.stderr) == (0, "")
    secured = checked(text, tmp_path, "security", "--offline=yes", f"--threshold={EXPOSURE * 10:.0f}")
    assert secured.returncode == 0, secured.stdout
