"""One parameter of a request: the folding of its name, the check of its value, the sentence when it is wrong.

Every check takes a decoded JSON value and gives it back typed, or raises `ParameterError` with a sentence that names
what was got (shortened and escaped) and what is allowed. Form texts are turned into JSON values first, by
`from_text`, so that both bodies meet the same checks.
"""

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from unicodedata import normalize

from gateway.core.errors import ParameterError, UnknownParameter
from gateway.core.keys import PREFIX

SHOWN = 40  #: characters of a client's value that a message repeats: enough to recognise it, too few to be a prompt
LONGEST_NAME = 64  #: characters of a parameter's name; folding a longer one could cost what its bytes do not show
_LONGEST_NUMBER = 20  # digits that a message repeats

_SECRET = re.compile(rf"{PREFIX}[0-9A-Za-z]+|eyJ[\w-]+\.[\w.-]*", re.ASCII)  # a JWT begins with '{"'

_COUNT = re.compile(r"[1-9][0-9]?")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,2})?")

_ARTICLES = {"string": "a string", "integer": "an integer", "number": "a number", "boolean": "true or false"}


def folded(name: str) -> str:
    """The name as the most forgiving reader would compare it: NFKC and case folding, so a long s is an s.

    Go's encoding/json matches keys by simple folding; two names that are equal here could be one to the upstream.
    """
    return name if name.isascii() and name.islower() else normalize("NFKC", normalize("NFKC", name).casefold())


def covered(text: str) -> str:
    """The text without what looks like one of our keys or a token: who mistakes its place must not meet it in a log."""
    return _SECRET.sub(lambda found: f"{found[0][:4]}…", text)


def shown(value: object) -> str:
    """The value for a message: one short printable line, whatever the client sent."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        safe = covered(value[: 4 * SHOWN])  # longer than any key
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe[:SHOWN])
        return f'"{text}…"' if len(safe) > SHOWN else f'"{text}"'
    if isinstance(value, int):
        return str(value) if abs(value) < 10**_LONGEST_NUMBER else "a very large number"
    if isinstance(value, float):
        return repr(value)
    return "a list" if isinstance(value, list | tuple) else "an object"


def named(name: str) -> str:
    """A client's own parameter name for a message and for `param`: short and printable, without quotes."""
    return shown(name)[1:-1]


def listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def unknown(name: str, known: Collection[str], *, place: str) -> UnknownParameter:
    """The error for a name that nobody here knows. place: what was asked, as ``a generation``."""
    near: list[str] = []
    if len(name) <= LONGEST_NAME:
        meant = folded(name)
        near = [k for k in known if folded(k) == meant] or get_close_matches(meant, known, n=1, cutoff=0.7)
    hint = f'Did you mean "{near[0]}"?' if near else f"Known are: {listed(sorted(known))}."
    param = named(name)
    return UnknownParameter(f'Unknown parameter "{param}" for {place}. {hint}', param=param)


def choice(name: str, value: object, allowed: Collection[str], *, where: str = "") -> str:
    """One of a list of strings, compared exactly. where: what the list belongs to, as ``for dall-e-3``."""
    if isinstance(value, str) and value in allowed:
        return value
    scope = f" {where}" if where else ""
    raise ParameterError(f"{name} must be one of {listed(allowed)}{scope}; got {shown(value)}.", param=name)


def count(name: str, value: object, *, most: int) -> int:
    """An integer from 1 to `most`. ``true``, ``1.0`` and ``"1"`` are none: JSON readers disagree about them."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    allowed = f"an integer from 1 to {most}" if most > 1 else "1"
    raise ParameterError(f"{name} must be {allowed}; got {shown(value)}.", param=name)


def text(name: str, value: object) -> str:
    """A string of Unicode characters: no lone surrogates, which no UTF-8 can hold."""
    if not isinstance(value, str):
        raise ParameterError(f"{name} must be a string; got {shown(value)}.", param=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ParameterError(f"{name} contains half of a surrogate pair, which is no character.", param=name) from None
    return value


def typed(name: str, value: object, kind: str) -> object:
    """A parameter that the config lets through. kind: string, integer, number or boolean, as JSON means them."""
    match kind:
        case "string":
            return text(name, value)
        case "boolean":
            fits = isinstance(value, bool)
        case "integer":
            fits = isinstance(value, int) and not isinstance(value, bool)
        case _:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not fits:
        raise ParameterError(f"{name} must be {_ARTICLES[kind]}; got {shown(value)}.", param=name)
    return value


def from_text(value: str, kind: str) -> object:
    """A form's text as the JSON value of that kind; ``count`` is an integer of one or two digits.

    A text that is no such value comes back as it is, for the check of that value to refuse in its own words.
    """
    match kind:
        case "count" if _COUNT.fullmatch(value):
            return int(value)
        case "integer" if _INTEGER.fullmatch(value):
            return int(value)
        case "number" if _NUMBER.fullmatch(value):
            return float(value) if set(value) & set(".eE") else int(value)
        case "boolean" if value in ("true", "false"):
            return value == "true"
        case _:
            return value
