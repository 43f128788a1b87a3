"""The documentation is held against the code: what must be said is found by introspection, what can be run is run.

A code block of the README or of deploy/README.md has a marker before it: `<!-- run: KIND -->` names the surroundings
that it is run in here, `<!-- not run: reason -->` says why it is not, `<!-- config -->` is a piece of configuration.
A team's block says how many images it makes.
"""

import ast
import contextlib
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from gateway import exchange
from gateway.cli.main import app
from gateway.config.file import load
from gateway.config.model import Config
from gateway.core import errors, keys
from gateway.metrics import OUTCOMES
from tests.support import packages
from tests.support.running import NO_TLS, SECRETS, Running, base_config, free_port, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator

ROOT = Path(__file__).parent.parent
PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "deploy/README.md")}
README = PAGES["README.md"]

PATIENCE = 20.0  # seconds until something that was started has shown a sign of life


@dataclass(frozen=True)
class Block:
    """A code block and what stands before it."""

    page: str
    line: int
    marker: str
    language: str
    text: str

    @property
    def kind(self) -> str:
        return self.marker.partition(",")[0]


def blocks() -> list[Block]:
    found = []
    for page, text in PAGES.items():
        for match in re.finditer(r"(?:<!-- (.*?) -->\n)?^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[1] or "", match[2], match[3]))
    return found


BLOCKS = blocks()


def of_kind(kind: str, language: str = "") -> list[Any]:
    """The blocks of this kind, as parameters of a test."""
    return [
        pytest.param(block, id=f"{block.page}:{block.line}")
        for block in BLOCKS
        if block.kind == kind and block.language == (language or block.language)
    ]


def table(header: str) -> list[list[str]]:
    """The cells of the README's table that has this header line."""
    assert README.count(f"\n{header}\n") == 1, header
    lines = README.split(f"\n{header}\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def all_errors(root: type[errors.GatewayError] = errors.GatewayError) -> Iterator[type[errors.GatewayError]]:
    for found in root.__subclasses__():
        yield found
        yield from all_errors(found)


def helps(command: Any = None, words: tuple[str, ...] = ("gateway",)) -> Iterator[tuple[str, str, bool]]:
    """The words that call each command and each group of them, their help, and whether it is a group."""
    command = command or typer.main.get_group(app)
    inner = getattr(command, "commands", {})
    yield " ".join(words), inspect.cleandoc(command.help or ""), bool(inner)
    for name, each in inner.items():
        yield from helps(each, (*words, name))


def commands() -> list[str]:
    """The words that call each command, without the first."""
    return [words.removeprefix("gateway ") for words, _, group in helps() if not group]


# What must be said


def test_every_error_is_explained() -> None:
    """The table of errors has a row with status and code for each error that a team can meet, and no other row."""
    told = {(int(row[0]), row[1].strip("`")) for row in table("| status | code | what happened | what to do |")}
    abstract = {errors.QuotaExceeded, errors.PermissionRefused, errors.UpstreamError, errors.ClientGone}
    known = {
        (error.status, error.code)
        for error in all_errors()
        if error not in abstract and error is not errors.UpstreamRefused
    }
    assert told == known
    assert len(told) > 25


def test_every_outcome_is_named() -> None:
    """Whoever reads a metric or a log line finds its outcome in the README."""
    assert [outcome for outcome in OUTCOMES if f"`{outcome}`" not in README] == []


def test_every_log_field_is_named() -> None:
    """The table of log fields has all that a request's line may say."""
    told = {name for row in table("| fields | say |") for name in re.findall(r"`(\w+)`", row[0])}
    body = ast.parse(inspect.getsource(exchange.facts))
    found = next(node.value for node in ast.walk(body) if isinstance(node, ast.Return))
    assert isinstance(found, ast.Dict)
    names = {key.value for key in found.keys if isinstance(key, ast.Constant)}
    assert told == names | {"ts"}


def test_every_part_of_the_configuration_is_named() -> None:
    """The README lists the file's top-level keys; the example, which it leads to, has all others."""
    listed = re.search(r"^Its parts: (.*)\.$", README, re.MULTILINE)
    assert listed is not None
    assert re.findall(r"`(\w+)`", listed[1]) == list(Config.model_fields)
    assert "(config.example.yaml)" in README


def test_every_command_is_named_and_no_other() -> None:
    """The table of commands has each command once, and the pages speak of no command as there that is not."""
    known = commands()
    told = [row[0].strip("`") for row in table("| command | does |")]
    found = [[name for name in known if f"{row} ".startswith(f"gateway {name} ")] for row in told]
    assert sorted(found) == [[name] for name in sorted(known)]
    text = "\n".join(PAGES.values()).split("# Not yet")[0]
    groups = {name.split()[0] for name in known}
    for words in re.findall(r"(?:^|`|/)gateway ((?:[a-z]+ ?)+)", text, re.MULTILINE):
        assert words.split()[0] in groups, words


def test_the_map_of_the_code_is_the_tree() -> None:
    """The README's map names every file of the package once, in its folder."""
    told, folder = set(), ""
    for line in README.split("\n    gateway/\n")[1].splitlines():
        indent, name, words = re.fullmatch(r"( *)(\S+) +(\S.*)", line).groups()  # type: ignore[union-attr]
        if name.endswith("/") and len(indent) == 6:
            folder = name
        elif name.endswith("/"):
            told |= {f"{folder}{name}{inner}" for inner in words.split(", ")}
        else:
            path = f"{folder if len(indent) == 8 else ''}{name}"
            assert path not in told
            told.add(path)
    files = {str(path.relative_to(ROOT / "gateway")) for path in (ROOT / "gateway").rglob("*") if path.is_file()}
    own = {name for name in files if not name.endswith((".pyc", "__init__.py", "py.typed"))}
    assert told == own


def test_pages_link_to_files_that_are_there() -> None:
    """Every relative link of a page leads to a file."""
    for page, text in PAGES.items():
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (ROOT / page).parent.joinpath(link).is_file(), f"{page}: {link}"


def test_every_block_is_run_or_says_why_not() -> None:
    """No code block of a page stands there unmarked."""
    kinds = {"run: setup", "run: team", "run: serve", "run: admin", "run: config", "config"}
    for block in BLOCKS:
        assert block.kind in kinds or block.marker.startswith("not run: "), f"{block.page}:{block.line}"
    assert {block.kind for block in BLOCKS} >= kinds


# What can be run

CONFIG = """\
listen: {{public: "127.0.0.1:{public}", admin: "127.0.0.1:{admin}"}}
upstream: {{accounts: [{{name: main, api_key: env:THREEXCODER_API_KEY}}]}}
store: {{kind: embedded, data_dir: ./data}}
models:
  dall-e-3:
    price_usd:
      standard: {{1024x1024: 0.040, 1792x1024: 0.080, 1024x1792: 0.080}}
      hd: {{1024x1024: 0.080, 1792x1024: 0.120, 1024x1792: 0.120}}
"""

TEAM = """\
jwt_issuers: {{corp: {{issuer: https://id.example.com, audience: image-gateway, algorithms: [HS256], secret: env:JWT}}}}
teams: {{design: {{quotas: [{{images: 100, per: day}}], keys: [{{id: ci, sha256: "{digest}"}}]}}}}
"""


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorThread) -> Iterator[Running]:
    """One whose team `design` meets every kind of header: rules of each unit, and a key that ends soon."""
    config = base_config(upstream=simulator.base_url)
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 7 * 86400))
    config["teams"]["design"]["keys"][0]["expires"] = soon
    config["teams"]["design"]["quotas"] += [
        {"requests": 100, "per": "hour"},
        {"usd": 5, "per": "month", "warn_at": ["50%"]},
    ]
    with running_gateway(config=config) as running:
        yield running


