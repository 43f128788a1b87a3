"""A strict reader of ``multipart/form-data`` (RFC 7578) for edits: bytes in, frozen events out, no I/O.

What a part is, and where it ends, is for gateway/core/partstream.py; here is which parts an edit may have, for readers
disagree about all the rest: one plain ``Content-Disposition: form-data; name="…"`` a part, every text once, text
without and images with a file name. File names and types are read over and thrown away. Files are handed on as they
arrive and never held; texts come whole, decoded from UTF-8.

However the same bytes are cut into chunks, the verdict is the same. Nothing is final before `FormReader.close`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.core.errors import (
    DuplicateParameter,
    MalformedRequest,
    ParameterError,
    RequestTooLarge,
    UnknownParameter,
    UnsupportedMediaType,
)
from gateway.core.orders import DOCUMENTED
from gateway.core.parameters import folded, named, shown, unknown
from gateway.core.partheads import PartHead
from gateway.core.partstream import PartStream

FILES = ("image", "image[]", "mask")  #: the only names of file parts, ``image[]`` for lists as the SDKs write them

# RFC 2046 5.1.1: 1 to 70 of these, no space at the end. Unquoted, more than a token is taken: clients do write it.
_BOUNDARY = re.compile(
    rb" *; *(?i:boundary)=(?:"
    rb"\"([0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-])\""
    rb"|([0-9A-Za-z'()+_,./:=?-]{1,70})) *"
)

_TEXT_TYPE = re.compile(r'text/plain(?: *; *charset="?utf-?8"?)?', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FormLimits:
    """Bounds on one form. Sizes in bytes.

    max_images: the most that any model takes; the order's own model is known only at the end.
    """

    max_image_size: int
    max_prompt_chars: int
    max_images: int = 1
    max_parts: int = 32  # the API knows nine names
    max_headers: int = 8  # RFC 7578 allows three
    max_header_line: int = 4096  # a file name of 255 bytes, percent-encoded twice, fits
    max_text_size: int = 64 * 1024  # any text but the prompt


@dataclass(frozen=True, slots=True)
class FileBegan:
    """name: one of `FILES`, as the client wrote it."""

    name: str


@dataclass(frozen=True, slots=True)
class FileData:
    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnded:
    pass


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FormEnded:
    """The form was complete and nothing came after it. Given by `FormReader.close` alone."""


Event = FileBegan | FileData | FileEnded | Field | FormEnded


def parse_content_type(value: bytes) -> bytes:
    """The boundary of a Content-Type header. Exactly ``multipart/form-data`` and one boundary, nothing beside it."""
    kind, semicolon, _ = value.partition(b";")
    if kind.strip(b" \t").lower() != b"multipart/form-data":
        got = shown(kind.decode("latin-1").strip())
        raise UnsupportedMediaType(f"An edit is sent as multipart/form-data; got {got}.")
    found = _BOUNDARY.fullmatch(value, value.find(b";")) if semicolon else None
    if found is None:
        raise MalformedRequest(
            "Content-Type must be multipart/form-data with one valid boundary and nothing else. "
            "HTTP libraries write it themselves if the header is not set by hand."
        )
    return found[1] or found[2]


class FormReader:
    """Reads one form. Feed it every chunk and use up its events, then `close` it at the end of the body.

    Raises `ParameterError` and its kin for what a client can put right in its call, `MalformedRequest` for broken
    grammar, `RequestTooLarge` for a file as soon as it passes its limit. After an error the reader is of no use.
    """

    def __init__(self, boundary: bytes | str, *, limits: FormLimits) -> None:
        self._limits = limits
        self._parts = PartStream(
            boundary.encode() if isinstance(boundary, str) else boundary,
            max_parts=limits.max_parts,
            max_headers=limits.max_headers,
            max_header_line=limits.max_header_line,
        )
        self._name = ""
        self._is_file = False
        self._size = 0
        self._text: list[bytes] = []
        self._images: list[str] = []
        self._seen: set[str] = set()

    def __repr__(self) -> str:
        return f"<FormReader {self._parts.state.name}>"

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that these bytes complete. An empty chunk has none."""
        try:
            for found in self._parts.feed(chunk):
                if isinstance(found, bytes):
                    yield from self._data(found)
                elif found is None:
                    yield self._end()
                else:
                    yield from self._begin(found)
        except BaseException:
            self._parts.fail()
            raise

    def close(self) -> FormEnded:
        """The end of the body. Raises if the closing delimiter has not come or half an epilogue has."""
        self._parts.close()
        return FormEnded()

    def _begin(self, part: PartHead) -> Iterator[Event]:
        self._name, self._is_file = part.name, part.is_file
        self._size = 0
        if part.is_file:
            self._check_file()
            yield FileBegan(part.name)
        else:
            self._check_text(part.content_type or "text/plain")
            self._text = []

    def _check_file(self) -> None:
        name = self._name
        if name not in FILES:
            if folded(name) in FILES:
                raise unknown(name, FILES, place="an edit's files")
            param = named(name)
            error = ParameterError if name in DOCUMENTED["edits"] else UnknownParameter
            raise error(f'"{param}" came as a file; files are named image, image[] or mask.', param=param)
        if name == "mask":
            self._check_first(name)
            return
        error = DuplicateParameter if name == "image" and name in self._images else ParameterError
        self._images.append(name)
        most = self._limits.max_images
        if len(self._images) > most:
            takes = "one image" if most == 1 else f"at most {most} images"
            raise error(f"An edit takes {takes}; more came.", param="image")
        # `image` goes up under that name before it is known whether more will follow, so it stands alone.
        if len(self._images) > 1 and "image" in self._images:
            raise error("Several images are named image[], each of them.", param="image")

    def _check_text(self, content_type: str) -> None:
        name, meant = self._name, folded(self._name)
        if meant in FILES:
            raise ParameterError(f"{named(name)} must be a file with a file name; it came as text.", param=named(name))
        if meant == "_charset_":
            raise UnknownParameter("_charset_ is not taken: texts are UTF-8.", param="_charset_")
        self._check_first(name)
        if not _TEXT_TYPE.fullmatch(content_type):
            param = named(name)
            raise ParameterError(f"{param} must be text/plain in UTF-8; got {shown(content_type)}.", param=param)

    def _check_first(self, name: str) -> None:
        meant = folded(name)
        if meant in self._seen:
            param = named(name)
            raise DuplicateParameter(f'The parameter "{param}" is given twice.', param=param)
        self._seen.add(meant)

    def _data(self, data: bytes) -> Iterator[Event]:
        self._size += len(data)
        if self._is_file:
            most = self._limits.max_image_size
            if self._size > most:
                raise RequestTooLarge(f"{self._name} is larger than {most} bytes.", param=self._name)
            yield FileData(data)
            return
        chars = self._limits.max_prompt_chars
        prompt = self._name == "prompt"
        if self._size > (4 * chars if prompt else self._limits.max_text_size):
            bound = f"{chars} characters" if prompt else f"{self._limits.max_text_size} bytes"
            param = named(self._name)
            raise ParameterError(f"{param} is longer than {bound}.", param=param)
        self._text.append(data)

    def _end(self) -> Event:
        if self._is_file:
            return FileEnded()
        try:
            return Field(self._name, b"".join(self._text).decode())
        except UnicodeDecodeError as exc:
            param = named(self._name)
            raise ParameterError(f"{param} is not UTF-8.", param=param) from exc
