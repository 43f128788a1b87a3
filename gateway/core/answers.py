"""What comes down: errors in the upstream's words, cleaned, and the number of images in an answer.

An answer that cannot be counted is no answer: what it cost is unknown, and nothing here guesses.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

import orjson

from gateway.core.errors import ParameterError
from gateway.core.jsonbody import decode
from gateway.core.secret import Secret

MAX_ERROR = 64 * 1024  #: bytes of an error answer that are read
MAX_MESSAGE = 500  #: characters of the upstream's message that are passed on

_KEY_LIKE = re.compile(r"(?i:bearer)\s+\S+|\b(?:sk|igw)[-_][^\s\"',;]+")
_URL_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']+")  # signatures stand there
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


@dataclass(frozen=True, slots=True)
class UpstreamWords:
    """An upstream error, fit to be shown: `message` a clean sentence, the others short identifiers or None."""

    message: str
    type: str | None
    code: str | None
    param: str | None


def upstream_error(body: bytes, status: int, *, secrets: Iterable[Secret] = ()) -> UpstreamWords:
    """Reads ``{"error": {…}}`` and its common variants; anything else becomes a general sentence.

    secrets: what must not pass even if it looks like nothing special, such as the account's key.
    """
    try:
        answer = decode(body[:MAX_ERROR])
    except ParameterError:
        answer = {}
    error = answer.get("error", answer)
    if isinstance(error, str):
        error = {"message": error}
    facts = error if isinstance(error, dict) else {}
    message = facts.get("message") or facts.get("detail")
    cleaned = _clean(message, secrets) if isinstance(message, str) else ""
    return UpstreamWords(
        message=cleaned or f"The image service answered {status} without saying why.",
        type=_identifier(facts.get("type"), secrets),
        code=_identifier(facts.get("code"), secrets),
        param=_identifier(facts.get("param"), secrets),
    )


def _clean(message: str, secrets: Iterable[Secret]) -> str:
    # Unprintable characters go first, else one inside a key would hide it from what follows; the cut comes last,
    # else it could leave half a key that no longer looks like one.
    line = "".join(c for c in " ".join(message.split()) if c.isprintable())
    for secret in secrets:
        if secret.reveal():
            line = line.replace(secret.reveal(), "***")
    line = _URL_QUERY.sub(r"\1?***", _KEY_LIKE.sub("***", line))
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def _identifier(value: object, secrets: Iterable[Secret]) -> str | None:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value) or _clean(value, secrets) != value:
        return None
    return value


def count_images(body: bytes) -> int | None:
    """The images of a whole answer: a JSON object with a list `data`, each item with a `url` or `b64_json`.

    None for anything else: whether and how many images were made is then unknown.
    """
    try:
        answer = _loaded(body)
    except (ValueError, RecursionError):
        return None
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(_is_image(item) for item in data):
        return None
    return len(data)


def _loaded(body: bytes) -> object:
    """Whatever a lenient reader takes; a strict one is asked first, because it is fast."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def _is_image(item: object) -> bool:
    if not isinstance(item, dict):
        return False
    url, text = item.get("url"), item.get("b64_json")
    return (isinstance(url, str) and url != "") or (isinstance(text, str) and text != "")


class _Next(Enum):
    """What JSON's grammar (RFC 8259) allows next, between strings."""

    VALUE = auto()
    VALUE_OR_END = auto()
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()
    NOTHING = auto()  # the top-level value is closed
    BROKEN = auto()


