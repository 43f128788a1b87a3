"""/metrics of several workers: every image once, whatever becomes of the worker that made it."""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from ruamel.yaml import YAML

from gateway.config.compile import compile_settings
from gateway.config.file import load
from gateway.config.series import series_bound
from gateway.core.errors import GatewayError
from gateway.metrics import CODES, OUTCOMES
from tests.e2e import wire
from tests.support import stream
from tests.support.running import NO_TLS, SECRETS, UPSTREAM_KEY, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import team, wait_until
from tests.support.stream import FULL, connected

pytestmark = pytest.mark.slow

WORKERS = 4
CLIENTS = 12
REQUESTS = 300
INVENTED = 10_000 if FULL else 2_000

TEAMS = ("design", "lab")
SIZES = ("1024x1024", "1792x1024", "1024x1792")
QUALITIES = ("standard", "hd")

EXAMPLE = Path(__file__).parent.parent.parent / "config.example.yaml"

#: Names that may appear at the first event: what the upstream answers is not known before.
UNFORESEEN = "gateway_upstream_responses_total"

_SAMPLE = re.compile(r"^(\w+(?:\{.*\})?) (\S+)$", re.MULTILINE)
_LABELS = re.compile(r'(\w+)="([^"]*)"')

Samples = Mapping[str, float]
Kind = tuple[str, str, str]  # team, size, quality


def scrape(gateway: Running) -> dict[str, float]:
    """Every sample by its name and labels as they stand in the text."""
    text = httpx.get(f"{gateway.admin_url}/metrics", timeout=20, verify=NO_TLS).raise_for_status().text
    found = [(name, float(value)) for name, value in _SAMPLE.findall(text)]
    assert len(found) == len(dict(found)), "no series stands twice"
    return dict(found)


def images(samples: Samples, name: str = "gateway_images_total") -> Counter[Kind]:
    """Images by team, size and quality."""
    found: Counter[Kind] = Counter()
    for sample, value in samples.items():
        if sample.startswith(f"{name}{{") and value:
            labels = dict(_LABELS.findall(sample))
            found[labels["team"], labels["size"], labels["quality"]] += int(value)
    return found


def total(samples: Samples, name: str, **labels: str) -> float:
    return sum(
        value
        for sample, value in samples.items()
        if sample.partition("{")[0] == name and labels.items() <= dict(_LABELS.findall(sample)).items()
    )


def bound(gateway: Running) -> int:
    """What `gateway check` says of this gateway's config."""
    return series_bound(compile_settings(load(gateway.folder / "config.yaml"), {"TEST_UPSTREAM_KEY": UPSTREAM_KEY}))


def is_counter(sample: str) -> bool:
    return sample.partition("{")[0].endswith(("_total", "_bucket", "_count", "_sum"))


def whole_config(upstream: str, *, workers: int, patience: str) -> dict[str, Any]:
    """Teams with rules of every kind. patience: the time that the upstream has for an answer."""
    config = base_config(upstream=upstream, workers=workers)
    model = config["models"]["dall-e-3"]
    config["models"]["drawing"] = {
        **model,
        "endpoints": ["generations"],
        "sizes": ["1024x1024"],
        "price_usd": {quality: {"1024x1024": "0.010"} for quality in ("standard", "hd")},
    }
    config["upstream"] |= {"connect_timeout": "1s", "total_timeout": patience}
    config["request_limits"] = {"body_idle_timeout": "1s", "body_total_timeout": "1s"}
    windows = ["minute", "hour", "day", "week", "month", "total"]
    config["teams"]["design"]["quotas"] = [
        *({"images": 100_000, "per": per} for per in windows),
        {"usd": 100_000, "per": "month"},
        {"concurrent": 100, "wait": "1s"},
        {"images": 10, "per": "day", "mode": "shadow", "name": "trial"},
    ]
    # One rule for each kind of image: the store's own count of what is charged, from the moment it is reserved.
    kinds = [
        {"images": 100_000, "per": "day", "size": size, "quality": quality, "name": f"of-{size}-{quality}"}
        for size in SIZES
        for quality in QUALITIES
    ]
    config["teams"]["design"]["quotas"] += kinds
    config["teams"]["lab"] = team("lab", {"quotas": kinds})
    config["teams"]["tight"] = team("tight", {"quotas": [{"images": 1, "per": "day"}]})
    config["teams"]["hd"] = team("hd", {"qualities": ["hd"], "unlimited": True})  # for edits there is none of that
    config["teams"]["late"] = team("late", {})
    config["teams"]["late"]["keys"][0]["expires"] = "2020-01-01"
    config["teams"]["gone"] = team("gone", {"suspended": "budget review"})
    config["organization"] = {"quotas": [{"usd": 100_000, "per": "month"}]}
    return config


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorThread) -> Iterator[Running]:
    with running_gateway(config=whole_config(simulator.base_url, workers=WORKERS, patience="30s")) as running:
        yield running


