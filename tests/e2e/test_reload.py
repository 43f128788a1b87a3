"""A saved config takes effect in all workers within two seconds, whole or not at all, and costs no request."""

import hashlib
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import wire
from tests.e2e.saving import (
    PROMPT,
    WORKERS,
    Change,
    Site,
    Way,
    as_kubernetes_does,
    given_back,
    in_pieces,
    in_place,
    running_on,
    suspend,
)
from tests.e2e.watching import Watched
from tests.support.running import SECRETS, base_config
from tests.support.simulated import API_KEY, running_simulator
from tests.support.site import team, wait_until

pytestmark = pytest.mark.slow

#: Reloads under load; each takes half a second. The long form, which prints its figures:
#: GATEWAY_RELOADS=1000 python -m pytest -m slow --timeout 1200 -s -k mix tests/e2e/test_reload.py
RELOADS = int(os.environ.get("GATEWAY_RELOADS", "24"))

OTHER_KEY = "sk-simulator-rotated-9876"


@pytest.fixture(scope="module")
def one_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    key = tmp_path_factory.mktemp("secret") / "key"
    key.write_text(API_KEY)
    with running_simulator(api_keys=(API_KEY, OTHER_KEY)) as simulator:
        config = base_config(upstream=simulator.base_url, workers=WORKERS)
        config["upstream"]["accounts"][0]["api_key"] = f"file:{key}"
        config["teams"]["tight"] = team("tight", {"quotas": [{"images": 5, "per": "day"}]})
        with running_on(simulator, config) as site:
            yield site


@pytest.fixture
def site(one_site: Site) -> Iterator[Site]:
    """The gateway on its first config, which it gets back afterwards."""
    with given_back(one_site) as site:
        yield site


@pytest.mark.parametrize("way", [in_place, as_kubernetes_does, in_pieces], ids=lambda way: way.__name__)
def test_a_saved_change_is_in_force_in_all_workers(site: Site, way: Way) -> None:
    """However the file is replaced, every worker suspends the team, and takes it back when that is saved."""
    assert site.statuses() == {200}
    before = site.reloads()
    site.apply(suspend("free"), way)
    assert site.statuses() == {403}
    version = site.put(site.original, way)
    wait_until(lambda: site.in_force(version), seconds=PROMPT)
    assert site.statuses() == {200}
    if way is not in_pieces:
        assert site.reloads() == (before[0] + 2, before[1]), "one change of the file is one reload, for all workers"


def test_a_change_is_told_once_and_in_words(site: Site) -> None:
    """One line of the whole gateway's log says what was changed, and so does the dashboard; a team sees neither."""

    def change(tree: Any) -> None:
        tree["teams"]["free"]["suspended"] = "told once"

    version = site.apply(change)
    log = Watched(site.gateway, site.simulator)
    (line,) = wait_until(lambda: log.lines(event="config reloaded", config_hash=version))
    assert line["changes"] == ["free: suspended: told once"]
    assert line["old_hash"] == hashlib.sha256(site.original).hexdigest()[:12]
    assert "free: suspended: told once" in site.page()
    latest = site.verbose()["reloads"][0]
    assert (latest["result"], latest["hash"], latest["told"]) == ("success", version, 1)
    request = wire.head("/readyz?verbose", key=None, method="GET", content_type=None)
    assert wire.ask(site.gateway.url, request).json() == {"status": "ready"}


def test_a_wrong_file_changes_nothing_and_shows_everywhere(site: Site) -> None:
    """Teams go on; metric, log, readiness and dashboard say what is wrong where, until a good file is saved."""
    before = site.verbose()["config"]["hash"]

    def change(tree: Any) -> None:
        suspend("free")(tree)
        tree["teams"]["design"]["quotas"][0]["images"] = "1.000"

    site.refuse(change)
    assert site.gateway.metric("gateway_config_info", hash=before) == WORKERS
    assert site.statuses() == {200}
    (problem,) = site.problems()
    assert "config.yaml" in problem
    assert "teams.design.quotas" in problem
    assert "1.000" in problem
    assert site.verbose()["config"]["hash"] == before
    assert "is not in force" in site.page()
    assert "teams.design.quotas" in site.page()
    log = Watched(site.gateway, site.simulator)
    refusals = log.lines(event="config refused, the old one stays")
    assert len([line for line in refusals if line["problems"] == [problem]]) == 1
    site.put(site.original)
    wait_until(lambda: site.in_force(before), seconds=PROMPT)
    assert site.problems() == []
    assert "is not in force" not in site.page()