_BLANK = re.compile(rb"[ \t\r\n]++")
_RUN = re.compile(rb'[^ \t\r\n"{}\[\],:]++')
_SCALAR = re.compile(rb"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_LONGEST_SCALAR = 64  # no JSON writer makes a longer number
_DEEPEST = 64  # image answers have depth 3
_OPENING = {0x7B: 0x7D, 0x5B: 0x5D}  # { } and [ ]


class ImageCounter:
    """Counts the objects in the top-level list `data` of a streamed JSON answer, in constant memory.

    Follows the grammar but looks into no string: those hold megabytes of base64 and are skipped at memory speed.
    Never raises: what is no JSON object with one list `data`, properly closed, just never gets `complete`.
    """

    def __init__(self) -> None:
        self.count = 0  #: images begun so far
        self._next = _Next.VALUE
        self._closers: list[int] = []
        self._in_string = False
        self._escaped = False
        self._scalar = b""
        self._key = b""  # of the top-level object; its first bytes are enough to know `data`
        self._in_data = False
        self._had_data = False

    @property
    def complete(self) -> bool:
        """Whether the answer ended where it should, and had a list `data`."""
        return self._next is _Next.NOTHING and self._had_data

    def feed(self, chunk: bytes) -> None:
        at = 0
        while at < len(chunk) and self._next is not _Next.BROKEN:
            at = self._skip_string(chunk, at) if self._in_string else self._step(chunk, at)

    def _skip_string(self, chunk: bytes, start: int) -> int:
        at = start + self._escaped
        self._escaped = False
        quote = chunk.find(b'"', at)
        while (slash := chunk.find(b"\\", at, quote if quote >= 0 else len(chunk))) >= 0:
            at = slash + 2
            # Found again only when passed: else a string of escapes would be searched to its end for each of them.
            if 0 <= quote < at:
                quote = chunk.find(b'"', at)
        if len(self._closers) == 1 and self._next is _Next.COLON:
            self._key += chunk[start : quote if quote >= 0 else None][: len(b"data") + 1 - len(self._key)]
        if quote < 0:
            self._escaped = at > len(chunk)
            return len(chunk)
        self._in_string = False
        return quote + 1

    def _step(self, chunk: bytes, at: int) -> int:
        """Over one mark, or one run of blanks or of a number's or word's characters."""
        if run := _RUN.match(chunk, at):
            self._scalar += run[0][: _LONGEST_SCALAR + 1 - len(self._scalar)]
            if self._next not in (_Next.VALUE, _Next.VALUE_OR_END):
                self._next = _Next.BROKEN
            return run.end()
        if self._scalar:
            good = len(self._scalar) <= _LONGEST_SCALAR and _SCALAR.fullmatch(self._scalar)
            self._next = _Next.COMMA_OR_END if good and self._closers else _Next.BROKEN
            self._scalar = b""
            return at
        if blank := _BLANK.match(chunk, at):
            return blank.end()
        self._next = self._after(chunk[at])
        return at + 1

    def _after(self, mark: int) -> _Next:
        match mark, self._next:
            case 0x22, (_Next.VALUE | _Next.VALUE_OR_END) if self._closers:  # "
                self._in_string = True
                return _Next.COMMA_OR_END
            case 0x22, (_Next.KEY | _Next.KEY_OR_END):
                self._in_string = True
                self._key = b"" if len(self._closers) == 1 else self._key
                return _Next.COLON
            case 0x3A, _Next.COLON:  # :
                return _Next.VALUE
            case 0x2C, _Next.COMMA_OR_END:  # ,
                return _Next.KEY if self._closers[-1] == 0x7D else _Next.VALUE
            case ((0x7B | 0x5B), (_Next.VALUE | _Next.VALUE_OR_END)):
                return self._open(mark)
            case ((0x7D | 0x5D), (_Next.COMMA_OR_END | _Next.KEY_OR_END | _Next.VALUE_OR_END)):
                return self._close(mark)
            case _:
                return _Next.BROKEN

    def _open(self, mark: int) -> _Next:
        depth = len(self._closers)
        is_object = mark == 0x7B
        if depth >= _DEEPEST or (depth == 0 and not is_object):
            return _Next.BROKEN
        if depth == 1 and self._key == b"data" and not is_object:
            if self._had_data:  # readers disagree about which of two counts
                return _Next.BROKEN
            self._in_data = self._had_data = True
        elif depth == 2 and self._in_data and is_object:  # in the object, in the list
            self.count += 1
        self._closers.append(_OPENING[mark])
        return _Next.KEY_OR_END if is_object else _Next.VALUE_OR_END

    def _close(self, mark: int) -> _Next:
        if self._closers.pop() != mark:
            return _Next.BROKEN
        if len(self._closers) == 1:
            self._in_data = False
        return _Next.COMMA_OR_END if self._closers else _Next.NOTHING
