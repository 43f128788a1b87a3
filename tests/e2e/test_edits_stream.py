"""Edits go up as they arrive: nothing is kept, nothing is changed, and nothing is complete before it is paid for."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import permutations
from pathlib import Path

import pytest

from gateway.simulator.record import RecordedRequest
from gateway.simulator.script import Behaviour
from tests.e2e import wire
from tests.e2e.conftest import config
from tests.e2e.rows import PROMPT
from tests.e2e.watching import Watched, changes
from tests.e2e.wire import Part
from tests.simulator.pictures import png
from tests.support.rawserver import Peer, RawServer
from tests.support.running import SECRETS, running_gateway
from tests.support.simulated import SimulatorThread
from tests.support.site import wait_until

FOUR_MB = 4 * 1024 * 1024

LARGE = wire.png(length=FOUR_MB)
SMALL = png()
WORDS = wire.text("prompt", PROMPT)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _only(watched: Watched) -> RecordedRequest:
    (request,) = watched.simulator.record.requests
    return request


def _sent(body: bytes, *, chunked: bool, piece: int) -> tuple[int | None, list[bytes]]:
    """The announced length, and the body in pieces."""
    if chunked:
        return None, list(wire.chunks(body, size=piece))
    return len(body), [body[start : start + piece] for start in range(0, len(body), piece)]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("piece", [1000, 65536, FOUR_MB * 2])
def test_four_megabytes_arrive_as_they_were_sent(piece: int, chunked: bool, roomy: Watched) -> None:
    """A file of exactly 4 MB with n and size behind it: the same bytes, the texts after it, the order as decided."""
    body = wire.form(wire.image(LARGE), WORDS, wire.text("n", "2"), wire.text("size", "1792x1024"))
    length, pieces = _sent(body, chunked=chunked, piece=piece)
    answer = wire.ask(roomy.url, wire.edit_head(roomy.key("plain"), length=length), *pieces)
    assert answer.status == 200
    request = _only(roomy)
    assert request.complete
    assert request.framing == "chunked"
    assert [part.name for part in request.parts] == ["image", "model", "n", "size", "prompt"]
    assert (request.part("image").length, request.part("image").sha256) == (FOUR_MB, _sha(LARGE))
    assert request.fields == (("model", "dall-e-3"), ("n", "2"), ("size", "1792x1024"), ("prompt", PROMPT))
    assert request.images_made == 2


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=lambda order: "".join(map(str, order)))
def test_parts_come_in_any_order(order: tuple[int, ...], roomy: Watched) -> None:
    """Image, mask, prompt and n in whichever order: up go the files in theirs, then the texts in the gateway's."""
    name = "image" if order[0] % 2 else "image[]"
    mask = png(color=(0, 0, 0, 0))
    parts: list[Part] = [wire.image(SMALL, name), wire.image(mask, "mask"), WORDS, wire.text("n", "3")]
    answer = wire.ask(roomy.url, wire.edit(roomy.key("plain"), *(parts[index] for index in order)))
    assert answer.status == 200
    request = _only(roomy)
    files = [("image", _sha(SMALL)), ("mask", _sha(mask))]
    if order.index(1) < order.index(0):
        files.reverse()
    assert [(part.name, part.sha256) for part in request.parts if part.filename is not None] == files
    assert [part.name for part in request.parts][2:] == ["model", "n", "size", "prompt"]
    assert request.field("n") == "3"


def test_first_bytes_go_up_before_the_last_have_come() -> None:
    """The upstream holds the file's first bytes while the client has not sent its last; the texts come at the end."""
    asyncio.run(_first_before_last())