@dataclass(frozen=True)
class Folder:
    """Where blocks are run: it has the files that they name, and a config on two free ports."""

    path: Path
    public: str
    admin: str


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    Image.new("RGBA", (64, 64), (200, 30, 30, 255)).save(tmp_path / "photo.png")
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "mask.png")
    public, admin = free_port(), free_port()
    team = TEAM.format(digest=keys.digest(SECRETS["design"]).hex())
    for name in ("config.yaml", "proposed.yaml"):  # alike, for commands that exit by what they find
        (tmp_path / name).write_text(CONFIG.format(public=public, admin=admin) + team, "utf-8")
    (tmp_path / "secret.txt").write_text("x" * 40, "utf-8")
    return Folder(tmp_path, f"http://127.0.0.1:{public}", f"http://127.0.0.1:{admin}")


def environ(**more: str) -> dict[str, str]:
    """This environment's `gateway` and `python` first, as in an activated one, and the secret that configs name."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = {name: value for name, value in os.environ.items() if name != "GATEWAY_CONFIG"}
    return {**known, "PATH": path, "PYTHONPATH": str(ROOT), "THREEXCODER_API_KEY": "sk-x", "JWT": "s" * 64, **more}


def run(words: list[str], folder: Path, **more: str) -> str:
    """Run a command that ends by itself, and well; what it printed."""
    done = subprocess.run(
        words,
        cwd=folder,
        env=environ(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bash(text: str, folder: Path, **more: str) -> str:
    return run(["bash", "-euo", "pipefail", "-c", text], folder, **more)


@contextlib.contextmanager
def running(text: str, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Bash with a text that goes on until SIGTERM, its output in `log`. It and all it started end with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=environ(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, seconds: float = PATIENCE) -> None:
    """Look again and again until it holds; an error with the log if it does not, or the process has ended."""
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends or process.poll() is not None:
            raise AssertionError(log.read_text("utf-8", "replace")[-4000:])
        time.sleep(0.02)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, verify=NO_TLS, timeout=2).is_success
    except httpx.TransportError:
        return False


def jsons(text: str) -> list[Any]:
    """Several JSON texts, one behind the other."""
    found = []
    while text := text.strip():
        value, end = json.JSONDecoder().raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def made(simulator: SimulatorThread, endpoint: str) -> int:
    """Images that the simulator has made on that endpoint."""
    return sum(request.images_made for request in simulator.record.requests if request.endpoint == endpoint)


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which node finds OpenAI's SDK."""
    return packages.node_folder(tmp_path_factory.mktemp("node"))


