"""What a body says to the readers that servers are built on: those of Python here, those of Go and Node by a program.

No reader here is the gateway's own; `plain_files` is the one that tells what a client meant.
"""

import base64
import io
import json
import logging
import re
import subprocess
import warnings
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

import aiohttp
import django.conf
import msgspec
import multipart
import orjson
from aiohttp import multipart as aiohttp_multipart
from django.core.files import uploadhandler
from django.http import multipartparser
from multidict import CIMultiDict, CIMultiDictProxy
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser
from werkzeug.formparser import parse_form_data

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it complains of every byte that is to be bad

JSON = "application/json"

Pick = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reader made of a body. texts: all values of each name; of JSON: each value as canonical JSON.

    files: digests by name. picks: which of several values a program gets that asks for one. error: why it refused.
    """

    reader: str
    picks: Pick
    error: str = ""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def picked(self, name: str) -> str | None:
        values = self.texts.get(name)
        return None if not values else values[0 if self.picks == "first" else -1]


Found = tuple[dict[str, list[str]], dict[str, list[str]]]


def _at_once(reading: Coroutine[None, None, Found]) -> Found:
    """What a reader finds that has nothing to wait for: all bytes are there."""
    try:
        reading.send(None)
    except StopIteration as end:
        found: Found = end.value
        return found
    reading.close()
    raise EOFError("the reader waits for more")


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def plain_files(content_type: str, body: bytes) -> dict[str, tuple[str, ...]]:
    """The files of a form that is plain enough to be cut at its delimiters: what every reader should find."""
    boundary = re.split("(?i)boundary=", content_type, maxsplit=1)[-1].strip(' "').encode("latin-1")
    files: dict[str, list[str]] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        if b"filename" in head.lower():
            name = head.lower().partition(b'name="')[2].partition(b'"')[0].decode("latin-1")
            files.setdefault("mask" if name == "mask" else "image", []).append(_digest(data))
    return {name: tuple(digests) for name, digests in files.items()}


def _starlette(content_type: str, body: bytes) -> Found:
    async def pieces() -> Any:
        yield body

    async def read() -> Found:
        form = await MultiPartParser(Headers({"content-type": content_type}), pieces()).parse()
        texts: dict[str, list[str]] = {}
        files: dict[str, list[str]] = {}
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.setdefault(name, []).append(_digest(await value.read()))
            else:
                texts.setdefault(name, []).append(value)
        await form.close()
        return texts, files

    return _at_once(read())


def _werkzeug(content_type: str, body: bytes) -> Found:
    environ = {
        "wsgi.input": io.BytesIO(body),
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body)),
        "REQUEST_METHOD": "POST",
    }
    _, form, uploads = parse_form_data(environ, silent=False)
    files = {name: [_digest(upload.read()) for upload in found] for name, found in uploads.lists()}
    return dict(form.lists()), files


def _django(content_type: str, body: bytes) -> Found:
    if not django.conf.settings.configured:
        django.conf.settings.configure(DEFAULT_CHARSET="utf-8")
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": len(body)}
    handler = uploadhandler.MemoryFileUploadHandler()
    data, uploads = multipartparser.MultiPartParser(meta, io.BytesIO(body), [handler], "utf-8").parse()
    return dict(data.lists()), {name: [_digest(f.read()) for f in found] for name, found in uploads.lists()}


def _multipart(*, strict: bool) -> Callable[[str, bytes], Found]:
    def read(content_type: str, body: bytes) -> Found:
        environ = {
            "wsgi.input": io.BytesIO(body),
            "CONTENT_TYPE": content_type,
            "CONTENT_LENGTH": str(len(body)),
            "REQUEST_METHOD": "POST",
        }
        texts, uploads = multipart.parse_form_data(environ, strict=strict, ignore_errors=False)
        files = {name: [_digest(upload.file.read()) for upload in uploads.getall(name)] for name in uploads}
        return {name: texts.getall(name) for name in texts}, files

    return read


def _aiohttp(content_type: str, body: bytes) -> Found:
    async def read() -> Found:
        headers = CIMultiDictProxy(CIMultiDict({"Content-Type": content_type}))
        stream = aiohttp.StreamReader(_NoProtocol(), 2**16, loop=_NoProtocol())  # type: ignore[arg-type]
        stream.feed_data(body)
        stream.feed_eof()
        texts: dict[str, list[str]] = {}
        files: dict[str, list[str]] = {}
        async for part in aiohttp_multipart.MultipartReader(headers, stream):
            if not isinstance(part, aiohttp_multipart.BodyPartReader) or part.name is None:
                raise ValueError("a part without a name")
            data = bytes(await part.read(decode=True))
            if part.filename:
                files.setdefault(part.name, []).append(_digest(data))
            else:
                texts.setdefault(part.name, []).append(data.decode(part.get_charset("utf-8")))
        return texts, files

    return _at_once(read())


class _NoProtocol:
    """In place of a connection and its loop, for there is nothing to slow down and nothing to wait for."""

    _reading_paused = False

    def pause_reading(self, *_: object, **__: object) -> None: ...
    def resume_reading(self, *_: object, **__: object) -> None: ...


def canonical(value: object) -> str:
    """A JSON value as text; readers differ in how they hold a number that has no fraction, not in what it is."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _json(loads: Callable[[bytes], Any]) -> Callable[[str, bytes], Found]:
    def read(content_type: str, body: bytes) -> Found:
        del content_type
        decoded = loads(body)
        if not isinstance(decoded, dict):
            raise TypeError("no object")
        return {name: [canonical(value)] for name, value in decoded.items()}, {}

    return read


