"""The three kinds of request that are measured, as clients send them."""

import struct
import zlib
from dataclasses import dataclass

from tests.bench.client import Request
from tests.bench.upstream import BIG
from tests.bench.variants import Variant

_BOUNDARY = "------------------------d74496d66958873e"
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """name: of the option --only; title: of the table; payload: bytes of a request that count as throughput, or 0.

    answer: the length that an answer's body has at least.
    """

    name: str
    title: str
    payload: int
    answer: int

    def request(self, variant: Variant) -> Request:
        if self.name == "edits":
            return edit(variant.key, self.payload)
        return generation(variant.key, big=self.name == "answers")


SCENARIOS = (
    Scenario("generations", "generations", 0, 200),
    Scenario("edits", "edits of 2.1 MB", int(2.1 * _MB), 200),
    Scenario("edits", "edits of 4 MiB", 4 * 1024 * 1024, 200),
    Scenario("answers", "answers of 4 MiB", BIG, BIG),
)


def generation(key: str, *, big: bool = False) -> Request:
    """big: with an answer of 4 MiB of base64."""
    extra = ', "response_format": "b64_json"' if big else ""
    prompt = "A lighthouse in the fog, seen from the sea, as a woodcut" + (" @big" if big else "")
    body = f'{{"model": "dall-e-3", "prompt": "{prompt}", "n": 1, "size": "1024x1024"{extra}}}'
    return Request("/v1/images/generations", _headers(key, "application/json"), body.encode())


def edit(key: str, image_size: int) -> Request:
    """A form as curl writes it, the image first and what decides the price behind it."""
    fields = {"model": "dall-e-3", "prompt": "Put a lighthouse on the hill", "n": "1", "size": "1024x1024"}
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="in.png"\r\n'
        "Content-Type: image/png\r\n\r\n".encode(),
        _png(image_size),
        *(
            f'\r\n--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
            for name, value in fields.items()
        ),
        f"\r\n--{_BOUNDARY}--\r\n".encode(),
    ]
    return Request("/v1/images/edits", _headers(key, f"multipart/form-data; boundary={_BOUNDARY}"), b"".join(parts))


def _headers(key: str, content_type: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key or 'none'}", "Content-Type": content_type, "Accept": "*/*"}


def _png(size: int) -> bytes:
    """A PNG's signature and head, and then what looks like compressed data: nobody here decodes it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 1024, 1024, 8, 6, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    noise = bytes((i * 167 + (i >> 8) * 59) % 256 for i in range(65536))
    return (start + noise * (size // len(noise) + 1))[:size]