def check_teams_block(block: Block, gateway: Running, simulator: SimulatorThread, run_it: Callable[..., str]) -> str:
    """Run a team's block with the two variables set; the images it says it makes are those that the simulator made."""
    orders = {kind: int(number) for number, kind in re.findall(r"(\d+) (generations|edits)", block.marker)}
    before = {kind: made(simulator, kind) for kind in orders}
    told = run_it(OPENAI_BASE_URL=f"{gateway.url}/v1", OPENAI_API_KEY=SECRETS["free"])
    assert {kind: made(simulator, kind) - count for kind, count in before.items()} == orders
    return told


@pytest.mark.debian("curl")
@pytest.mark.parametrize("block", of_kind("run: team", "bash"))
def test_a_teams_curl_lines_work(block: Block, gateway: Running, simulator: SimulatorThread, folder: Folder) -> None:
    """What the page shows a team for curl works as it stands, and makes what it says."""
    told = check_teams_block(block, gateway, simulator, partial(bash, block.text, folder.path))
    assert len(jsons(told)) == block.text.count("curl ") * (2 if "for attempt in 1 2" in block.text else 1)
    assert not any("error" in answer for answer in jsons(told))


@pytest.mark.parametrize("block", of_kind("run: team", "python"))
def test_a_teams_python_works(block: Block, gateway: Running, simulator: SimulatorThread, folder: Folder) -> None:
    """What the page shows a team for Python works as it stands, and prints addresses of pictures."""
    command = partial(run, [sys.executable, "-c", block.text], folder.path)
    lines = check_teams_block(block, gateway, simulator, command).split()
    assert [httpx.get(line, verify=NO_TLS).content[:8] for line in lines] == [b"\x89PNG\r\n\x1a\n"] * 3


@pytest.mark.npm
@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", of_kind("run: team", "js"))
def test_a_teams_node_works(
    block: Block, gateway: Running, simulator: SimulatorThread, folder: Folder, node_folder: Path
) -> None:
    """What the page shows a team for Node works as it stands, and prints addresses of pictures."""
    (node_folder / "block.mjs").write_text(block.text, "utf-8")
    shutil.copy(folder.path / "photo.png", node_folder)
    lines = check_teams_block(block, gateway, simulator, partial(run, ["node", "block.mjs"], node_folder)).split()
    assert [httpx.get(line, verify=NO_TLS).content[:8] for line in lines] == [b"\x89PNG\r\n\x1a\n"] * 2


@pytest.mark.parametrize("block", of_kind("run: config"))
def test_an_administrators_block_runs(block: Block, folder: Folder) -> None:
    """What the pages show for the configuration works as it stands on a right file."""
    bash(block.text, folder.path)


@pytest.mark.debian("curl")
@pytest.mark.parametrize("block", of_kind("run: admin"))
def test_an_operators_block_runs(block: Block, gateway: Running, folder: Folder) -> None:
    """What the pages show of the admin port works as it stands, at this gateway's address."""
    assert "http://127.0.0.1:9464" in block.text
    told = bash(block.text.replace("http://127.0.0.1:9464", gateway.admin_url), folder.path)
    assert '"status":"ready"' in told
    assert "# TYPE gateway_requests_total counter" in told