def test_what_needs_a_restart_refuses_the_whole_change(site: Site) -> None:
    """A change of a listener, the workers or the store is named, and the rest of that file waits with it."""

    def change(tree: Any) -> None:
        suspend("free")(tree)
        tree["listen"]["workers"] = 3
        tree["store"]["when_down"] = "allow"

    site.refuse(change)
    (problem,) = site.problems()
    assert "listen, store" in problem
    assert "restart" in problem
    assert site.statuses() == {200}


def test_a_file_that_is_away_ends_nothing(site: Site) -> None:
    """Deleted, the config stays in force and that the file is missing shows; put back changed, it is taken."""
    site.path.unlink()
    assert site.statuses() == {200}
    wait_until(lambda: site.gateway.metric("gateway_config_last_reload_successful") == 0, seconds=PROMPT + 2)
    wait_until(site.problems)
    site.put(site.original)
    site.apply(suspend("free"))
    assert site.statuses() == {403}


def test_a_request_in_flight_keeps_the_config_it_began_with(site: Site) -> None:
    """Its team is suspended while the upstream draws: the picture comes and is charged, the next request is refused."""
    site.simulator.script({"latency": PROMPT + 1})
    with ThreadPoolExecutor() as pool:
        early = pool.submit(site.ask)
        site.simulator.record.wait_for(lambda totals: totals.in_flight == 1)
        site.apply(suspend("free"))
        assert not early.done()
        late = site.ask()
        assert (late.status, late.error["code"]) == (403, "team_suspended")
        assert early.result().status == 200
    assert site.simulator.record.totals.images_made == 1


def test_a_revoked_key_opens_nothing(site: Site) -> None:
    """A key that was taken out of the file is refused by every worker, on connections that were open before as well."""
    with wire.connected(site.gateway.url) as connection:
        connection.send(wire.generation(SECRETS["free"]))
        assert connection.read().status == 200

        def change(tree: Any) -> None:
            tree["teams"]["free"]["keys"].clear()

        site.apply(change)
        connection.send(wire.generation(SECRETS["free"]))
        assert connection.read().status == 401
    assert site.statuses() == {401}


def test_a_raised_limit_keeps_what_was_used(site: Site) -> None:
    """Two of five images used are two of seven after the change, and two of one when it is lowered; the audit line of
    each change has what was used by then.
    """
    assert [site.ask("tight").status for _ in range(2)] == [200, 200]
    watched = Watched(site.gateway, site.simulator)

    def limit(images: int) -> Change:
        def change(tree: Any) -> None:
            tree["teams"]["tight"]["quotas"][0]["images"] = images

        return change

    for images, expected in ((7, 200), (1, 429)):
        version = site.apply(limit(images))
        (line,) = wait_until(partial(watched.lines, event="config reloaded", config_hash=version))
        assert line["changes"] == ["tight: images-day " + ("5 -> 7; 2 used" if images == 7 else "7 -> 1; 3 used")]
        used = watched.used("tight")["images-day"]
        (rule,) = watched.usage("tight")["rules"]
        assert (rule["limit"], used) == (images, 2 if images == 7 else 3)
        assert site.ask("tight").status == expected


def test_a_new_team_has_all_its_series_at_once(site: Site) -> None:
    """A team that is added counts from 0 before its first request, in every worker's metrics, and may ask."""

    def change(tree: Any) -> None:
        tree["teams"]["newcomer"] = team("newcomer", {"quotas": [{"images": 5, "per": "day"}]})

    site.apply(change)
    text = site.exposition()
    for series in (
        'gateway_requests_total{endpoint="generations",model="dall-e-3",outcome="ok",team="newcomer"} 0.0',
        'gateway_errors_total{code="team_suspended",team="newcomer"} 0.0',
        'gateway_quota_used{mode="enforce",per="day",rule="images-day",team="newcomer",unit="images"} 0.0',
        'gateway_quota_refusals_total{mode="enforce",per="day",rule="images-day",team="newcomer"} 0.0',
    ):
        assert series in text
    assert site.statuses("newcomer", times=4) == {200}


