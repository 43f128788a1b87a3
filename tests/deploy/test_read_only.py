"""What the container files promise of the gateway: it needs to write nowhere but to memory at /tmp."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from tests.e2e import wire
from tests.support.engines import VALKEY, server
from tests.support.running import NO_TLS, SECRETS, UPSTREAM_KEY, base_config, free_port, plain_numbers
from tests.support.simulated import running_simulator
from tests.support.site import wait_until

#: In a mount namespace of its own: every file system read-only, memory at /tmp; then the command behind it. A place
#: that can still be written to ends it. $1: an empty folder outside /tmp; $2: a Python environment, which is kept in
#: view where it lies below /tmp.
READ_ONLY = r"""
set -eu
while read -r _ place _; do
    case $place in /proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro "$place" 2> /dev/null || true ;; esac
done < /proc/self/mounts
memory=$1 environment=$2
shift 2
mount -t tmpfs none "$memory"
case $environment in /tmp/*)
    mkdir -p "$memory/${environment#/tmp/}"
    mount --bind "$environment" "$memory/${environment#/tmp/}"
    mount -o remount,bind,ro "$memory/${environment#/tmp/}"
esac
mount --rbind "$memory" /tmp
umount --recursive "$memory"
for place in / /var/tmp "$HOME" .; do
    if touch "$place/written" 2> /dev/null; then echo "$place can be written to"; exit 3; fi
done
exec "$@"
"""


@pytest.mark.slow
def test_the_gateway_runs_on_a_read_only_root() -> None:
    """With nothing to write to but /tmp it starts, makes images of both kinds, counts them and leaves in order."""
    public, admin = free_port(), free_port()
    # Not below /tmp, which the gateway sees empty.
    with (
        running_simulator() as simulator,
        server(VALKEY) as store,
        tempfile.TemporaryDirectory(dir="/var/tmp") as name,
    ):
        folder = Path(name)
        memory = folder / "memory"
        memory.mkdir()
        config = base_config(upstream=simulator.base_url, workers=2)
        config["listen"] |= {"public": f"127.0.0.1:{public}", "admin": f"127.0.0.1:{admin}"}
        config["store"] = {"kind": "redis", "url": "env:TEST_STORE"}
        with (folder / "config.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(plain_numbers(config), file)
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(folder / "config.yaml")]
        environ = {**os.environ, "TEST_STORE": store.url, "TEST_UPSTREAM_KEY": UPSTREAM_KEY}
        with (folder / "log").open("wb") as log:
            gateway = subprocess.Popen(
                ["unshare", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, "sh", memory, sys.prefix, *command],
                env={**environ, "PYTHONDONTWRITEBYTECODE": "1"},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:

            def ready() -> bool:
                assert gateway.poll() is None, (folder / "log").read_text("utf-8")
                try:
                    return httpx.get(f"http://127.0.0.1:{public}/readyz", verify=NO_TLS).status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(ready, seconds=20)
            url, key = f"http://127.0.0.1:{public}", SECRETS["free"]
            assert wire.ask(url, wire.generation(key)).status == 200
            edit = wire.edit(key, wire.image(wire.png(length=1_000_000)), wire.text("prompt", "x"))
            assert wire.ask(url, edit).status == 200
            metrics = httpx.get(f"http://127.0.0.1:{admin}/metrics", verify=NO_TLS).text
        finally:
            gateway.terminate()
            ended = gateway.wait(20)
        assert ended == 0
        assert [request.images_made for request in simulator.record.requests] == [1, 1]
        counted = [line for line in metrics.splitlines() if line.startswith("gateway_images_total{")]
        assert sum(float(line.rpartition(" ")[2]) for line in counted) == 2
