"""`gateway doctor` on a gateway that is well, and on one thing wrong at a time."""

import json
import socket
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from tests.cli.two_hosts import Hosts, running_hosts
from tests.support.engines import VALKEY, server
from tests.support.running import UPSTREAM_KEY, free_port, running_gateway
from tests.support.simulated import running_simulator


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with running_hosts({}) as running:
        yield running


def examined(path: Path, store_url: str = "", **environ: str) -> tuple[int, dict[str, list[tuple[str, str]]], Any]:
    """Exit code, the findings by what they are about, and all that was said."""
    known = {"TEST_UPSTREAM_KEY": UPSTREAM_KEY, "TEST_STORE_URL": store_url, **environ}
    result = CliRunner(env=known).invoke(app, ["doctor", "-c", str(path), "--json"])
    found: dict[str, list[tuple[str, str]]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        found.setdefault(finding["about"], []).append((finding["state"], finding["says"]))
    return result.exit_code, found, json.loads(result.stdout)


def changed(hosts: Hosts, tmp_path: Path, old: str, new: str) -> Path:
    text = (hosts.first.folder / "config.yaml").read_text("utf-8")
    assert old in text
    path = tmp_path / "config.yaml"
    path.write_text(text.replace(old, new), "utf-8")
    return path


def test_a_gateway_that_is_well_is_found_so(hosts: Hosts) -> None:
    """Every part is named once and ok; the ports are the gateway's own, and the upstream was not asked for anything."""
    before = len(hosts.simulator.record.requests)
    code, found, told = examined(hosts.first.folder / "config.yaml", hosts.store_url)
    parts = ["secrets", "keys", "permissions", "store", "history", "clock", "upstream", "port public", "port admin"]
    assert {about: states[0][0] for about, states in found.items()} == dict.fromkeys(["config", *parts, "files"], "ok")
    assert code == 0
    assert "Valkey" in found["store"][0][1]
    assert "noeviction" in found["store"][0][1]
    assert "held by a gateway" in found["port public"][0][1]
    assert told["curl"].startswith(f"curl -sS {hosts.first.url}/v1/images/generations ")
    assert len(hosts.simulator.record.requests) == before


def test_a_pipe_gets_lines_and_the_curl(hosts: Hosts) -> None:
    """State, part and words between tabs; below them the order, with a placeholder for the key."""
    words = ["doctor", "-c", str(hosts.first.folder / "config.yaml"), "--team", "research"]
    env = {"TEST_UPSTREAM_KEY": UPSTREAM_KEY, "TEST_STORE_URL": hosts.store_url}
    result = CliRunner(env=env).invoke(app, words)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split("\t")[:2] == ["ok", "config"]
    assert "team research" in result.stdout
    assert "Bearer KEY" in result.stdout
    assert UPSTREAM_KEY not in result.output


def test_what_is_wrong_is_named(hosts: Hosts, tmp_path: Path) -> None:
    """An upstream that refuses, a port of somebody else's, a store that is away, a secret that is not set: exit 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        path = changed(hosts, tmp_path, hosts.first.url.removeprefix("http://"), f"127.0.0.1:{port}")
        text = path.read_text("utf-8").replace(hosts.simulator.origin, f"http://127.0.0.1:{free_port()}")
        path.write_text(text, "utf-8")
        code, found, told = examined(path, "redis://:hunter2@127.0.0.1:1", TEST_UPSTREAM_KEY="")
    assert code == 1
    wrong = [about for about, states in found.items() for state, _ in states if state == "wrong"]
    assert wrong == ["secrets", "store", "upstream", "port public"]
    assert "TEST_UPSTREAM_KEY is empty" in found["secrets"][0][1]
    assert "hunter2" not in json.dumps(told)


def test_what_should_be_looked_at_is_a_warning(hosts: Hosts, tmp_path: Path) -> None:
    """A key that ends soon and a config that others can write to fail nobody's script."""
    soon = f"{datetime.now(UTC) + timedelta(days=3):%Y-%m-%d}"
    path = changed(hosts, tmp_path, "- id: test\n", f"- id: test\n      expires: '{soon}'\n")
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    code, found, _ = examined(path, hosts.store_url)
    assert code == 0
    assert found["keys"][0][0] == "warning"
    assert "key test of team" in found["keys"][0][1]
    assert found["permissions"][0][0] == "warning"


def test_an_embedded_store_is_looked_at_whether_it_runs_or_not() -> None:
    """While the gateway runs its store answers; after it, what will be started is said, and ports are free."""
    with running_simulator() as simulator, running_gateway(upstream=simulator.base_url) as gateway:
        path = gateway.folder / "config.yaml"
        code, found, _ = examined(path)
        assert (code, found["store"][0][0], found["data_dir"][0][0]) == (0, "ok", "ok")
        assert "rules read" in found["store"][0][1]
        gateway.stop()
        code, found, _ = examined(path)
        assert code == 0
        assert "will start" in found["store"][0][1]
        assert "is free" in found["port public"][0][1]
        (gateway.folder / "data").chmod(0o777)
        assert examined(path)[0] == 1


def test_a_store_that_anybody_may_change_is_a_warning(hosts: Hosts) -> None:
    """By an address that is not this host's alone; it is said beside the rest, and nobody's script fails for it."""
    with server(VALKEY) as store:
        code, found, _ = examined(hosts.first.folder / "config.yaml", f"redis://0.0.0.0:{store.port}")
    assert code == 0
    assert found["store"][-1][0] == "warning"
    assert "no password" in found["store"][-1][1]
