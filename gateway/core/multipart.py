"""A strict reader of ``multipart/form-data`` (RFC 7578) for edits: bytes in, frozen events out, no I/O.

`multipart.PushMultipartParser` reads delimiter lines and part heads. What stands between them goes past it: it is
searched for the next delimiter here, once, and a file's bytes are handed on as they came, uncopied and never held.
Texts come whole, decoded from UTF-8. The grammar is narrow, for readers disagree about all the rest: CRLF alone, no
preamble, no epilogue, one plain ``Content-Disposition: form-data; name="…"`` a part, every text once, text without and
images with a file name. File names and types are read over and thrown away.

However the same bytes are cut into chunks, the verdict is the same. Nothing is final before `FormReader.close`.
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from gateway.core.errors import (
    DuplicateParameter,
    MalformedRequest,
    ParameterError,
    RequestTooLarge,
    UnknownParameter,
    UnsupportedMediaType,
)
from gateway.core.parameters import folded, named, shown, unknown
from gateway.core.partheads import PartHead, check_line, part_head
from gateway.core.search import find

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


class State(Enum):
    OPENING = auto()  # before the first delimiter line is complete
    HEADERS = auto()
    FILE = auto()
    TEXT = auto()
    EPILOGUE = auto()  # after the closing delimiter
    CLOSED = auto()
    FAILED = auto()


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


class _Parser(PushMultipartParser):  # type: ignore[misc]  # the library carries no types
    def _on_segment_headerline(self, line: bytes) -> None:
        # The library strips blanks off names before anyone sees them: only here is the line as it came. Its limit
        # stands two bytes above ours, for of an unfinished line it may count the CR and a byte more.
        check_line(line, longest=self.max_header_size - 2)
        super()._on_segment_headerline(line)

    def count(self, data: bytes) -> None:
        """Data of the open part that goes past the parser: it holds the part to its Content-Length, if it has one."""
        self._on_segment_payload(data)


class FormReader:
    """Reads one form. Feed it every chunk and use up its events, then `close` it at the end of the body.

    Raises `ParameterError` and its kin for what a client can put right in its call, `MalformedRequest` for broken
    grammar, `RequestTooLarge` for a file as soon as it passes its limit. After an error the reader is of no use.
    """

    def __init__(self, boundary: bytes | str, *, limits: FormLimits) -> None:
        raw = boundary.encode() if isinstance(boundary, str) else boundary
        self._limits = limits
        self._opening = b"--" + raw + b"\r\n"
        self._delimiter = b"\r\n--" + raw
        self._parser = _Parser(
            raw,
            max_header_size=limits.max_header_line + 2,
            max_header_count=limits.max_headers,
            max_segment_count=limits.max_parts,
            header_charset="latin-1",  # decodes any byte; `part_head` takes names as UTF-8
            strict=True,
        )
        self._state = State.OPENING
        self._held = b""  # OPENING: what has come; within a part: the last bytes, as far as they may be a delimiter's
        self._epilogue = b""
        self._name = ""
        self._size = 0
        self._text: list[bytes] = []
        self._images: list[str] = []
        self._seen: set[str] = set()

    def __repr__(self) -> str:
        return f"<FormReader {self._state.name}>"

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that these bytes complete. An empty chunk has none."""
        if self._state in (State.CLOSED, State.FAILED):
            raise RuntimeError(f"{self!r} was fed")
        try:
            yield from self._feed(chunk)
        except MultipartError as exc:
            self._state = State.FAILED
            raise MalformedRequest(f"The form cannot be read: {exc.args[0]}.") from exc
        except BaseException:
            self._state = State.FAILED
            raise

    def close(self) -> FormEnded:
        """The end of the body. Raises if the closing delimiter has not come or half an epilogue has."""
        if self._state is not State.EPILOGUE:
            raise MalformedRequest("The body ends before the form's closing boundary.")
        if self._epilogue not in (b"", b"\r\n"):
            raise MalformedRequest("Something follows the form's closing boundary.")
        self._state = State.CLOSED
        return FormEnded()

    def _feed(self, chunk: bytes) -> Iterator[Event]:
        data, self._held = self._held + chunk, b""
        at = 0
        while at < len(data):
            if self._state is State.OPENING:
                at = yield from self._read_opening(data)
            elif self._state is State.HEADERS:
                end = _end_of_head(data, at)
                yield from self._parse(data[at:end])
                at = end
            elif self._state is State.EPILOGUE:
                self._check_epilogue(data[at:])
                return
            else:
                at = yield from self._read_part(data, at)

    def _read_opening(self, data: bytes) -> Generator[Event, None, int]:
        """The library takes CRLFs and, by the cut of its first chunk, a preamble; ours is exactly one line."""
        if not data.startswith(self._opening[: len(data)]):
            raise MalformedRequest("The body does not start with the boundary that Content-Type names.")
        if len(data) < len(self._opening):
            self._held = data
            return len(data)
        self._state = State.HEADERS
        yield from self._parse(self._opening)
        return len(self._opening)

    def _read_part(self, data: bytes, at: int) -> Generator[Event, None, int]:
        """A part's data from `at` on, and its delimiter line if it is there. Returns where that leaves off."""
        if not self._size and self._may_be_empty(data, at):
            self._held = data[at:]
            return len(data)
        end = self._undecided(data, at)
        if end > at:
            part = data[at:end]
            self._parser.count(part)
            yield from self._data(part)
        line = data[end : end + len(self._delimiter) + 2]
        if len(line) < len(self._delimiter) + 2:
            self._held = line
            return len(data)
        yield from self._parse(line)
        if line.endswith(b"--"):
            self._parser.close()
            self._state = State.EPILOGUE
        return end + len(line)

    def _may_be_empty(self, data: bytes, at: int) -> bool:
        """Whether a part's first bytes may be the boundary, without a line break of its own before it.

        Some readers see an empty part there, others its data: as a whole it is refused.
        """
        boundary = self._delimiter[2:]
        start = data[at : at + len(boundary)]
        if start == boundary:
            raise MalformedRequest("A part of the form has the boundary where its data begins.")
        return boundary.startswith(start)

    def _undecided(self, data: bytes, at: int) -> int:
        """Where the next delimiter begins, or the bytes that may become one, or where data ends."""
        found = find(data, self._delimiter, at)
        if found < 0:
            found = data.rfind(b"\r", max(at, len(data) - len(self._delimiter) + 1))
            if found < 0 or not self._delimiter.startswith(data[found:]):
                return len(data)
        return found

    def _parse(self, line: bytes) -> Iterator[Event]:
        for event in self._parser.parse(line):
            if isinstance(event, MultipartSegment):
                yield from self._begin(part_head(event.headerlist))
            else:  # never data, see `_read_part`: the end of a part
                yield self._end()

    def _check_epilogue(self, chunk: bytes) -> None:
        # Some clients end the last line, some do not; both are one form to every reader.
        self._epilogue += chunk[:3]
        if not b"\r\n".startswith(self._epilogue):
            raise MalformedRequest("Something follows the form's closing boundary.")

    def _begin(self, part: PartHead) -> Iterator[Event]:
        self._name = part.name
        self._size = 0
        if part.is_file:
            self._check_file()
            self._state = State.FILE
            yield FileBegan(part.name)
        else:
            self._check_text(part.content_type or "text/plain")
            self._text = []
            self._state = State.TEXT

    def _check_file(self) -> None:
        name = self._name
        if name not in FILES:
            if folded(name) in FILES:
                raise unknown(name, FILES, place="an edit's files")
            param = named(name)
            raise ParameterError(f'"{param}" came as a file; files are named image, image[] or mask.', param=param)
        if name == "mask":
            self._check_first(name)
            return
        self._images.append(name)
        most = self._limits.max_images
        if len(self._images) > most:
            takes = "one image" if most == 1 else f"at most {most} images"
            raise ParameterError(f"An edit takes {takes}; more came.", param="image")
        # `image` goes up under that name before it is known whether more will follow, so it stands alone.
        if len(self._images) > 1 and "image" in self._images:
            raise ParameterError("Several images are named image[], each of them.", param="image")

    def _check_text(self, content_type: str) -> None:
        name = self._name
        if folded(name) in FILES:
            raise ParameterError(f"{named(name)} must be a file with a file name; it came as text.", param=named(name))
        if folded(name) == "_charset_":
            raise UnknownParameter("_charset_ is not taken: texts are UTF-8.", param="_charset_")
        self._check_first(name)
        if not _TEXT_TYPE.fullmatch(content_type):
            param = named(name)
            raise ParameterError(f"{param} must be text/plain in UTF-8; got {shown(content_type)}.", param=param)

    def _check_first(self, name: str) -> None:
        if folded(name) in self._seen:
            param = named(name)
            raise DuplicateParameter(f'The parameter "{param}" is given twice.', param=param)
        self._seen.add(folded(name))

    def _data(self, data: bytes) -> Iterator[Event]:
        self._size += len(data)
        if self._state is State.FILE:
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
        in_file = self._state is State.FILE
        self._state = State.HEADERS
        if in_file:
            return FileEnded()
        try:
            return Field(self._name, b"".join(self._text).decode())
        except UnicodeDecodeError as exc:
            param = named(self._name)
            raise ParameterError(f"{param} is not UTF-8.", param=param) from exc


def _end_of_head(data: bytes, at: int) -> int:
    """How far a part's head may go from `at` on: never past its empty line, for what follows is not the parser's.

    A line so short is that one, or its second half, or malformed.
    """
    while line_end := data.find(b"\n", at) + 1:
        if line_end - at <= len(b"\r\n"):
            return line_end
        at = line_end
    return len(data)
