"""The whole socket of a real gateway under requests that chance has damaged, many at once.

Each connection is damaged, cut and left in its own way; those that are not left wait until the gateway ends them.
What was made is told by the simulator that stands in for 3xCoder, what was charged by the gateway.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from tests.e2e import wire
from tests.e2e.conftest import ISSUERS, token
from tests.support import stream
from tests.support.running import SECRETS, Running, base_config
from tests.support.simulated import SimulatorThread
from tests.support.site import team, wait_until
from tests.support.stream import connected

#: What chance puts in: bytes that mean something to some reader of a head or a body.
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\x00", b"\xff", b" ", b":", b"chunked", b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n", b"0\r\n\r\n", b"--frontier", b"--frontier--\r\n", b'"', b"{", b"}", b"HTTP/1.1",
    b"HTTP/1.0", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"%00", b"/", b"?", b"#", b"http://x/",
    b"\x7f", b'"n":10,', b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"GET ", b"POST ", b"../", b"\r\n ",
    b"ffffffff\r\n",
)  # fmt: skip

#: Seconds after which a connection that nobody has ended hangs: the deadlines below, five for the next request, and
#: what a machine may take that does other things.
HANGS = 25.0

_TEAM = "plain"
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*")


def config(at: str) -> dict[str, object]:
    """Deadlines that pass soon, and quotas that only count."""
    whole = base_config(upstream=at)
    whole["request_limits"] = {"header_timeout": "1s", "body_idle_timeout": "1s", "body_total_timeout": "3s"}
    whole["jwt_issuers"] = ISSUERS
    whole["teams"][_TEAM] = team(_TEAM, {"quotas": [{"images": 10**9, "per": "total"}, {"concurrent": 10_000}]})
    return whole


@dataclass(slots=True)
class Report:
    kinds: Counter[str] = field(default_factory=Counter)  #: requests tried, by what was damaged
    refusals: Counter[str] = field(default_factory=Counter)  #: answers of 4xx, likewise
    silent: int = 0  #: connections that ended without an answer
    answers: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  #: answers that blame the gateway or are cut, with their requests
    hangs: list[str] = field(default_factory=list)
    made: int = 0
    charged: int = 0
    grown: float = 0.0  #: MB, of the worker

    @property
    def tried(self) -> int:
        return self.kinds.total()

    @property
    def refused(self) -> int:
        return self.refusals.total()


def damaged(random: Random, request: bytes) -> bytes:
    """Up to five times some bytes go, and others come in their place."""
    for _ in range(random.randint(1, 5)):
        at = random.randrange(len(request) + 1)
        put = random.choice(TOKENS) if random.random() < 0.7 else random.randbytes(random.randrange(7))
        request = request[:at] + put + request[at + random.choice((0, 0, 1, 5, 40)) :]
    return request


def _sound(random: Random) -> bytes:
    key = SECRETS[_TEAM]
    picture = wire.image(wire.png(side=1))
    form = wire.form(wire.text("prompt", "x"), picture, wire.text("n", "2"))
    chunks = b"".join(wire.chunks(form, size=50))
    return random.choice(
        (
            wire.generation(key),
            wire.generation(key, n=2, size="1792x1024", user="somebody"),
            wire.generation(key, "Connection: Upgrade", "Upgrade: h2c"),
            wire.edit(key, wire.text("prompt", "x"), picture),
            wire.edit_head(key, length=None) + chunks,
            wire.edit_head(key, "Trailer: X", length=None) + chunks[:-2] + b"X: y\r\n\r\n",
            wire.edit_head(key, "Expect: 100-continue", length=len(form)) + form,
            wire.head("/v1/usage", key=key, method="GET", content_type=None),
            wire.head("/v1/models/dall-e-3", key=key, method="GET", content_type=None),
            wire.head("/healthz", key=None, method="GET", content_type=None),
        )
    )


def _http(random: Random) -> bytes:
    """Some stand behind a sound one on the same connection."""
    before = _sound(random) if random.random() < 0.1 else b""
    return before + damaged(random, _sound(random))


def _path(random: Random) -> bytes:
    paths = (wire.GENERATIONS, wire.EDITS, "/v1/models/dall-e-3", "/v1/usage", "/healthz", "/readyz/", "/openapi.json")
    path = damaged(random, random.choice(paths).encode()).translate(None, b"\r\n").replace(b" ", b"%20")
    return wire.generation(SECRETS[_TEAM]).replace(wire.GENERATIONS.encode(), path, 1)


def _header(random: Random) -> bytes:
    names = ("Authorization", "api-key", "Host", "Content-Type", "Content-Encoding", "Expect", "Connection", "Accept",
             "Idempotency-Key", "X-Forwarded-For", "traceparent", "X-Stainless-Retry-Count", "Content-Length", "TE",
             "Transfer-Encoding", "Upgrade", "X", "Cookie", "Range")  # fmt: skip
    values = ("x", "", "1", "chunked", "application/json; charset=utf-8", f"Bearer {SECRETS[_TEAM]}", "100-continue",
              "close, upgrade", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "1.2.3.4, ::1")  # fmt: skip
    line = f"{random.choice(names)}: {random.choice(values)}".encode()
    if random.random() < 0.8:
        line = damaged(random, line)
    return wire.generation(SECRETS[_TEAM]).replace(b"Host:", line + b"\r\nHost:", 1)


def _json(random: Random) -> bytes:
    body = b'{"model": "dall-e-3", "prompt": "x", "n": 2, "size": "1024x1024", "quality": "standard", "user": "u"}'
    return wire.generation_of(damaged(random, body), SECRETS[_TEAM])


def _form(random: Random) -> bytes:
    parts = (wire.text("prompt", "x"), wire.image(wire.png(side=1)), wire.text("n", "2"))
    body = damaged(random, wire.form(*random.sample(parts, 3)))
    if random.random() < 0.5:
        return wire.edit_head(SECRETS[_TEAM], length=len(body)) + body
    return wire.edit_head(SECRETS[_TEAM], length=None) + b"".join(wire.chunks(body, size=random.choice((7, 80, 1000))))


def _token(random: Random) -> bytes:
    sound = token(_TEAM)
    if random.random() < 0.9:
        sound = damaged(random, sound.encode()).translate(None, b"\r\n").decode("latin-1")
    return wire.generation(sound)


#: What is damaged, and how often of ten.
KINDS: Mapping[str, tuple[Callable[[Random], bytes], int]] = {
    "HTTP": (_http, 3),
    "path": (_path, 1),
    "header": (_header, 1),
    "JSON": (_json, 2),
    "multipart": (_form, 2),
    "JWT": (_token, 1),
}


def requests(random: Random) -> Iterator[tuple[str, bytes]]:
    """Damaged ones without end, each with its kind."""
    kinds, weights = list(KINDS), [weight for _, weight in KINDS.values()]
    while True:
        (kind,) = random.choices(kinds, weights)
        yield kind, KINDS[kind][0](random)


async def attack(gateway: Running, simulator: SimulatorThread, *, cases: int, seed: int, at_once: int = 200) -> Report:
    """Send so many; whatever was made is charged by the time this returns."""
    random, report = Random(seed), Report()
    worker = stream.Worker(stream.workers(gateway)[0])
    made, charged = simulator.record.totals.images_made, gateway.metric("gateway_images_total", team=_TEAM)
    left = iter(zip(range(cases), requests(random), strict=False))

    async def one_after_the_other() -> None:
        for _, (kind, request) in left:
            await _send(gateway.url, kind, request, Random(random.random()), report)

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    await asyncio.to_thread(wait_until, lambda: gateway.metric("gateway_inflight_requests") == 0, seconds=HANGS)
    report.made = simulator.record.totals.images_made - made
    report.charged = int(gateway.metric("gateway_images_total", team=_TEAM) - charged)
    report.grown = worker.growth
    return report


async def _send(url: str, kind: str, request: bytes, random: Random, report: Report) -> None:
    cuts = sorted(random.randrange(len(request) + 1) for _ in range(random.choice((0, 0, 1, 3))))
    ends = random.choice(("waits", "half", "reset", "waits"))
    data = b""
    report.kinds[kind] += 1
    async with connected(url) as line:
        try:
            with contextlib.suppress(OSError):  # it may be closed in the midst of what is refused
                for start, end in pairwise([0, *cuts, len(request)]):
                    await line.send(request[start:end])
                    await asyncio.sleep(0)
                if ends == "reset":
                    line.reset()
                    return
                if ends == "half":
                    line.writer.write_eof()
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(HANGS):
                    while piece := await line.reader.read(65536):
                        data += piece
        except TimeoutError:
            report.hangs.append(f"{ends}: {request!r}")
            return
    statuses = _statuses(data)
    report.answers.update(statuses)
    report.silent += not statuses
    report.refusals[kind] += sum(400 <= status < 500 for status in statuses)
    if any(status >= 424 or not status for status in statuses):
        report.faults.append(f"{statuses} to {request!r}")


def _statuses(data: bytes) -> list[int]:
    """Of all answers, interim ones left out; 0 for one that is none, or not whole."""
    found: list[int] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        if not end or status is None:
            return [*found, 0]
        if status[1] == b"100":
            continue
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        length = int(headers[b"content-length"])
        found.append(int(status[1]) if len(data) >= length else 0)
        data = data[length:]
    return found