Reader = tuple[str, Pick, Callable[[str, bytes], Found]]

FORMS: tuple[Reader, ...] = (
    ("starlette", "last", _starlette),
    ("werkzeug", "first", _werkzeug),
    ("django", "last", _django),
    ("multipart", "last", _multipart(strict=False)),
    ("multipart strict", "last", _multipart(strict=True)),
    ("aiohttp", "first", _aiohttp),
)
OBJECTS: tuple[Reader, ...] = (
    ("json", "last", _json(json.loads)),
    ("orjson", "last", _json(orjson.loads)),
    ("msgspec", "last", _json(msgspec.json.decode)),
)


def read_in_python(content_type: str, body: bytes) -> list[Reading]:
    """By the readers of this process. Whatever a reader raises, it did not read the body."""
    return [_reading(reader, content_type, body) for reader in (OBJECTS if content_type == JSON else FORMS)]


def _reading(reader: Reader, content_type: str, body: bytes) -> Reading:
    name, picks, read = reader
    try:
        with warnings.catch_warnings():  # of what a reader says beside reading, nothing is asked
            warnings.simplefilter("ignore")
            texts, files = read(content_type, body)
    except Exception as exc:  # noqa: BLE001 some raise what they never meant to
        return Reading(name, picks, error=f"{type(exc).__name__}: {exc}"[:200] or "refused")
    return Reading(name, picks, texts=_tuples(texts), files=_tuples(files))


def _tuples(table: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in table.items()}


class Program:
    """Readers in another language: a line for each body in, a line of their readings out."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def read(self, content_type: str, body: bytes) -> list[Reading]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"type": content_type, "body": base64.b64encode(body).decode()}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the readers' program has ended"
        return [_told(reading, content_type) for reading in json.loads(answer)]


def _told(told: Mapping[str, Any], content_type: str) -> Reading:
    texts = _tuples(told["texts"])
    if content_type == JSON:
        texts = {name: tuple(canonical(json.loads(value)) for value in values) for name, values in texts.items()}
    return Reading(told["reader"], told["picks"], told["error"], texts, _tuples(told["files"]))


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[Program]:
    """A program of readers, for the block's time."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield Program(process)
        finally:
            process.kill()
