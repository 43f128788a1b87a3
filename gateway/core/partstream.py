"""The parts of a form as its bytes arrive: where each begins and ends (RFC 2046, 5.1.1), however they are cut.

`multipart.PushMultipartParser` reads delimiter lines and part heads. What stands between them goes past it: it is
searched for the next delimiter here, once, and handed on as it came, uncopied and never held but for the few bytes that
may begin a delimiter. Readers disagree about all that is not plain, so the grammar is narrow: CRLF alone, no preamble,
no epilogue.
"""

from collections.abc import Generator, Iterator
from enum import Enum, auto

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from gateway.core.errors import MalformedRequest
from gateway.core.partheads import PartHead, check_line, part_head
from gateway.core.search import find

#: A part's head, a piece of its data, or None: its end.
Event = PartHead | bytes | None


class State(Enum):
    OPENING = auto()  # before the first delimiter line is complete
    HEAD = auto()
    DATA = auto()
    EPILOGUE = auto()  # after the closing delimiter
    CLOSED = auto()
    FAILED = auto()


class _Parser(PushMultipartParser):  # type: ignore[misc]  # the library carries no types
    def _on_segment_headerline(self, line: bytes) -> None:
        # The library strips blanks off names before anyone sees them: only here is the line as it came. Its limit
        # stands two bytes above ours, for of an unfinished line it may count the CR and a byte more.
        check_line(line, longest=self.max_header_size - 2)
        super()._on_segment_headerline(line)

    def count(self, data: bytes) -> None:
        """Data of the open part that goes past the parser: it holds the part to its Content-Length, if it has one."""
        self._on_segment_payload(data)


class PartStream:
    """Feed it every chunk and use up its events, then `close` it. Raises `MalformedRequest`.

    max_header_line: bytes. After an error it is of no use; whoever finds one in what it gave says so by `fail`.
    """

    def __init__(self, boundary: bytes, *, max_parts: int, max_headers: int, max_header_line: int) -> None:
        self.state = State.OPENING
        self._opening = b"--" + boundary + b"\r\n"
        self._delimiter = b"\r\n--" + boundary
        self._parser = _Parser(
            boundary,
            max_header_size=max_header_line + 2,
            max_header_count=max_headers,
            max_segment_count=max_parts,
            header_charset="latin-1",  # decodes any byte; `part_head` takes names as UTF-8
            strict=True,
        )
        self._held = b""  # of OPENING: what has come; of DATA: the last bytes, as far as they may be a delimiter's
        self._at_start = False  # of a part's data
        self._epilogue = b""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that these bytes complete. An empty chunk has none."""
        if self.state in (State.CLOSED, State.FAILED):
            raise RuntimeError(f"a stream of parts that is {self.state.name} was fed")
        data, self._held = self._held + chunk, b""
        at = 0
        try:
            while at < len(data):
                if self.state is State.DATA:
                    at = yield from self._read_data(data, at)
                elif self.state is State.HEAD:
                    end = _end_of_head(data, at)
                    yield from self._parse(data[at:end])
                    at = end
                elif self.state is State.OPENING:
                    if not self._is_opened(data):
                        self._held = data
                        return
                    self.state = State.HEAD  # for the parser the first line is like those that follow it
                else:
                    self._read_epilogue(data[at:])
                    return
        except MultipartError as exc:
            raise MalformedRequest(f"The form cannot be read: {exc.args[0]}.") from exc

    def close(self) -> None:
        """The end of the body. Raises if the closing delimiter has not come or half an epilogue has."""
        if self.state is not State.EPILOGUE:
            raise MalformedRequest("The body ends before the form's closing boundary.")
        if self._epilogue not in (b"", b"\r\n"):
            raise MalformedRequest("Something follows the form's closing boundary.")
        self.state = State.CLOSED

    def fail(self) -> None:
        self.state = State.FAILED

    def _is_opened(self, data: bytes) -> bool:
        """The library takes CRLFs and, by the cut of its first chunk, a preamble; ours is exactly one line."""
        if not data.startswith(self._opening[: len(data)]):
            raise MalformedRequest("The body does not start with the boundary that Content-Type names.")
        return len(data) >= len(self._opening)

    def _read_data(self, data: bytes, at: int) -> Generator[Event, None, int]:
        """A part's data and, if it is whole, the line that ends it with the head behind that."""
        if self._at_start and self._may_be_empty(data, at):
            self._held = data[at:]
            return len(data)
        end = self._undecided(data, at)
        if end > at:
            self._at_start = False
            piece = data[at:end]
            self._parser.count(piece)
            yield piece
        after = end + len(self._delimiter) + len(b"--")
        if after > len(data):
            self._held = data[end:]
            return len(data)
        if data[after - 2 : after] == b"--":
            yield from self._parse(data[end:after])
            self._parser.close()
            self.state = State.EPILOGUE
        else:
            after = _end_of_head(data, after)
            yield from self._parse(data[end:after])
        return after

    def _may_be_empty(self, data: bytes, at: int) -> bool:
        """Whether a part's first bytes may be the boundary, without a line break of its own before it.

        Some readers see an empty part there, others its data: as a whole it is refused.
        """
        boundary = self._delimiter[len(b"\r\n") :]
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

    def _parse(self, lines: bytes) -> Iterator[Event]:
        """Lines of delimiters and heads alone; the parser gives no data, for it gets none."""
        for event in self._parser.parse(lines):
            if isinstance(event, MultipartSegment):
                self.state, self._at_start = State.DATA, True
                yield part_head(event.headerlist)
            else:
                self.state = State.HEAD
                yield None

    def _read_epilogue(self, data: bytes) -> None:
        # Some clients end the last line, some do not; both are one form to every reader.
        self._epilogue += data[:3]
        if not b"\r\n".startswith(self._epilogue):
            raise MalformedRequest("Something follows the form's closing boundary.")


def _end_of_head(data: bytes, at: int) -> int:
    """How far a part's head may go from `at` on: never past its empty line, for what follows is not the parser's.

    A line so short is that one, or its second half, or malformed.
    """
    while line_end := data.find(b"\n", at) + 1:
        if line_end - at <= len(b"\r\n"):
            return line_end
        at = line_end
    return len(data)