class Watch:
    """Scrapes on and on in a thread of its own, and remembers every counter that ever went back."""

    def __init__(self, gateway: Running) -> None:
        self._gateway, self._over = gateway, threading.Event()
        self.went_back: list[str] = []
        self.scrapes = 0
        self._last: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.25):
            with contextlib.suppress(httpx.TransportError):  # of a worker that was killed
                now = scrape(self._gateway)
                self.scrapes += 1
                self.went_back += [
                    f"{sample} {before} -> {now.get(sample)}"
                    for sample, before in self._last.items()
                    if is_counter(sample) and now.get(sample, -1.0) < before
                ]
                self._last = now


@dataclass(slots=True)
class Work:
    """300 orders of all kinds by a dozen clients. Each is told apart by its `user`, which the upstream records.

    heard: images of orders with a 200; lost: of those whose connection broke, by the order's number.
    """

    gateway: Running
    heard: Counter[Kind] = field(default_factory=Counter)
    lost: dict[int, tuple[Kind, int]] = field(default_factory=dict)
    ended: int = 0

    def lost_images(self) -> Counter[Kind]:
        images: Counter[Kind] = Counter()
        for kind, n in self.lost.values():
            images[kind] += n
        return images

    async def run(self, *, kills: Sequence[int]) -> list[int]:
        """kills: after so many ends, the worker with the most connections is killed. Their process ids."""
        numbers = iter(range(REQUESTS))
        left, killed = list(kills), []
        clients = [asyncio.create_task(self._client(numbers)) for _ in range(CLIENTS)]
        while not all(client.done() for client in clients):
            if left and self.ended >= left[0]:
                left.pop(0)
                killed.append(max(stream.workers(self.gateway), key=stream.descriptors))
                os.kill(killed[-1], signal.SIGKILL)
            await asyncio.sleep(0.002)
        for client in clients:
            client.result()
        assert not left
        return killed

    async def _client(self, numbers: Iterator[int]) -> None:
        line: stream.Stream | None = None
        async with contextlib.AsyncExitStack() as stack:
            for number in numbers:
                if line is None:
                    line = await stack.enter_async_context(connected(self.gateway.url))
                kind, n, request = order(number)
                try:
                    answer = await line.ask(request)
                except (ConnectionError, EOFError):
                    line = None
                    self.lost[number] = (kind, n)
                else:
                    assert answer.status == 200, answer
                    self.heard[kind] += n
                self.ended += 1


