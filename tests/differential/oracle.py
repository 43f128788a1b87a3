"""Send bodies through a gateway, read what went up, and hold it to what was charged.

The charge is taken from the answer's `x-gateway-cost-usd` alone: the config's prices are chosen so that an amount
belongs to one model, size, quality and n. The upstream makes ten images whatever it is asked for, so that nothing but
the reservation says what is charged.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import httpx

from tests.differential.bodies import DECIDING, Body
from tests.differential.readings import JSON, Reading, canonical, plain_files, read_in_python
from tests.support.rawserver import RawServer, Received, answering
from tests.support.running import NO_TLS, Running, base_config

TEAM = "free"
UPSTREAM_NAMES = {"dall-e-3": "dall-e-3", "second": "second-upstream"}
SIZES = ("1024x1024", "1792x1024", "1024x1792")
QUALITIES = ("standard", "hd")
MAX_N = 10

#: Micro-dollars of one image. No product with 1 to MAX_N occurs twice: see `_charges`.
_PRICES = {
    (model, size, quality): 10_007 + 1_009 * at
    for at, (model, size, quality) in enumerate((m, s, q) for m in UPSTREAM_NAMES for s in SIZES for q in QUALITIES)
}

_HANG = 20.0  # seconds


class Readers(Protocol):
    def read(self, content_type: str, body: bytes) -> list[Reading]: ...


@dataclass(frozen=True, slots=True)
class Charge:
    """What was paid for."""

    model: str
    size: str
    quality: str
    n: int

    def as_json(self) -> dict[str, str]:
        """The deciding values that a generation should be read with."""
        named = {"model": UPSTREAM_NAMES[self.model], "size": self.size, "quality": self.quality}
        return {"n": str(self.n)} | {name: canonical(value) for name, value in named.items()}

    def as_texts(self) -> dict[str, str]:
        """The deciding texts that an edit should be read with: no quality, for the API takes none there."""
        return {"model": UPSTREAM_NAMES[self.model], "n": str(self.n), "size": self.size}


@dataclass(slots=True)
class Report:
    """Bodies by what became of them. faults: 5xx, hangs and answers out of shape, with the body they were to.

    closed: connections closed upon a head that frames its body wrongly, before the answer was read; a client that
    still writes may see no more of it.

    control: bodies of which, without the gateway, two readers that both take it read different orders.
    """

    tried: int = 0
    forwarded: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    refused_by_readers: int = 0
    control: int = 0
    control_n: int = 0
    closed: int = 0
    images: int = 0
    readers: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)


def config(upstream: str) -> dict[str, Any]:
    whole = base_config(upstream=upstream)
    whole["request_limits"] = {"header_timeout": "3s", "body_idle_timeout": "1s"}
    first = whole["models"]["dall-e-3"]
    whole["models"] = {
        model: {
            **first,
            "upstream_name": name,
            "price_usd": {q: {s: _usd(_PRICES[model, s, q]) for s in SIZES} for q in QUALITIES},
        }
        for model, name in UPSTREAM_NAMES.items()
    }
    return whole


def _usd(micro: int) -> str:
    return f"{micro / 1_000_000:.6f}"


def _charges() -> dict[int, Charge]:
    found = {price * n: Charge(*order, n=n) for order, price in _PRICES.items() for n in range(1, MAX_N + 1)}
    assert len(found) == len(_PRICES) * MAX_N, "an amount stands for two orders"
    return found


_CHARGES = _charges()


def upstream() -> RawServer:
    """It makes ten images whatever it reads, and keeps the bytes."""
    body = json.dumps({"created": 1, "data": [{"url": f"https://images.test/{i}.png"} for i in range(10)]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return RawServer(answering(head + body))


class Oracle:
    """gateway: runs on `config` with `server` as its upstream. programs: readers beside those of this process."""

    def __init__(self, gateway: Running, server: RawServer, programs: Sequence[Readers] = ()) -> None:
        self.report = Report()
        self._gateway, self._server, self._programs = gateway, server, programs

    async def run(self, bodies: Iterable[Body]) -> Report:
        for body in bodies:
            await self._try(body)
        self._hold_to_usage()
        return self.report

    async def _try(self, body: Body) -> None:
        report = self.report
        report.tried += 1
        try:
            status, headers, told = await asyncio.wait_for(self._ask(body), _HANG)
        except (TimeoutError, EOFError, ConnectionError) as exc:
            if not body.framed and not isinstance(exc, TimeoutError) and not self._server.requests:
                report.closed += 1
                return
            report.faults.append(f"{type(exc).__name__} to {_shown(body)}")
            return
        complete = [request for request in self._server.requests if request.complete]
        self._server.requests.clear()
        if status == 200 and len(complete) == 1:
            report.forwarded += 1
            self._compare(body, headers, complete[0])
        elif 400 <= status < 500 and not complete and "error" in json.loads(told):
            report.refused[status] += 1
        else:
            report.faults.append(f"{status} with {len(complete)} requests upstream to {_shown(body)}")
        self._control(body)

    async def _ask(self, body: Body) -> tuple[int, dict[str, str], bytes]:
        path = "generations" if body.content_type == JSON else "edits"
        key = self._gateway.auth(TEAM)["authorization"]
        lines = [
            b"POST /v1/images/%b %b" % (path.encode(), body.version),
            b"Host: gateway.test",
            f"Authorization: {key}\r\nContent-Type: {body.content_type}".encode(),
            *body.head,
        ]
        if body.framed:
            lines.append(b"Transfer-Encoding: chunked" if body.cuts else b"Content-Length: %d" % len(body.data))
        head = b"\r\n".join([*lines, b"", b""])
        url = httpx.URL(self._gateway.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            writer.write(head)
            for piece in _pieces(body):
                if writer.is_closing():
                    break
                writer.write(piece)
                await asyncio.sleep(0)
            status = 100
            while status < 200:
                answer = await reader.readuntil(b"\r\n\r\n")
                line, *told = answer.decode("latin-1").split("\r\n")
                status = int(line.split(" ")[1])
            headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in told if each)}
            return status, headers, await reader.readexactly(int(headers.get("content-length", "0")))
        finally:
            writer.close()

    def _compare(self, body: Body, headers: dict[str, str], request: Received) -> None:
        report = self.report
        charge = _CHARGES.get(round(float(headers["x-gateway-cost-usd"]) * 1_000_000))
        if charge is None:
            report.disagreements.append(
                f"charged {headers['x-gateway-cost-usd']}, no price of an order: {_shown(body)}"
            )
            return
        report.images += charge.n
        content_type = request.headers["content-type"]
        readings = self._read(content_type, request.body)
        report.readers.update(reading.reader for reading in readings)
        found = wrong(charge, content_type, readings, plain_files(body.content_type, body.data))
        report.disagreements += [f"{each}: {_shown(body)}" for each in found]

    def _read(self, content_type: str, body: bytes) -> list[Reading]:
        readings = read_in_python(content_type, body)
        for program in self._programs:
            readings += program.read(content_type, body)
        return readings

    def _control(self, body: Body) -> None:
        """The same body as the client wrote it."""
        taken = [reading for reading in self._read(body.content_type, body.data) if not reading.error]
        self.report.refused_by_readers += not taken
        orders = {(*(reading.picked(name) for name in DECIDING), *sorted(_files(reading))) for reading in taken}
        self.report.control += len(orders) > 1
        self.report.control_n += len({reading.picked("n") for reading in taken}) > 1

    def _hold_to_usage(self) -> None:
        """What the team is told it used is what went up."""
        usage = httpx.get(f"{self._gateway.url}/v1/usage", headers=self._gateway.auth(TEAM), verify=NO_TLS).json()
        if usage["today"]["images"] != self.report.images:
            self.report.disagreements.append(f"{usage['today']['images']} in the usage, {self.report.images} went up")


def _files(reading: Reading) -> list[tuple[str, tuple[str, ...]]]:
    return [(str(name), digests) for name, digests in reading.files.items() if digests]


def wrong(
    charge: Charge, content_type: str, readings: Sequence[Reading], files: dict[str, tuple[str, ...]]
) -> list[str]:
    """What does not fit, of the bytes that went up."""
    is_json = content_type == JSON
    wanted = charge.as_json() if is_json else charge.as_texts()
    found = []
    for reading in readings:
        if reading.error:
            found.append(f"{reading.reader} refused what went up, {reading.error}")
            continue
        read = {name: reading.texts.get(name, ()) for name in wanted}
        if read != {name: (value,) for name, value in wanted.items()}:
            found.append(f"{reading.reader} read {read}, charged was {wanted}")
        others = [name for name in reading.texts if name not in wanted and name.casefold() in DECIDING]
        if others:
            found.append(f"{reading.reader} read {others} beside the order")
        if not is_json and dict(reading.files) != files:
            found.append(f"{reading.reader} read other files")
    # Readers by the rules of the web take a byte order mark off a text's start. It prices nothing.
    prompts = {(each.picked("prompt") or "").removeprefix("\ufeff") for each in readings if not each.error}
    if len(prompts) > 1:
        found.append(f"several prompts {prompts}")
    return found


def _pieces(body: Body) -> list[bytes]:
    if not body.cuts:
        return [body.data]
    places = [0, *body.cuts, len(body.data)]
    chunks = [body.data[start:end] for start, end in pairwise(places) if end > start]
    return [*(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"]


def _shown(body: Body) -> str:
    data = body.data if len(body.data) < 2000 else body.data[:2000] + b"..."
    return re.sub(r"\s+", " ", f"[{body.origin}] {body.content_type!r} {data!r} cuts={body.cuts[:5]}")
