"""The whole socket of a real gateway under requests that chance has damaged, many at once.

Each connection is damaged, cut and left in its own way; those that are not left wait until the gateway ends them.
What was made is told by the simulator that stands in for 3xCoder, what was charged by the gateway.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from tests.e2e import wire
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
    whole["teams"][_TEAM] = team(_TEAM, {"quotas": [{"images": 10**9, "per": "total"}, {"concurrent": 10_000}]})
    return whole


@dataclass(slots=True)
class Report:
    tried: int = 0
    silent: int = 0  #: connections that ended without an answer
    answers: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  #: answers that blame the gateway or are cut, with their requests
    hangs: list[str] = field(default_factory=list)
    made: int = 0
    charged: int = 0
    grown: float = 0.0  #: MB, of the worker

    @property
    def refused(self) -> int:
        return sum(number for status, number in self.answers.items() if 400 <= status < 500)


def damaged(random: Random, request: bytes) -> bytes:
    """Up to five times some bytes go, and others come in their place."""
    for _ in range(random.randint(1, 5)):
        at = random.randrange(len(request) + 1)
        put = random.choice(TOKENS) if random.random() < 0.7 else random.randbytes(random.randrange(7))
        request = request[:at] + put + request[at + random.choice((0, 0, 1, 5, 40)) :]
    return request


def requests(random: Random) -> Iterator[bytes]:
    """Damaged ones without end; some stand behind a sound one on the same connection."""
    key = SECRETS[_TEAM]
    picture = wire.image(wire.png(side=1))
    form = wire.form(wire.text("prompt", "x"), picture, wire.text("n", "2"))
    sound = (
        wire.generation(key),
        wire.generation(key, n=2, size="1792x1024", user="somebody"),
        wire.edit(key, wire.text("prompt", "x"), picture),
        wire.edit_head(key, length=None) + b"".join(wire.chunks(form, size=50)),
        wire.edit_head(key, "Expect: 100-continue", length=len(form)) + form,
        wire.head("/v1/usage", key=key, method="GET", content_type=None),
        wire.head("/v1/models/dall-e-3", key=key, method="GET", content_type=None),
        wire.head("/healthz", key=None, method="GET", content_type=None),
    )
    while True:
        before = random.choice(sound) if random.random() < 0.1 else b""
        yield before + damaged(random, random.choice(sound))


async def attack(gateway: Running, simulator: SimulatorThread, *, cases: int, seed: int, at_once: int = 200) -> Report:
    """Send so many; whatever was made is charged by the time this returns."""
    random, report = Random(seed), Report()
    worker = stream.Worker(stream.workers(gateway)[0])
    made, charged = simulator.record.totals.images_made, gateway.metric("gateway_images_total", team=_TEAM)
    left = iter(zip(range(cases), requests(random), strict=False))

    async def one_after_the_other() -> None:
        for _, request in left:
            await _send(gateway.url, request, Random(random.random()), report)

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    await asyncio.to_thread(wait_until, lambda: gateway.metric("gateway_inflight_requests") == 0, seconds=HANGS)
    report.made = simulator.record.totals.images_made - made
    report.charged = int(gateway.metric("gateway_images_total", team=_TEAM) - charged)
    report.grown = worker.growth
    return report


async def _send(url: str, request: bytes, random: Random, report: Report) -> None:
    cuts = sorted(random.randrange(len(request) + 1) for _ in range(random.choice((0, 0, 1, 3))))
    ends = random.choice(("waits", "half", "reset", "waits"))
    data = b""
    report.tried += 1
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
