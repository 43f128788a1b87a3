"""No secret comes out: a canary in each place where one can stand, all that can happen, and then a look everywhere."""

import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.config.compile import compile_settings
from gateway.config.file import load
from gateway.ledger.valkey import find_server
from gateway.metrics import OUTCOMES
from tests.canaries import scenario
from tests.canaries.canaries import Leak, Place, leaks, made, writings
from tests.canaries.scenario import Scenario, config, descendants, files, processes, stored, values, written
from tests.e2e import wire
from tests.support import engines
from tests.support.running import plain_numbers, running_gateway
from tests.support.simulated import running_simulator
from tests.support.site import wait_until

BETRAYING = ("tests.canaries.betraying",)


def environ_of(canaries: Mapping[str, str], folder: Path, *, store: str) -> dict[str, str]:
    """With a folder for temporary files, so that each of them is looked into."""
    named = {f"CANARY_{name}": value for name, value in values(canaries, store=store).items()}
    return {**named, "CANARY_SPARE": canaries["spare upstream key"], "TMPDIR": str(folder)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    """The scenario to its end; the gateway still runs."""
    canaries, folder = made(), tmp_path_factory.mktemp("tmp")
    password = canaries["store password"]
    with ExitStack() as stack:
        simulator = stack.enter_context(running_simulator(api_keys=(canaries["upstream key"],)))
        store = stack.enter_context(engines.server(find_server(), "--requirepass", password))
        store.password = password
        environ = environ_of(canaries, folder, store=f"redis://:{password}@127.0.0.1:{store.port}/0")
        whole = config(canaries, upstream=simulator.base_url)
        gateway = stack.enter_context(running_gateway(config=whole, environ=environ, module=BETRAYING))
        run = Scenario(gateway, simulator, store, canaries)
        run.original = (gateway.folder / "config.yaml").read_bytes()
        for step in scenario.ALL:
            step(run)
        yield run


@pytest.mark.slow
def test_all_that_can_become_of_a_request_has_happened(run: Scenario) -> None:
    """Each outcome that the metrics know was met on the way, so each one's words were looked through."""
    answer = run.ask_admin("metrics, at the end", "/metrics", run.canaries["admin token"])
    met = {
        name
        for name in OUTCOMES
        for line in answer.body.decode().splitlines()
        if line.startswith("gateway_requests_total") and f'outcome="{name}"' in line and not line.endswith(" 0.0")
    }
    assert set(OUTCOMES) - met == set()


@pytest.mark.slow
def test_no_answer_and_no_output_shows_a_secret(run: Scenario) -> None:
    """Bodies and headers of all answers, of both ports, and what every command printed hold none but one's own."""
    assert len(run.places) > 150
    assert leaks(run.places, run.canaries) == set()


@pytest.mark.slow
def test_no_file_shows_a_secret(run: Scenario) -> None:
    """Neither the log with its tracebacks, nor the workers' metrics, nor anything in the folders of the gateway."""
    temporary = Path(run.gateway.environ["TMPDIR"])
    found = [*written(run), *files(temporary)]
    assert {"log", "file gateway.log"} <= {place.name for place in found}
    assert any("gateway-metrics-" in place.name for place in found)
    assert leaks(found, run.canaries) == set()


@pytest.mark.slow
def test_the_store_keeps_no_secret(run: Scenario) -> None:
    """Of all keys and values, only the answer kept for its Idempotency-Key has in it what its client was told."""
    with run.store.client(encoding="latin-1") as client:  # some values are bytes
        found = list(stored(client))
    assert len(found) > 5
    assert [place for place in found if place.belongs]
    assert leaks(found, run.canaries) == set()


@pytest.mark.slow
def test_no_process_shows_a_secret(run: Scenario) -> None:
    """No command line has one, and no process leaves a dump of its memory."""
    pids = descendants(run.gateway.pid)
    assert len(pids) >= 3
    assert leaks(processes(pids, environ=False), run.canaries) == set()
    assert _dumping(pids) == []


@pytest.mark.slow
def test_secrets_by_files_stand_in_no_environment(tmp_path: Path) -> None:
    """With `file:` no process has one in its environment, and the embedded store's has nothing at all."""
    canaries = made()
    for name, value in values(canaries, store="unused").items():
        (tmp_path / name).write_text(value)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with running_simulator(api_keys=(canaries["upstream key"],)) as simulator:
        whole = config(canaries, upstream=simulator.base_url, secret=f"file:{tmp_path}/")
        whole["store"] = {"kind": "embedded", "data_dir": "./data"}
        # Callbacks that take their time, and tasks that are lost, are told with where they came from.
        debug = {"PYTHONASYNCIODEBUG": "1", "TMPDIR": str(temporary)}
        with running_gateway(config=whole, environ=debug, module=BETRAYING) as gateway:
            run = Scenario(gateway, simulator, engines.Node(Path(), Path(), 0), canaries)
            assert run.ask("ok", run.order()).status == 200
            assert run.ask("edit", run.edit()).status == 200
            assert run.ask("token", wire.generation(run.token(), prompt=canaries["prompt"])).status == 200
            scenario.own_fault(run)
            pids = descendants(gateway.pid)
            stores = [pid for pid in pids if b"unixsocket" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            assert [Path(f"/proc/{pid}/environ").read_bytes() for pid in stores] == [b""]
            found = [*processes(pids, environ=True), *written(run), *files(temporary), *run.places]
            assert leaks(found, canaries) == set()
            assert _dumping(pids) == []


@pytest.mark.slow
def test_the_sentinels_password_comes_out_nowhere(tmp_path: Path) -> None:
    """Neither while they tell of the master, nor where they want another one, nor when they are gone."""
    canaries = made()
    query = f"sentinel_password={canaries['sentinel password']}"
    with ExitStack() as stack:
        simulator = stack.enter_context(running_simulator(api_keys=(canaries["upstream key"],)))
        watched = stack.enter_context(engines.sentinels(find_server(), password=canaries["sentinel password"]))
        whole = config(canaries, upstream=simulator.base_url)
        nodes = [f"{host}:{port}" for host, port in watched.addresses]
        whole["store"] |= {"kind": "sentinel", "sentinel": {"name": watched.name, "nodes": nodes}}
        environ = environ_of(canaries, tmp_path, store=f"redis://127.0.0.1/0?{query}")
        gateway = stack.enter_context(running_gateway(config=whole, environ=environ))
        run = Scenario(gateway, simulator, watched.master, canaries)
        assert run.ask("ok", run.order()).status == 200
        scenario.command(run, "doctor", "-c", str(gateway.folder / "config.yaml"))
        malformed = f"redis://127.0.0.1:{canaries['sentinel password']}/0?{query}"
        scenario.command(run, "doctor", "-c", str(gateway.folder / "config.yaml"), CANARY_STORE=malformed)
        wrong = f"redis://127.0.0.1/0?sentinel_password={canaries['former store password']}"
        scenario.command(run, "usage", "-c", str(gateway.folder / "config.yaml"), CANARY_STORE=wrong)
        for node in (*watched.sentinels, watched.master, watched.replica):
            node.signal(signal.SIGKILL)
        wait_until(lambda: run.ask("master gone", run.order()).status == 503)
        scenario.command(run, "usage", "-c", str(gateway.folder / "config.yaml"))
        found = [*written(run), *files(tmp_path), *run.places, *processes(descendants(gateway.pid), environ=False)]
        assert leaks(found, canaries) == set()


def test_what_the_config_is_made_of_prints_no_secret(tmp_path: Path) -> None:
    """However it is printed, and whatever is pickled, dumped or put into a traceback of it, no secret is there."""
    canaries = made()
    canaries["store password"] = "p@/#?%41[]:" + canaries["store password"]
    for name, value in values(canaries, store=f"redis://:{canaries['store password']}@h:1/0").items():
        (tmp_path / name).write_text(value)
    whole = config(canaries, upstream="http://127.0.0.1:1/v1", secret=f"file:{tmp_path}/")
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(plain_numbers(whole)))
    document = load(path)
    settings = compile_settings(document, {})
    secrets = [settings.upstream.accounts[0].api_key, settings.store.url, settings.listen.admin_token]
    for secret in secrets:
        assert secret is not None
        assert secret.reveal() in {*canaries.values(), f"redis://:{canaries['store password']}@h:1/0"}
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret)
    ways: tuple[Callable[[object], str], ...] = (repr, str, "{}".format, "{!r}".format, _dumped)
    told = [Place("print", way(each).encode()) for each in (settings, document, *secrets) for way in ways]
    assert leaks(told, canaries) == set()


