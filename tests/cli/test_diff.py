"""`gateway diff`, beside a gateway that has counted, and where there is none."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from tests.support.running import NO_TLS, Running, running_gateway
from tests.support.simulated import running_simulator


@pytest.fixture(scope="module")
def gateway() -> Iterator[Running]:
    """`design` has used 3 of its 10 images a day."""
    with running_simulator() as simulator, running_gateway(upstream=simulator.base_url) as running:
        answer = httpx.post(
            f"{running.url}/v1/images/generations",
            headers=running.auth("design"),
            json={"prompt": "x", "n": 3},
            verify=NO_TLS,
        )
        assert answer.status_code == 200
        yield running


def raised(path: Path, folder: Path) -> Path:
    """A copy in another folder, in which design may make 25 images a day, and the file of keys is another."""
    text = path.read_text("utf-8")
    assert text.count("images: 10\n") == 1
    copy = folder / "proposed.yaml"
    copy.write_text(text.replace("images: 10\n", "images: 25\n").replace("TEST_UPSTREAM_KEY", "OTHER_KEY"), "utf-8")
    return copy


def test_what_is_used_stands_beside_the_limit(gateway: Running, tmp_path: Path) -> None:
    """Whichever of the files is the copy, the change is told with the store's count, and the exit says there is one."""
    now = gateway.folder / "config.yaml"
    new = raised(now, tmp_path)
    there = CliRunner().invoke(app, ["diff", str(now), str(new)])
    assert (there.exit_code, there.stderr) == (1, "")
    told = ["design: images-day 10 -> 25; 3 used", "account main: another api_key", "2 differences."]
    assert there.stdout.splitlines() == told
    back = CliRunner().invoke(app, ["diff", str(new), str(now)])
    assert (back.exit_code, back.stdout.splitlines()[0]) == (1, "design: images-day 25 -> 10; 3 used")


def test_without_a_second_file_it_is_the_configuration(gateway: Running, tmp_path: Path) -> None:
    """What has become of an older version: the other file is that of -c, or of the environment."""
    now = gateway.folder / "config.yaml"
    old = raised(now, tmp_path)
    told = ["design: images-day 25 -> 10; 3 used", "account main: another api_key", "2 differences."]
    for words, environ in ((["diff", str(old), "-c", str(now)], None), (["diff", str(old)], str(now))):
        found = CliRunner(env={"GATEWAY_CONFIG": environ}).invoke(app, words)
        assert (found.exit_code, found.stdout.splitlines()) == (1, told)
    both = CliRunner().invoke(app, ["-c", str(tmp_path / "none.yaml"), "diff", str(old), str(now)])
    assert (both.exit_code, both.stdout.splitlines()) == (1, told)


def test_a_script_reads_it_as_json(gateway: Running, tmp_path: Path) -> None:
    """Each difference is an object with the values before and after, the rule and what is used of it."""
    now = gateway.folder / "config.yaml"
    found = CliRunner().invoke(app, ["diff", str(now), str(raised(now, tmp_path)), "--json"])
    told = json.loads(found.stdout)
    assert told["used_unknown"] is None
    assert told["differences"][0] == {
        "about": "design",
        "field": "limit",
        "words": "images-day 10 -> 25",
        "before": 10,
        "after": 25,
        "rule": "images-day",
        "used": 3,
        "restart": False,
    }


def test_no_difference_is_told_by_the_exit(gateway: Running, tmp_path: Path) -> None:
    """A copy that says the same with a comment more exits 0."""
    now = gateway.folder / "config.yaml"
    copy = tmp_path / "config.yaml"
    copy.write_text("# reviewed\n" + now.read_text("utf-8"), "utf-8")
    found = CliRunner().invoke(app, ["diff", str(now), str(copy)])
    assert (found.exit_code, found.stdout) == (0, "0 differences.\n")


def test_without_a_store_the_rest_is_told(tmp_path: Path) -> None:
    """Where no gateway runs the change is told without what is used, and why."""
    with running_gateway(upstream="http://127.0.0.1:9", start=False) as idle:
        idle.start()
        idle.stop()
        now = idle.folder / "config.yaml"
        found = CliRunner().invoke(app, ["diff", str(now), str(raised(now, tmp_path))])
    assert (found.exit_code, found.stdout.splitlines()[0]) == (1, "design: images-day 10 -> 25")
    assert found.stderr.startswith("What is used so far is not known. The embedded store of ")


@pytest.mark.parametrize("text", [None, "store: {kind: nothing}\n"])
def test_a_wrong_file_is_no_difference(tmp_path: Path, text: str | None) -> None:
    """A file that is missing or wrong is told as `gateway check` tells it, with an exit of its own."""
    good, bad = Path(__file__).parents[2] / "config.example.yaml", tmp_path / "bad.yaml"
    if text is not None:
        bad.write_text(text, "utf-8")
    for files in ([good, bad], [bad, good]):
        found = CliRunner().invoke(app, ["diff", *map(str, files)])
        assert (found.exit_code, found.stdout) == (2, "")
        assert f"{bad}:1:" in found.stderr