async def _first_before_last() -> None:
    body = wire.form(wire.image(LARGE), WORDS)
    half = len(body) // 2
    came = bytearray()
    done = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.read_head()
        while not came.endswith(b"0\r\n\r\n"):
            came.extend(await peer.reader.read(65536))
        answer = b'{"data": [{"url": "https://x.test/1"}]}'
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        done.set()

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110  it is looked at, not told
                await asyncio.sleep(0.005)

    async with RawServer(script) as server:
        with running_gateway(config=config(f"{server.url}/v1")) as gateway:
            key = SECRETS["plain"]
            port = int(gateway.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(wire.edit_head(key, length=len(body)) + body[:1000])
            await until(lambda: LARGE[:500] in came)
            writer.write(body[1000:half])
            # But for what lies in sockets and in the look-ahead for a delimiter, all of it goes up at once.
            await until(lambda: len(came) > half - 1000)
            writer.write(body[half:-10])
            await until(lambda: LARGE[-500:] in came)
            assert b"prompt" not in came
            assert gateway.metric("gateway_period_images", team="plain") == 0
            writer.write(body[-10:])
            await asyncio.wait_for(done.wait(), 10)
            assert b"prompt" in came
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_more_than_is_left_is_refused_after_the_file(chunked: bool, roomy: Watched) -> None:
    """n behind the file is over the quota: 429, the upstream's request stays incomplete, and no counter has moved."""
    used = roomy.used("few")
    before = roomy.counters()
    body = wire.form(wire.image(LARGE), WORDS, wire.text("n", "3"))
    length, pieces = _sent(body, chunked=chunked, piece=65536)
    answer = wire.ask(roomy.url, wire.edit_head(roomy.key("few"), length=length), *pieces)
    assert (answer.status, answer.error["code"]) == (429, "insufficient_quota")
    roomy.simulator.record.wait_for(lambda totals: totals.incomplete == 1)
    request = _only(roomy)
    assert not request.complete
    assert request.body_length > FOUR_MB
    assert roomy.simulator.record.totals.images_made == 0
    changed = changes(before, roomy.counters())
    assert {name for name, _ in changed} == {
        "gateway_requests_total",
        "gateway_errors_total",
        "gateway_quota_refusals_total",
    }
    assert roomy.used("few") == used


def test_a_slot_is_held_from_the_head_on_and_freed_by_the_end(roomy: Watched) -> None:
    """With room for one, an upload in progress refuses the next by its head alone, and its refusal makes room again."""
    key = roomy.key("single")
    body = wire.form(wire.image(b"GIF89a" + bytes(100)), WORDS)
    with wire.connected(roomy.url) as first:
        first.send(wire.edit_head(key, length=len(body)))
        wait_until(lambda: roomy.used("single")["concurrent"] == 1)
        refused = wire.ask(roomy.url, wire.edit_head(key, "Expect: 100-continue", length=FOUR_MB))
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        first.send(body)
        assert first.read().status == 400
    wait_until(lambda: roomy.used("single")["concurrent"] == 0)
    assert wire.ask(roomy.url, wire.edit(key, wire.image(SMALL), WORDS)).status == 200
    wait_until(lambda: roomy.used("single")["concurrent"] == 0)


def test_uploads_take_no_memory(roomy: Watched) -> None:
    """Sixteen uploads of 4 MB, all under way at once and short of their last bytes, cost less than 1 MB each."""
    uploads = 16
    files = [wire.png(length=FOUR_MB, filler=number) for number in range(3, 3 + uploads)]
    key = roomy.key("plain")
    assert wire.ask(roomy.url, wire.edit(key, wire.image(LARGE), WORDS)).status == 200
    before = _resident(roomy.worker())
    with ExitStack() as stack:
        connections = [stack.enter_context(wire.connected(roomy.url)) for _ in files]
        bodies = [wire.form(wire.image(file), WORDS) for file in files]
        for connection, body in zip(connections, bodies, strict=True):
            connection.send(wire.edit_head(key, length=len(body)))
        most = before
        step = 128 * 1024
        for start in range(0, FOUR_MB, step):
            for connection, body in zip(connections, bodies, strict=True):
                connection.send(body[start : start + step])
            most = max(most, _resident(roomy.worker()))
        assert roomy.metric("gateway_inflight_requests", endpoint="edits") == uploads
        assert most - before < uploads * 1024 * 1024, f"{(most - before) / 1e6:.1f} MB"
        for connection, body in zip(connections, bodies, strict=True):
            connection.send(body[FOUR_MB:])
        assert [connection.read().status for connection in connections] == [200] * uploads
    arrived = {request.part("image").sha256 for request in roomy.simulator.record.requests}
    assert arrived == {_sha(file) for file in [LARGE, *files]}


def _resident(pid: int) -> int:
    """Bytes of a process in memory."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    (size,) = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(size) * 1024


@pytest.fixture
def fresh(simulator: SimulatorThread) -> Iterator[Watched]:
    """A gateway that has sent no edit yet."""
    with running_gateway(config=config(simulator.base_url)) as gateway:
        yield Watched(gateway, simulator)


@pytest.mark.parametrize("status", [411, 501])
def test_an_upstream_that_wants_lengths_gets_them(status: int, fresh: Watched) -> None:
    """After a 411 or a 501 edits are written to a file first and go up with their length, the same bytes."""
    key = fresh.key("plain")
    files = _nameless_files(fresh.worker())
    fresh.simulator.script(Behaviour(endpoint="edits", status=status))
    upload = wire.edit(key, wire.image(LARGE), WORDS, wire.text("n", "2"))
    refused = wire.ask(fresh.url, upload)
    assert (refused.status, refused.error["code"]) == (502, "upstream_error")
    assert fresh.used("plain")["images-day"] == 0
    assert [wire.ask(fresh.url, upload).status for _ in range(2)] == [200, 200]
    first, *rest = fresh.simulator.record.requests
    assert first.framing == "chunked"
    assert [request.framing for request in rest] == ["content-length"] * 2
    for request in rest:
        assert request.complete
        assert request.part("image").sha256 == _sha(LARGE)
        assert request.field("n") == "2"
    assert fresh.used("plain")["images-day"] == 4
    fresh.counters()
    assert _nameless_files(fresh.worker()) == files


def _nameless_files(pid: int) -> int:
    """How many files a process has open that no folder holds: spooled bodies, and one of gunicorn's."""
    found = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += "deleted" in str(path.readlink())
    return found


def test_a_spooled_edit_over_the_quota_never_goes_up(simulator: SimulatorThread) -> None:
    """With edit_framing spool an edit that is refused costs the upstream not even a connection."""
    whole = config(simulator.base_url)
    whole["upstream"]["edit_framing"] = "spool"
    whole["teams"]["plain"]["quotas"] = [{"images": 2, "per": "day"}]
    with running_gateway(config=whole) as gateway:
        watched = Watched(gateway, simulator)
        key = watched.key("plain")
        refused = wire.ask(watched.url, wire.edit(key, wire.image(LARGE), WORDS, wire.text("n", "3")))
        assert refused.status == 429
        assert simulator.record.totals.connections_opened == 0
        taken = wire.ask(watched.url, wire.edit(key, wire.image(LARGE), WORDS, wire.text("n", "2")))
        assert taken.status == 200
        assert _only(watched).framing == "content-length"