def test_what_nobody_caught_is_told_without_its_words() -> None:
    """Of a callback, a task, a thread and a finalizer that failed unseen the log has the kind and no word more."""
    word = made()["prompt"]
    command = [sys.executable, "-m", "tests.canaries.uncaught", word]
    done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    assert [(line["task"], line["error"]) for line in map(json.loads, done.stdout.splitlines())] == [
        ("event loop", "odd"),
        ("event loop", "ValueError"),
        ("event loop", "OSError"),
        ("thread", "ValueError"),
        ("finalizer", "KeyError"),
    ]
    assert leaks([Place("output", done.stdout + done.stderr)], {"prompt": word}) == set()


def _dumped(each: object) -> str:
    return json.dumps(each, default=str)


# Controls


@pytest.mark.slow
def test_a_gateway_that_writes_words_down_is_found_out(tmp_path: Path) -> None:
    """The same scanner over the same places tells which secrets a gateway let out that logs the words of its errors."""
    canaries = made()
    with running_simulator(api_keys=(canaries["upstream key"],)) as simulator:
        whole = config(canaries, upstream=simulator.base_url)
        whole["store"] = {"kind": "embedded", "data_dir": "./data"}
        environ = environ_of(canaries, tmp_path, store="unused")
        with running_gateway(config=whole, environ=environ, module=(*BETRAYING, "aloud")) as gateway:
            run = Scenario(gateway, simulator, engines.Node(Path(), Path(), 0), canaries)
            scenario.own_fault(run)
            found = leaks([*written(run), *run.places], canaries)
            assert {leak.secret for leak in found if leak.place == "log"} == {"upstream key", "prompt", "user field"}
            # Secrets that come by variables stand in the environment: the scanner sees them there as well.
            shown = leaks(processes(descendants(gateway.pid), environ=True), canaries)
            assert {"upstream key", "admin token", "JWT secret"} <= {leak.secret for leak in shown}


def test_a_planted_secret_is_found_however_it_is_written() -> None:
    """Every canary, whole, cut at either end, in hexadecimal, percent-encoded or in base64 at any offset, is a leak."""
    canaries = made()
    for name, value in canaries.items():
        for form in writings(value):
            place = Place("log", b"before " + form + b" behind")
            assert leaks([place], canaries) == {Leak(name, "log")}
            assert leaks([Place("answer", place.data, frozenset({name}))], canaries) == set()
    assert leaks([Place("log", b"nothing of the kind " * 1000)], canaries) == set()


def _dumping(pids: set[int]) -> list[str]:
    """The processes' limits that would let a dump of memory be written."""
    limits: list[str] = []
    for pid in pids:
        lines = Path(f"/proc/{pid}/limits").read_text("ascii").splitlines()
        limits += [line for line in lines if line.startswith("Max core file size") and line.split()[4:6] != ["0", "0"]]
    return limits