def order(number: int) -> tuple[Kind, int, bytes]:
    """The order of this number: what it is for, how many images, the request. Every fifth is an edit."""
    name = TEAMS[number % 2]
    size = SIZES[number % 3]
    key, user = SECRETS[name], f"order {number}"
    if number % 5 == 0:
        n = number // 5 % 2 + 1
        texts = {"prompt": "a lighthouse", "n": str(n), "size": size, "user": user}
        parts = [wire.image(wire.png()), *(wire.text(*field) for field in texts.items())]
        return (name, size, "standard"), n, wire.edit(key, *parts)
    n, quality = number % 4 + 1, QUALITIES[number // 2 % 2]
    return (name, size, quality), n, wire.generation(key, n=n, size=size, quality=quality, user=user)


def made(simulator: SimulatorThread) -> tuple[Counter[Kind], dict[int, int]]:
    """What the upstream made: by kind and by the order's number."""
    kinds: Counter[Kind] = Counter()
    numbers: dict[int, int] = {}
    for request in simulator.record.requests:
        if request.images_made:
            number = int(str(request.field("user")).removeprefix("order "))
            kinds[order(number)[0]] += request.images_made
            assert number not in numbers, "an order is made once"
            numbers[number] = request.images_made
    return kinds, numbers


def kill_two(gateway: Running, simulator: SimulatorThread) -> Work:
    """The work, with two of the workers killed in the midst of it. All that still lives has ended afterwards."""
    simulator.record.clear()
    simulator.script({"latency": 0.03, "times": REQUESTS})
    work = Work(gateway)
    killed = set(asyncio.run(work.run(kills=(REQUESTS // 3, 2 * REQUESTS // 3))))
    assert len(killed) == 2
    simulator.simulator.clear_script()
    wait_until(lambda: len(stream.workers(gateway)) == WORKERS and not killed & set(stream.workers(gateway)))
    wait_until(lambda: scrape(gateway)["gateway_inflight_limit"] == WORKERS * 5000)
    return work


@dataclass(frozen=True, slots=True)
class Sums:
    """Images by kind: on /metrics, in the store, at the upstream, and those flagged as unknown on /metrics."""

    counted: Counter[Kind]
    stored: Counter[Kind]
    made: Counter[Kind]
    unknown: Counter[Kind]


def sums(gateway: Running, simulator: SimulatorThread, before: Samples) -> Sums:
    """before: a scrape from before the work; the store was empty then."""
    now = scrape(gateway)
    stored: Counter[Kind] = Counter()
    for name in TEAMS:
        usage = wire.ask(gateway.url, wire.head("/v1/usage", key=SECRETS[name], method="GET", content_type=None)).json()
        for rule in usage["rules"]:
            if rule["rule"].startswith("of-") and rule["used"]:
                _, size, quality = rule["rule"].split("-")
                stored[name, size, quality] = rule["used"]
    unknown = images(now, "gateway_images_unknown_total") - images(before, "gateway_images_unknown_total")
    return Sums(images(now) - images(before), stored, made(simulator)[0], unknown)


def test_images_are_counted_once_though_workers_are_killed(gateway: Running, simulator: SimulatorThread) -> None:
    """300 mixed orders on 4 workers, two of them killed: images are the upstream's, but for orders that died in flight,
    which stay charged; no counter goes back, no gauge remembers the dead, and their files are taken up again.
    """
    before = scrape(gateway)
    with Watch(gateway) as watch:
        work = kill_two(gateway, simulator)
    assert work.lost, "orders were in flight where a worker was killed"
    lost = work.lost_images()
    found = sums(gateway, simulator, before)
    assert sum(work.heard.values()) + sum(lost.values()) == sum(order(number)[1] for number in range(REQUESTS))
    for kind in {*work.heard, *found.made, *found.stored, *found.counted}:
        # Whatever was made is charged; what is charged and not yet counted died with its worker. An order whose worker
        # was killed between the count and the answer is counted, though nobody heard of it.
        assert work.heard[kind] <= found.counted[kind] <= found.made[kind], kind
        assert found.made[kind] <= found.stored[kind] <= work.heard[kind] + lost[kind], kind
        if kind not in lost:
            assert found.counted[kind] == found.made[kind] == found.stored[kind] == work.heard[kind], kind
    assert found.unknown == Counter()
    assert watch.went_back == []
    assert watch.scrapes >= 2
    check_living(gateway)
    assert len(counter_files(gateway)) == WORKERS


def check_living(gateway: Running) -> None:
    """Gauges of living state are those of four workers at rest, but for the one that is asked."""
    wait_until(lambda: total(scrape(gateway), "gateway_inflight_requests") == 0)
    now = scrape(gateway)
    assert total(now, "gateway_config_info") == WORKERS
    assert now["gateway_inflight_limit"] == WORKERS * 5000
    assert now["gateway_store_up"] == 1
    assert total(now, "gateway_upstream_inflight") == 0
    assert now["gateway_config_last_reload_successful"] == 1


def counter_files(gateway: Running) -> list[Path]:
    """The files that the workers count in: one for each slot that was ever taken."""
    (worker, *_) = stream.workers(gateway)
    for line in Path(f"/proc/{worker}/maps").read_text("utf-8").splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith("counter_"):
            return sorted(path.parent.glob("counter_*.db"))
    raise AssertionError("a worker maps its counters' file")


def test_counters_go_on_over_reloads_and_recycling(gateway: Running) -> None:
    """Over two SIGHUPs and a worker that ends in order no counter goes back, and files grow to two sets at most."""

    def replaced(old: set[int]) -> bool:
        return len(stream.workers(gateway)) == WORKERS and not old & set(stream.workers(gateway))

    before = scrape(gateway)
    with Watch(gateway) as watch:
        for _ in range(2):
            old = set(stream.workers(gateway))
            os.kill(gateway.pid, signal.SIGHUP)
            wait_until(lambda old=old: replaced(old), seconds=20)  # type: ignore[misc]  # the lambda's default
        one = stream.workers(gateway)[0]
        os.kill(one, signal.SIGTERM)
        wait_until(lambda: replaced({one}), seconds=20)
        wire.ask(gateway.url, wire.generation(SECRETS["free"]))
        wait_until(lambda: scrape(gateway)["gateway_inflight_limit"] == WORKERS * 5000)
    assert watch.went_back == []
    assert images(scrape(gateway)) - images(before) == {("free", "1024x1024", "standard"): 1}
    assert WORKERS <= len(counter_files(gateway)) <= 2 * WORKERS
    check_living(gateway)


def traffic(url: str, simulator: SimulatorThread) -> None:
    """One request of every kind that the table of errors knows and this gateway can be brought to, and good ones."""
    free, design, tight = SECRETS["free"], SECRETS["design"], SECRETS["tight"]
    body = b'{"prompt": "x"}'
    requests: list[bytes] = [
        wire.generation(free), wire.generation(design, n=10, quality="hd"), wire.generation(design, n=5),
        wire.generation(free, model="drawing"), wire.generation(free, response_format="b64_json"),
        wire.edit(free, wire.image(wire.png()), wire.text("prompt", "x")),
        wire.edit(design, wire.image(wire.png()), wire.text("prompt", "x")),
        wire.generation(None), wire.generation("sk-nobody"), wire.generation("igw_" + "a" * 43),
        wire.generation(SECRETS["gone"]), wire.generation(SECRETS["late"]),
        wire.generation(free, model="none-such"), wire.generation(free, size="1x1"),
        wire.generation(free, colour="red"), wire.generation(free, n=100), wire.generation(tight, n=2),
        wire.generation(tight), wire.generation(tight),
        wire.generation(free, "X-Stainless-Retry-Count: 2"), wire.generation_of(b"{", free),
        wire.generation_of(b'{"prompt": "' + b"a" * 600_000 + b'"}', free),
        wire.head(wire.GENERATIONS, f"Content-Length: {len(body)}", key=free, content_type="text/plain") + body,
        wire.head(wire.GENERATIONS, "Content-Length: 5", key=free) + b"{",
        wire.edit(free, wire.image(b"no png"), wire.text("prompt", "x")),
        wire.head("/v1/elsewhere", key=free, method="GET"), wire.head("/v1/images/edits", key=free, method="GET"),
        wire.head("/v1/models", key=free, method="GET"), wire.head("/v1/models/dall-e-3", key=design, method="GET"),
        wire.head("/v1/models/none", key=design, method="GET"), wire.head("/v1/usage", key=design, method="GET"),
        wire.head("/v1/usage", key=None, method="GET"), wire.head("/v1/usage", key=SECRETS["gone"], method="GET"),
    ]  # fmt: skip
    for request in requests:
        wire.ask(url, request)
    for behaviour in (
        {"status": 400, "body": {"error": {"message": "no", "type": "x", "param": None, "code": "its_own"}}},
        {"status": 401}, {"status": 402}, {"status": 404}, {"status": 429, "headers": {"retry-after": "1"}},
        {"status": 500}, {"status": 502}, {"status": 503}, {"fault": "drop"}, {"fault": "cut"}, {"fault": "hang"},
        {"status": 200, "body": "<html>"}, {"images": 1},
    ):  # fmt: skip
        simulator.script(behaviour)
        wire.ask(url, wire.generation(free, n=2))
    with wire.connected(url) as left:
        left.send(wire.edit_head(free, length=1000) + b"--")


def test_every_series_stands_at_0_before_its_first_event(simulator: SimulatorThread) -> None:
    """Traffic of every kind adds no series to those of the start but exact upstream statuses, nor do invented names
    by the thousand; the bound that `gateway check` prints is above the real number and below twice that.
    """
    config = whole_config(simulator.base_url, workers=1, patience="2s")
    with running_gateway(config=config) as gateway:
        start = scrape(gateway)
        assert {
            sample for sample, value in start.items() if is_counter(sample) and value and "store" not in sample
        } == set()
        traffic(gateway.url, simulator)
        after = scrape(gateway)
        new = {sample.partition("{")[0] for sample in set(after) - set(start)}
        assert new <= {UNFORESEEN}, sorted(set(after) - set(start))
        assert set(start) <= set(after)
        outcomes = {
            dict(_LABELS.findall(s))["outcome"]
            for s, v in after.items()
            if s.startswith("gateway_requests_total{") and v
        }
        assert len(outcomes) >= 9, outcomes
        asyncio.run(invent(gateway.url, INVENTED))
        assert set(scrape(gateway)) == set(after)
        assert len(after) <= bound(gateway) < 2 * len(after)


async def invent(url: str, number: int) -> None:
    """So many requests with names that nobody has: models, sizes, qualities, paths, keys."""
    names = (f"invented{i}" for i in itertools.count())
    picture = wire.image(wire.png())

    def junk(name: str, kind: int) -> bytes:
        match kind:
            case 0:
                return wire.generation(SECRETS["free"], model=name)
            case 1:
                return wire.generation(SECRETS["free"], size=name)
            case 2:
                return wire.generation(SECRETS["free"], quality=name, user=name)
            case 3:
                return wire.edit(SECRETS["hd"], picture, wire.text("prompt", "x"), wire.text(name, name))
            case 4:
                return wire.head(f"/v1/{name}", key=SECRETS["free"], method="GET", content_type=None)
            case _:
                return wire.head("/v1/models", f"X-{name}: 1", key=name, method="GET", content_type=None)

    async def client(count: int) -> None:
        async with connected(url) as line:
            for start in range(0, count, 20):
                await line.send(b"".join(junk(next(names), i % 6) for i in range(start, start + 20)))
                for _ in range(20):
                    assert 400 <= (await line.answer()).status < 500

    await asyncio.gather(*(client(number // 10) for _ in range(10)))


def test_the_vocabulary_is_whole() -> None:
    """Every outcome and code that an error class can have is among those that are there from the start."""

    def classes(root: type[GatewayError]) -> Iterator[type[GatewayError]]:
        yield root
        for error in root.__subclasses__():
            yield from classes(error)

    assert {error.outcome for error in classes(GatewayError)} <= set(OUTCOMES)
    assert {error.code for error in classes(GatewayError) if isinstance(error.code, str)} <= set(CODES)


@pytest.mark.debian("prometheus")
def test_prometheus_finds_nothing_to_criticize(gateway: Running) -> None:
    """`promtool check metrics` reads the page after traffic and has no remark."""
    wire.ask(gateway.url, wire.generation(SECRETS["design"]))
    text = httpx.get(f"{gateway.admin_url}/metrics", timeout=20, verify=NO_TLS).content
    promtool = shutil.which("promtool")
    assert promtool is not None
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_bound_fits_the_example(simulator: SimulatorThread) -> None:
    """On the example config, too, `gateway check` promises no fewer series than there are, and less than twice that."""
    example: dict[str, Any] = YAML(typ="safe").load(EXAMPLE.read_text("utf-8"))
    example["upstream"] |= {"base_url": simulator.base_url}
    for account in example["upstream"]["accounts"]:
        account["api_key"] = "env:TEST_UPSTREAM_KEY"
    example["store"] = {"kind": "embedded", "data_dir": "./data"}
    del example["jwt_issuers"]  # its keys are on somebody's server
    with running_gateway(config=example) as gateway:
        assert len(scrape(gateway)) <= bound(gateway) < 2 * len(scrape(gateway))


@pytest.mark.slow
def test_what_died_with_its_worker_is_presumed_in_the_end(simulator: SimulatorThread) -> None:
    """Orders that were in flight on killed workers are, when their time is over, counted as charged and unknown: then
    metrics, store and upstream agree but for orders that never arrived there. Takes 70 s.
    """
    with running_gateway(config=whole_config(simulator.base_url, workers=WORKERS, patience="10s")) as gateway:
        before = scrape(gateway)
        work = kill_two(gateway, simulator)
        early = sums(gateway, simulator, before)
        died = early.stored - early.counted
        assert died
        ends = time.monotonic() + 85
        while (late := sums(gateway, simulator, before)).counted != late.stored and time.monotonic() < ends:
            time.sleep(1)
        assert late.stored == early.stored
        # A worker may die between the store's booking of an end and its own counting of it: those stay uncounted.
        uncounted = late.stored - late.counted
        assert late.unknown + uncounted == died
        assert 1 <= total(scrape(gateway), "gateway_reservations_expired_total") <= len(work.lost)
        for kind in late.counted:
            charged = late.counted[kind] + uncounted[kind]
            assert late.made[kind] <= charged <= late.made[kind] + late.unknown[kind], kind


def test_a_scrape_holds_nobody_up(simulator: SimulatorThread) -> None:
    """While a scrape reads the workers' files, here one that never ends, the same worker serves requests."""
    with running_gateway(upstream=simulator.base_url) as gateway:
        folder = counter_files(gateway)[0].parent
        endless = folder / "counter_99.db"
        os.mkfifo(endless)
        with ThreadPoolExecutor() as pool:
            scraping = pool.submit(scrape, gateway)
            writer = endless.open("wb")  # returns once the scrape has opened the other end
            try:
                answer = wire.ask(gateway.url, wire.generation(SECRETS["free"]))
                assert not scraping.done()
            finally:
                writer.write((8).to_bytes(8, "little"))  # a file without values
                writer.close()
        assert answer.status == 200
        assert total(scraping.result(), "gateway_build_info") == 1