def test_a_date_for_never_ends_no_worker(site: Site) -> None:
    """A key and a grant until 9999-12-31 come into force, are told once, and the same workers go on."""

    def change(tree: Any) -> None:
        tree["teams"]["design"]["keys"][0]["expires"] = "9999-12-31"
        first = tree["teams"]["tight"]["quotas"][0]
        tree["teams"]["tight"]["quotas"].append({**first, "adds_to": "images-day", "until": "9999-12-31"})

    before = site.workers()
    version = site.apply(change)
    log = Watched(site.gateway, site.simulator)
    (line,) = wait_until(lambda: log.lines(event="config reloaded", config_hash=version))
    assert any("9999-12-31" in words for words in line["changes"])
    assert site.statuses() == {200}
    assert site.workers() == before
    assert "9999-12-31" in site.page()


def test_a_full_disk_keeps_no_change_out(site: Site) -> None:
    """While no file can grow, a saved change binds all workers; so does the next one, and then all say what they are
    on.
    """
    workers = site.workers()
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in workers}
    try:
        for pid, (_, hard) in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        site.save(suspend("free"))
        wait_until(lambda: site.statuses() == {403}, seconds=PROMPT)
    finally:
        for pid, limit in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
    site.apply(suspend("design"))
    assert site.statuses("design") == {403}
    assert site.workers() == workers


def test_a_key_that_is_gone_is_watched_no_longer(site: Site) -> None:
    """The expiry of a key that was taken out stands no more in the metrics: nobody is to be warned of its end."""

    def change(tree: Any) -> None:
        tree["teams"]["free"]["keys"][0]["expires"] = "2099-01-01"

    site.apply(change)
    assert site.gateway.metric("gateway_key_expiry_timestamp_seconds", team="free", key="test") > time.time()
    version = site.put(site.original)
    wait_until(lambda: site.in_force(version), seconds=PROMPT)
    assert site.gateway.metric("gateway_key_expiry_timestamp_seconds", team="free", key="test") == 0


@contextmanager
def asking(site: Site, *, threads: int = 2, **fields: object) -> Iterator["Load"]:
    """Requests without a pause while the block runs."""
    load = Load(site, fields)
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(load.run) for _ in range(threads)]
        try:
            yield load
        finally:
            load.over.set()
            for each in running:
                each.result()


@dataclass(slots=True)
class Load:
    """Of every answer its status and the contact that its refusal names; lost: requests without any answer."""

    site: Site
    fields: dict[str, object]
    answers: list[tuple[int, str]] = field(default_factory=list)
    lost: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.over.is_set():
            try:
                answer = self.site.ask(**self.fields)  # type: ignore[arg-type]  # none of them is the team
            except (OSError, EOFError):
                self.lost += 1
                continue
            message = str(answer.error["message"]) if answer.status != 200 else ""
            self.answers.append((answer.status, message.rpartition("Ask ")[2]))


def respawned(site: Site, number: int) -> None:
    """Kill so many workers without a word, and wait till others are at their place and say what they are on."""
    before = site.workers()
    for pid in sorted(before)[:number]:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(site.workers() - before) == number and len(site.workers()) == WORKERS)
    wait_until(lambda: site.gateway.metric("gateway_config_info") == WORKERS)


def test_a_worker_that_is_respawned_begins_with_the_file_as_it_is(site: Site) -> None:
    """After kill -9 of all, none of the new ones lets in a team that was suspended since the master read its config."""
    version = site.apply(suspend("free"))
    with asking(site) as load:
        respawned(site, WORKERS)
        wait_until(lambda: site.in_force(version))
        enough = len(load.answers) + 20
        wait_until(lambda: len(load.answers) > enough)
    assert {status for status, _ in load.answers} == {403}


def test_a_worker_that_is_respawned_beside_a_wrong_file_begins_as_its_siblings_are(site: Site) -> None:
    """It takes the last version that was in force, says that the file is wrong, and goes along with the next one."""
    version = site.apply(suspend("free"))
    site.refuse(b"teams: [")
    with asking(site, threads=1) as load:
        respawned(site, 1)
        wait_until(lambda: site.gateway.metric("gateway_config_info", hash=version) == WORKERS)
        enough = len(load.answers) + 20
        wait_until(lambda: len(load.answers) > enough)
    assert {status for status, _ in load.answers} == {403}
    assert site.gateway.metric("gateway_config_last_reload_successful") == 0


