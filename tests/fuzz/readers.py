"""What must hold for any bytes in each reader of a body, and the bytes to begin with.

A reader either refuses with a 4xx of the gateway's own or gives an order; an order says to other readers of what goes
up what it says here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random
from zlib import crc32

import msgspec
import orjson

from gateway.core import multipart, orders
from gateway.core.errors import GatewayError
from gateway.core.jsonbody import decode
from gateway.core.multipart import Field, FileBegan, FileData, FormReader
from gateway.core.png import PngHead
from gateway.core.rewriting import generation_body
from tests.core.forms import CASES, LIMITS, B, file, form, text
from tests.core.sample import DALLE, TEAM, settings
from tests.core.test_jsonbody import REFUSED, REPEATED
from tests.differential.bodies import OBJECTS
from tests.e2e import wire

_SETTINGS = settings({"dall-e-3": DALLE})

#: Bytes of a body; longer ones add nothing but time.
LONGEST = 4096


def read_json(data: bytes) -> bool:
    """Whether the bytes are an order for a generation."""
    try:
        body = decode(data)
        order = orders.from_json(body, settings=_SETTINGS, team=TEAM, endpoint="generations")
    except GatewayError as error:
        _check(error)
        return False
    assert body == json.loads(data)
    deciding = {"model": DALLE.upstream_name, "n": order.n, "size": order.size, "quality": order.quality}
    for read in (json.loads, orjson.loads, msgspec.json.decode):
        up = read(generation_body(order, DALLE))
        assert deciding.items() <= up.items()
        assert up["prompt"] == body["prompt"]
    return True


def read_form(data: bytes) -> bool:
    """Whether the bytes are an edit's form with an order in it; its verdict is the same however they are cut."""
    whole = _form([data])
    assert whole == _form(_cut(data))
    return whole[0] == "taken"


def read_png(data: bytes) -> bool:
    """Whether a file begins as a PNG does; its size is the same however it is cut."""
    whole = _png([data])
    assert whole == _png(_cut(data))
    return isinstance(whole, tuple)


def read_content_type(data: bytes) -> bool:
    """Whether the bytes are an edit's Content-Type; its boundary stands in it and is one of RFC 2046."""
    try:
        boundary = multipart.parse_content_type(data)
    except GatewayError as error:
        _check(error)
        return False
    assert boundary in data
    assert 1 <= len(boundary) <= 70
    assert boundary.isascii()
    assert not boundary.endswith(b" ")
    FormReader(boundary, limits=LIMITS)
    return True


def _cut(data: bytes) -> list[bytes]:
    """The bytes in up to six pieces, always the same ones."""
    random = Random(crc32(data))
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(6)))
    return [data[a:b] for a, b in pairwise([0, *cuts, len(data)])]


def _png(chunks: list[bytes]) -> object:
    """Width and height, or the refusal."""
    head = PngHead("image")
    try:
        for chunk in chunks:
            head.feed(chunk)
        head.close()
    except GatewayError as error:
        _check(error)
        return error.message
    return head.size


def _form(chunks: list[bytes]) -> tuple[object, ...]:
    """("taken", the order, each file's name and bytes), or the refusal."""
    reader = FormReader(B, limits=LIMITS)
    fields: dict[str, str] = {}
    files: list[tuple[str, bytes]] = []
    try:
        for chunk in chunks:
            for event in reader.feed(chunk):
                match event:
                    case Field():
                        fields[event.name] = event.value
                    case FileBegan():
                        files.append((event.name, b""))
                    case FileData():
                        files[-1] = (files[-1][0], files[-1][1] + event.data)
        reader.close()
        order = orders.from_form(fields, [name for name, _ in files], settings=_SETTINGS, team=TEAM)
    except GatewayError as error:
        _check(error)
        return type(error), error.param
    return "taken", order, order.fields, tuple(files)


def _check(error: GatewayError) -> None:
    assert 400 <= error.status < 500, error
    assert error.message
    assert error.message.isprintable(), error.message
    json.dumps(error.body(), ensure_ascii=False).encode()


_FORMS = (
    form(text(b"prompt", b"a cat"), file()),
    form(file(b"image[]"), text(b"n", b"10"), text(b"prompt", b"a cat"), text(b"model", b"dall-e-3"), file(b"mask")),
    form(text(b"size", b"1792x1024"), text(b"seed", b"7"), text(b"tile", b"true"), file(), text(b"prompt", b"a")),
)

#: What each reader is begun with: plain bodies, and the crafted ones of its own tests.
SEEDS: Mapping[Callable[[bytes], bool], Sequence[bytes]] = {
    read_json: [
        body
        for body in (*(json.dumps(each).encode() for each in OBJECTS), *REFUSED.values(), *REPEATED.values())
        if len(body) <= LONGEST
    ],
    read_form: [*_FORMS, *(body for body, _ in CASES.values() if len(body) <= LONGEST)],
    read_content_type: [
        b"multipart/form-data; boundary=abc",
        b'Multipart/Form-Data;Boundary="a b:c"',
        b"multipart/form-data; charset=utf-8; boundary=abc",
        b"multipart/form-data; boundary=" + b"a" * 71,
        b"application/json",
    ],
    read_png: [wire.png(side=1), wire.png()[:33], wire.png()[:32], b"\xff\xd8\xff", b"<svg>"],
}