@pytest.mark.parametrize("block", of_kind("run: serve"))
def test_a_gateway_is_served_as_the_page_says(block: Block, folder: Folder) -> None:
    """The lines that start a gateway start one, which leaves when it is told to."""
    log = folder.path / "log"
    with running(block.text, folder.path, log) as process:
        until(lambda: answers(f"{folder.public}/readyz"), process, log)
        assert answers(f"{folder.admin}/metrics")
    assert "Shutting down: Master" in log.read_text("utf-8")


@pytest.mark.parametrize("block", of_kind("config"))
def test_a_piece_of_configuration_is_right(block: Block, folder: Folder) -> None:
    """What the page shows of a config file is right, but for the placeholder of a key's hash."""
    path = folder.path / "piece.yaml"
    path.write_text(CONFIG.format(public=8080, admin=9464) + block.text, "utf-8")
    assert [problem.message for problem in load(path).warnings(0)] == [
        "a placeholder, not the hash of a key: nobody can use it"
    ]


@pytest.mark.parametrize(("words", "told"), [pytest.param(words, told, id=words) for words, told, _ in helps()])
def test_the_example_of_a_command_runs(words: str, told: str, folder: Folder, simulator: SimulatorThread) -> None:
    """The example at the end of the help of each command, and of each group of them, works."""
    (text,) = re.findall(r"^Example: (gateway .*)$", told, re.MULTILINE)
    assert text.startswith(words)
    name = words.removeprefix("gateway ")
    log = folder.path / "log"
    if name == "serve":
        with running(text, folder.path, log) as process:
            until(lambda: answers(f"{folder.public}/readyz"), process, log)
    elif name == "simulate":
        port = free_port()
        assert "--port 8090" in text
        with running(text.replace("8090", str(port)), folder.path, log) as process:
            until(lambda: answers(f"http://127.0.0.1:{port}/_simulator/record"), process, log)
    elif name == "doctor":  # it connects to the upstream
        path = folder.path / "config.yaml"
        text_of = path.read_text("utf-8")
        path.write_text(text_of.replace("upstream: {", f"upstream: {{base_url: {simulator.base_url}, "), "utf-8")
        bash(text, folder.path)
    elif name.startswith(("quota", "usage", "why")):  # they speak to the store, which the gateway runs
        with running("gateway serve", folder.path, log) as process:
            until(lambda: answers(f"{folder.public}/readyz"), process, log)
            bash(text, folder.path)
    else:
        bash(text, folder.path)


def test_the_table_of_metrics_is_what_is_scraped(gateway: Running) -> None:
    """Every metric of /metrics is in the table with its labels, and no other is."""
    told = {row[0].strip("`"): row[1] for row in table("| metric | labels | says |")}
    scraped = {}
    for family in text_string_to_metric_families(httpx.get(f"{gateway.admin_url}/metrics", verify=NO_TLS).text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        scraped[name] = set().union(*(sample.labels for sample in family.samples)) - {"le"}
    assert {name: set() if labels == "none" else set(labels.split(", ")) for name, labels in told.items()} == scraped


def test_the_table_of_headers_is_what_is_answered(gateway: Running) -> None:
    """Every header that an answer has for a team is in the table, and no other is."""
    told = {name for row in table("| header | says |") for name in re.findall(r"`([\w-]+)`", row[0])}
    seen: set[str] = set()
    for n, status in ((1, 200), (1, 200), (10, 429)):
        answer = httpx.post(
            f"{gateway.url}/v1/images/generations",
            headers={**gateway.auth("design"), "idempotency-key": f"headers-{n}"},
            json={"prompt": "x", "n": n},
            verify=NO_TLS,
        )
        assert answer.status_code == status
        seen |= set(answer.headers)
    # Of HTTP itself, and one for browsers.
    assert told == seen - {"date", "content-type", "content-length", "cache-control", "x-content-type-options"}


def test_ci_runs_the_second_setup_line() -> None:
    """CI runs the words of the line that runs the tests."""
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    (line,) = [block.text for block in BLOCKS if block.text.rstrip().endswith("-m pytest")]
    for words in ("pip install '.[test]'", "python -m pytest"):
        assert words in line
        assert words in ci.replace('"$scratch/venv/bin/pip"', "pip").replace('"$python"', "python")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("block", of_kind("run: setup"))
def test_the_setup_line_starts_a_demo(block: Block, tmp_path: Path) -> None:
    """On a copy of the tree the first set-up line ends in a running demo."""
    tree, log = tmp_path / "tree", tmp_path / "log"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "gateway-d*"))
    with running(block.text, tree, log) as process:
        until(lambda: b"Ctrl-C ends it" in log.read_bytes(), process, log, seconds=600)