def test_reloads_under_load_fail_no_request_and_mix_nothing(site: Site) -> None:
    """Each request is judged by one version of the config alone, as its log line says, and each gets its answer."""

    def version_of(name: str, size: str) -> Change:
        def change(tree: Any) -> None:
            tree["contact"] = f"{name}@example.com"
            tree["teams"]["free"]["sizes"] = [size]

        return change

    versions, waits, before = {}, [], site.reloads()
    with asking(site, size="1024x1024") as load:
        for number in range(RELOADS):
            name, size = (("even", "1024x1024"), ("odd", "1792x1024"))[number % 2]
            version = site.save(version_of(name, size))
            saved = time.monotonic()
            wait_until(partial(site.in_force, version), seconds=PROMPT)
            waits.append(time.monotonic() - saved)
            versions[version] = name
    waits.sort()
    figures = [f"{name} {waits[int(len(waits) * share)]:.3f} s" for name, share in (("p50", 0.5), ("p99", 0.99))]
    print(f"{RELOADS} reloads, {len(load.answers)} requests; saved to in force everywhere: {', '.join(figures)}")
    assert site.reloads() == (before[0] + RELOADS, before[1])
    assert (set(load.answers), load.lost) == ({(200, ""), (403, "odd@example.com")}, 0)
    watched = Watched(site.gateway, site.simulator)
    lines = [line for line in watched.lines(event="request", team="free") if line["config_hash"] in versions]
    assert {(versions[line["config_hash"]], line["status"]) for line in lines} == {("even", 200), ("odd", 403)}


def test_a_hangup_reads_secrets_again(site: Site) -> None:
    """After SIGHUP the upstream's key is the one that its file holds now, and no request was lost meanwhile."""
    (account,) = site.gateway.config["upstream"]["accounts"]
    key = Path(account["api_key"].removeprefix("file:"))
    assert site.ask().status == 200
    before = site.workers()
    key.write_text(OTHER_KEY)
    with asking(site, threads=1) as load:
        os.kill(site.gateway.pid, signal.SIGHUP)
        wait_until(lambda: len(site.workers()) == WORKERS and not site.workers() & before, seconds=20)
    assert ({status for status, _ in load.answers}, load.lost) == ({200}, 0)
    site.simulator.record.clear()
    assert site.statuses() == {200}
    sent = {value for request in site.simulator.record.requests for value in request.header("authorization")}
    assert sent == {f"Bearer {OTHER_KEY}"}


def test_a_hangup_whose_secrets_are_gone_changes_nothing(site: Site) -> None:
    """The workers that begin then serve as those before; log, metric and the reloads that are shown say it, once."""
    (account,) = site.gateway.config["upstream"]["accounts"]
    key = Path(account["api_key"].removeprefix("file:"))
    before, workers, kept = site.reloads(), site.workers(), key.read_bytes()
    key.unlink()
    try:
        os.kill(site.gateway.pid, signal.SIGHUP)
        wait_until(lambda: len(site.workers()) == WORKERS and not site.workers() & workers, seconds=20)
        assert site.reloads() == (before[0], before[1] + 1)
        assert site.statuses() == {200}
    finally:
        key.write_bytes(kept)
    line = Watched(site.gateway, site.simulator).lines(event="config refused, the old one stays")[-1]
    assert (line["level"], line["in_force"]) == ("error", line["file_hash"])
    assert key.name in line["problems"][0]


def test_a_hangup_beside_a_saved_change_is_one_reload(site: Site) -> None:
    """Old workers see the change and new ones begin with it: it is counted once, and told with what it changed."""
    before, old = site.reloads(), site.workers()

    def change(tree: Any) -> None:
        tree["teams"]["free"]["suspended"] = "hung up"

    version = site.save(change)
    os.kill(site.gateway.pid, signal.SIGHUP)
    wait_until(lambda: len(site.workers()) == WORKERS and not site.workers() & old, seconds=20)
    wait_until(lambda: site.in_force(version), seconds=PROMPT)
    assert site.statuses() == {403}
    assert site.reloads() == (before[0] + 1, before[1])
    watched = Watched(site.gateway, site.simulator)
    (line,) = wait_until(lambda: watched.lines(event="config reloaded", config_hash=version))
    assert line["changes"] == ["free: suspended: hung up"]
