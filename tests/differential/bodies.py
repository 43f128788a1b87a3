"""Bodies: orders in both forms, and what attackers do to them, one operator at a time or several.

Everything comes from a `Random` that is given, so a seed names the bodies of a run.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from random import Random

from tests.differential.readings import JSON
from tests.e2e import wire

BOUNDARY = "frontier"


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent. cuts: where its HTTP chunks end; without any it goes with its length, at once.

    head: further lines of the request's head, version: of HTTP, both as they go. framed: with a line of ours that
    says where the body ends; without, the head's own lines do.
    """

    origin: str
    content_type: str
    data: bytes
    cuts: tuple[int, ...] = ()
    head: tuple[bytes, ...] = ()
    version: bytes = b"HTTP/1.1"
    framed: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    headers: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """A form in pieces, to be changed and then written."""

    parts: tuple[Part, ...]
    boundary: bytes = BOUNDARY.encode()
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}"
    preamble: bytes = b""
    epilogue: bytes = b"\r\n"
    line: bytes = b"\r\n"

    def body(self, origin: str) -> Body:
        line, delimiter = self.line, b"--" + self.boundary
        parts = [
            delimiter + line + b"".join(h + line for h in part.headers) + line + part.data + line for part in self.parts
        ]
        data = self.preamble + b"".join(parts) + delimiter + b"--" + self.epilogue
        return Body(origin, self.content_type, data)


def text(name: bytes, value: bytes) -> Part:
    return Part((b'Content-Disposition: form-data; name="%b"' % name,), value)


def image(name: bytes = b"image", data: bytes | None = None) -> Part:
    head = b'Content-Disposition: form-data; name="%b"; filename="a.png"' % name
    return Part((head, b"Content-Type: image/png"), wire.png(side=1) if data is None else data)


#: Plain orders, all of them taken.
ORDERS: tuple[Form, ...] = (
    Form((text(b"prompt", b"a lighthouse"), image())),
    Form((image(), text(b"n", b"2"), text(b"size", b"1024x1024"), text(b"prompt", b"a b"))),
    Form((text(b"model", b"second"), text(b"prompt", b"x"), image(b"image[]"), text(b"n", b"3"))),
    Form((text(b"n", b"10"), text(b"prompt", "é".encode()), image(), image(b"mask"), text(b"size", b"1792x1024"))),
)
OBJECTS: tuple[dict[str, object], ...] = (
    {"prompt": "a lighthouse"},
    {"prompt": "x", "n": 2, "size": "1792x1024", "quality": "hd"},
    {"model": "second", "prompt": "é", "n": 10, "response_format": "url"},
    {"n": 3, "size": "auto", "quality": None, "prompt": "y", "user": "somebody", "style": "vivid"},
)

DECIDING = ("n", "size", "quality", "model")
_VALUES = {"n": "10", "size": "1792x1024", "quality": "hd", "model": "second"}

FormOperator = Callable[[Form, Random], Form]


def _edited(form: Form, at: int, part: Part) -> Form:
    return replace(form, parts=(*form.parts[:at], part, *form.parts[at + 1 :]))


def _inserted(form: Form, random: Random, part: Part) -> Form:
    at = random.randint(0, len(form.parts))
    return replace(form, parts=(*form.parts[:at], part, *form.parts[at:]))


def _another(name: bytes = b"", value: bytes = b"") -> FormOperator:
    """A further part: a deciding name, spelled some way, with a value of its own."""

    def operate(form: Form, random: Random) -> Form:
        deciding = random.choice(DECIDING)
        spelled = (name or b"%b").replace(b"%b", deciding.encode())
        return _inserted(form, random, text(spelled, value or _VALUES[deciding].encode()))

    return operate


def _disposition(change: Callable[[bytes], tuple[bytes, ...]]) -> FormOperator:
    """The first header of one part, written otherwise."""

    def operate(form: Form, random: Random) -> Form:
        at = random.randrange(len(form.parts))
        part = form.parts[at]
        if not part.headers:
            return form
        return _edited(form, at, Part((*change(part.headers[0]), *part.headers[1:]), part.data))

    return operate


def _header(line: bytes) -> FormOperator:
    return _disposition(lambda first: (first, line))


def _data(change: Callable[[bytes], bytes]) -> FormOperator:
    def operate(form: Form, random: Random) -> Form:
        at = random.randrange(len(form.parts))
        return _edited(form, at, replace(form.parts[at], data=change(form.parts[at].data)))

    return operate


def _whole(**changes: object) -> FormOperator:
    return lambda form, _: replace(form, **changes)  # type: ignore[arg-type]


def _shuffled(form: Form, random: Random) -> Form:
    return replace(form, parts=tuple(random.sample(form.parts, len(form.parts))))


def _twice(form: Form, random: Random) -> Form:
    return _inserted(form, random, random.choice(form.parts))


def _dropped(form: Form, random: Random) -> Form:
    at = random.randrange(len(form.parts))
    return replace(form, parts=(*form.parts[:at], *form.parts[at + 1 :]))


def _valued(form: Form, random: Random) -> Form:
    """Another value for one of the deciding names, whether taken or not."""
    value = random.choice([b"1", b"01", b"+1", b" 1", b"1 ", b"1.0", b"1e0", b"0x1", b"\xef\xbc\x91", b"10\x00", b"-1"])
    return _inserted(form, random, text(b"n", value))


def _hidden(form: Form, random: Random) -> Form:
    """A part within the data of a file, behind something that is nearly the delimiter."""
    near = random.choice(
        [b"--%b ", b"--%b\t", b"--%b-", b"-- %b", b"\n--%b", b"\r--%b", b"--%bx", b"--%b--", b"--%b\x00", b"--%b"]
    ).replace(b"%b", form.boundary)
    line = random.choice([b"\r\n", b"\n", b"\r"])
    inner = line.join([b"", near, b'Content-Disposition: form-data; name="n"', b"", b"10", b""])
    return _data(lambda data: data + inner)(form, random)


def _renamed(form: Form, random: Random) -> Form:
    boundary = random.choice(["a", "x" * 70, "'()+_,-./:=?", "0--", "x" * 71, "a b", "é", "a;b", 'a"b', "--frontier"])
    quoted = random.choice(['"%s"', "%s"]) % boundary
    return replace(
        form,
        boundary=boundary.encode(),
        content_type=f"multipart/form-data; boundary={quoted}",
    )


FORM_OPERATORS: dict[str, FormOperator] = {
    "another": _another(),
    "another in capitals": lambda form, random: _another(random.choice([b"N", b"SIZE", b"Model"]))(form, random),
    "another in brackets": _another(b"%b[]"),
    "another at an index": _another(b"%b[0]"),
    "another with a blank": _another(b" %b"),
    "another with a blank behind": _another(b"%b "),
    "another with a NUL": _another(b"%b\x00"),
    "another with a dot": _another(b"%b.x"),
    "another percent-encoded": _another(b"%6e"),
    "another fullwidth": _another("\uff4e".encode()),
    "another long s": _another("\u017fize".encode()),
    "another as an entity": _another(b"&#110;"),
    "another empty": _another(value=b""),
    "another in lines": _another(value=b"1\r\n2"),
    "another value": _valued,
    "quality": lambda form, random: _inserted(form, random, text(b"quality", b"hd")),
    "the charged quality": lambda form, random: _inserted(form, random, text(b"quality", b"standard")),
    "charset": lambda form, random: _inserted(form, random, text(b"_charset_", b"utf-16")),
    "twice": _twice,
    "dropped": _dropped,
    "shuffled": _shuffled,
    "empty file name": _disposition(lambda first: (first + b'; filename=""',)),
    "file name": _disposition(lambda first: (first + b'; filename="n.txt"',)),
    "file name without quotes": _disposition(lambda first: (first + b"; filename=x",)),
    "extended file name": _disposition(lambda first: (first + b"; filename*=utf-8''x",)),
    "file name that names": _disposition(lambda first: (first + b'; filename="x\\"; name=\\"n"',)),
    "file name in its own words": _disposition(lambda first: (first.replace(b"a.png", b'x"; name="n'),)),
    "file name of raw bytes": _disposition(lambda first: (first.replace(b"a.png", b"\xff\xc3.png"),)),
    "file name with a backslash": _disposition(lambda first: (first.replace(b"a.png", b"C:\\a\\"),)),
    "file name with a semicolon": _disposition(lambda first: (first.replace(b"a.png", b"a;name=n;.png"),)),
    "second name": _disposition(lambda first: (first + b'; name="n"',)),
    "second name first": _disposition(lambda first: (first.replace(b"; name", b'; name="n"; name'),)),
    "extended name": _disposition(lambda first: (first + b"; name*=utf-8''n",)),
    "continued name": _disposition(lambda first: (first.replace(b"name=", b"name*0="),)),
    "name without quotes": _disposition(lambda first: (first.replace(b'"', b""),)),
    "name in single quotes": _disposition(lambda first: (first.replace(b'"', b"'"),)),
    "name with a blank": _disposition(lambda first: (first.replace(b"name=", b"name ="),)),
    "NAME": _disposition(lambda first: (first.replace(b"name=", b"NAME="),)),
    "no blank": _disposition(lambda first: (first.replace(b"; ", b";"),)),
    "folded": _disposition(lambda first: (first.replace(b"; ", b";\r\n "),)),
    "in lower case": _disposition(lambda first: (first.lower(),)),
    "in capitals": _disposition(lambda first: (first.upper(),)),
    "blank before the colon": _disposition(lambda first: (first.replace(b":", b" :"),)),
    "attachment": _disposition(lambda first: (first.replace(b"form-data", b"attachment"),)),
    "quoted form-data": _disposition(lambda first: (first.replace(b"form-data", b'"form-data"'),)),
    "second disposition": _header(b'Content-Disposition: form-data; name="n"'),
    "other case of the disposition": _header(b'content-disposition: form-data; name="n"'),
    "disposition first": _disposition(lambda first: (b'Content-Disposition: form-data; name="n"', first)),
    "no disposition": _disposition(lambda _: ()),
    "base64": _header(b"Content-Transfer-Encoding: base64"),
    "quoted-printable": _header(b"Content-Transfer-Encoding: quoted-printable"),
    "binary": _header(b"Content-Transfer-Encoding: binary"),
    "gzip": _header(b"Content-Encoding: gzip"),
    "length": _header(b"Content-Length: 1"),
    "text in UTF-16": _header(b"Content-Type: text/plain; charset=utf-16"),
    "text in UTF-8": _header(b"Content-Type: text/plain; charset=utf-8"),
    "a form within": _header(b"Content-Type: multipart/mixed; boundary=frontier"),
    "another header": _header(b"X-Note: n=10"),
    "header without colon": _header(b"name"),
    "header with a CR": _header(b'X: y\rContent-Disposition: form-data; name="n"'),
    "header with a LF": _header(b'X: y\nContent-Disposition: form-data; name="n"'),
    "header with a NUL": _header(b"X: \x00"),
    "hidden part": _hidden,
    "boundary in data": _data(lambda data: data + b"\r\n--frontie"),
    "data begins with the boundary": _data(lambda data: b"--frontier" + data),
    "data without end": _data(lambda data: data + b"\r"),
    "LF": _whole(line=b"\n"),
    "CR": _whole(line=b"\r"),
    "preamble": _whole(preamble=b"preamble\r\n"),
    "empty line first": _whole(preamble=b"\r\n"),
    "blank first": _whole(preamble=b" "),
    "part in the preamble": _whole(preamble=b'--frontier \r\nContent-Disposition: form-data; name="n"\r\n\r\n10\r\n'),
    "epilogue": _whole(epilogue=b"\r\nepilogue"),
    "no last line": _whole(epilogue=b""),
    "LF last": _whole(epilogue=b"\n"),
    "blank last": _whole(epilogue=b" \r\n"),
    "part in the epilogue": _whole(
        epilogue=b'\r\n--frontier\r\nContent-Disposition: form-data; name="n"\r\n\r\n10\r\n--frontier--\r\n'
    ),
    "other boundary": _renamed,
    "two boundaries": _whole(content_type="multipart/form-data; boundary=other; boundary=frontier"),
    "two boundaries turned": _whole(content_type="multipart/form-data; boundary=frontier; boundary=other"),
    "extended boundary": _whole(content_type="multipart/form-data; boundary=other; boundary*=utf-8''frontier"),
    "boundary in capitals": _whole(content_type="multipart/form-data; BOUNDARY=frontier"),
    "quoted boundary": _whole(content_type='multipart/form-data; boundary="frontier"'),
    "boundary with a comma": _whole(content_type="multipart/form-data; boundary=frontier, text/plain"),
    "charset beside the boundary": _whole(content_type="multipart/form-data; charset=utf-16; boundary=frontier"),
    "mixed": _whole(content_type="multipart/mixed; boundary=frontier"),
    "url-encoded": _whole(content_type="application/x-www-form-urlencoded"),
    "MULTIPART": _whole(content_type="MULTIPART/FORM-DATA; boundary=frontier"),
}

#: JSON values as bytes, of which readers make several things, or none.
VALUES = (
    b"1", b"10", b"2", b'"1"', b"1.0", b"1e0", b"1E+0", b"10e-1", b"01", b"+1", b"-0", b"0", b"0x1", b"1_0", b"true",
    b"null", b"[]", b"[1]", b"{}", b"NaN", b"Infinity", b"1e400", b"1.0000000000000001", b"4294967297",
    b"18446744073709551617", b"1" * 400, b'"10"', b'"hd"', b'"auto"', b'"standard"', b'"1792x1024"', b'"second"',
    b'"1024x1024"', b'"dall-e-3"', b'"\\u0068d"', b'"hd\\u0000"', b'"HD"', b'"\\ud800"', b'"\xff"',
    b'"\\x"', b"'hd'", b"1 2",
)  # fmt: skip

#: Spellings that some reader takes for a deciding name.
KEYS = (
    b'"n"', b'"N"', b'"\\u006e"', b'"\\u004e"', b'"n\\u0000"', b'" n"', b'"n "', b'"\xef\xbd\x8e"',
    b"n", b"'n'", b'"size"',
    b'"SIZE"', b'"\xc5\xbfize"', b'"\\u017fize"', b'"Size"', b'"quality"', b'"Quality"',
    b'"model"', b'"MODEL"', b'"prompt"',
    b'"Prompt"', b'"user"', b'"\\ud83d\\ude00"', b'"\\ud800"', b'""', b'"__proto__"', b'"n"//',
    b'/**/"n"', b'"background"',
)  # fmt: skip


def _members(random: Random) -> list[bytes]:
    base = random.choice(OBJECTS)
    escaped = random.random() < 0.5
    return [b"%b: %b" % (json.dumps(k).encode(), json.dumps(v, ensure_ascii=escaped).encode()) for k, v in base.items()]


JsonOperator = Callable[[list[bytes], Random], list[bytes]]


def _member(members: list[bytes], random: Random) -> list[bytes]:
    at = random.randint(0, len(members))
    return [*members[:at], b"%b:%b" % (random.choice(KEYS), random.choice(VALUES)), *members[at:]]


def _repeated(members: list[bytes], random: Random) -> list[bytes]:
    return [*members, random.choice(members)]


def _removed(members: list[bytes], random: Random) -> list[bytes]:
    gone = random.randrange(len(members))
    return [member for at, member in enumerate(members) if at != gone] or members


def _shaken(members: list[bytes], random: Random) -> list[bytes]:
    return random.sample(members, len(members))


JSON_OPERATORS: tuple[JsonOperator, ...] = (_member, _repeated, _removed, _shaken)

#: What is done to a whole text.
_WRAPS: tuple[Callable[[bytes], bytes], ...] = (
    lambda raw: b"\xef\xbb\xbf" + raw,
    lambda raw: raw.decode("utf-8", "replace").encode("utf-16"),
    lambda raw: raw.decode("utf-8", "replace").encode("utf-32-le"),
    lambda raw: raw + b"}",
    lambda raw: raw + raw,
    lambda raw: raw + b"\x00",
    lambda raw: b" \r\n\t" + raw + b"\n",
    lambda raw: raw[:-1] + b",}",
    lambda raw: b"[" + raw + b"]",
    lambda raw: raw[:-1] + b"/* */}",
    lambda raw: raw.replace(b":", b"\x0b:"),
    lambda raw: raw.replace(b'"', b"'"),
    lambda raw: b")]}'\n" + raw,
)

_TOKENS = (
    b"\r\n", b"\n", b"\r", b"--frontier", b"--", b'name="n"', b'; filename="x"', b'"', b"\\", b":",
    b";", b"\x00", b"\xff", b",",
    b"{", b"}", b"1", b"Content-Disposition: form-data; ", b" ", b"\t", b"=", b"\r\n\r\n", b'"n":10,', b"\xc3", b"%6e",
)  # fmt: skip


def _damaged(data: bytes, random: Random) -> bytes:
    """A byte or a few of it changed, taken out, put in, or moved."""
    at, end = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
    end = min(end, at + random.choice((1, 2, 8, 64)))
    match random.randrange(4):
        case 0:
            return data[:at] + random.choice(_TOKENS) + data[at:]
        case 1:
            return data[:at] + data[end:]
        case 2:
            return data[:end] + data[at:]
        case _:
            return data[:at] + bytes(byte ^ 0x20 for byte in data[at:end]) + data[end:]


def _json(random: Random, *, operators: int) -> bytes:
    members = _members(random)
    for _ in range(operators):
        members = random.choice(JSON_OPERATORS)(members, random)
    raw = b"{" + b", ".join(members) + b"}"
    return random.choice(_WRAPS)(raw) if random.random() < 0.1 else raw


def mutated(random: Random, further: tuple[Body, ...] = ()) -> Body:
    """One body with one to three things done to it. further: bodies of others, to be damaged as well."""
    times = random.randint(1, 3)
    if further and random.random() < 0.2:
        seed = random.choice(further)
        body = replace(seed, origin=f"{seed.origin}, damaged")
    elif random.random() < 0.4:
        body = Body("json", JSON, _json(random, operators=times))
    else:
        form = random.choice(ORDERS)
        chosen = random.sample(sorted(FORM_OPERATORS), times)
        for name in chosen:
            form = FORM_OPERATORS[name](form, random) if form.parts else form
        body = form.body(" + ".join(chosen))
    if "damaged" in body.origin or random.random() < 0.15:
        body = replace(body, data=_damaged(body.data, random))
    return cut_at_random(body, random)


def cut_at_random(body: Body, random: Random) -> Body:
    """Half of them in chunks, but for those with a head of their own: one that frames no body may end the connection
    while its client still writes.
    """
    if random.random() < 0.5 or not body.data or body.head:
        return body
    return in_chunks(body, random)


def in_chunks(body: Body, random: Random) -> Body:
    """At up to thirty places by chance."""
    number = random.choice((1, 2, 5, 30))
    cuts = {random.randint(1, len(body.data)) for _ in range(number)}
    return replace(body, cuts=tuple(sorted(cuts)))


def plain() -> tuple[Body, ...]:
    """The orders as they are."""
    objects = [Body("json", JSON, json.dumps(each).encode()) for each in OBJECTS]
    return (*(form.body("form") for form in ORDERS), *objects)


def crafted() -> Iterator[Body]:
    """Each operator on each order; each value under each name."""
    for name, operate in FORM_OPERATORS.items():
        for at, form in enumerate(ORDERS):
            yield operate(form, Random(at)).body(name)
    for key in KEYS:
        for value in VALUES:
            yield Body("json member", JSON, b'{"prompt": "x", %b: %b}' % (key, value))
            if key in KEYS[:2]:
                yield Body("json member twice", JSON, b'{"prompt": "x", "n": 1, %b: %b}' % (key, value))
    for wrap in _WRAPS:
        yield Body("json text", JSON, wrap(b'{"prompt": "x", "n": 2}'))


@dataclass(frozen=True, slots=True)
class Cuts:
    """Two plain orders at every place: ended there, whose bodies are refused, and cut there into chunks, all taken."""

    of: tuple[Body, ...] = field(default_factory=lambda: (plain()[1], plain()[6]))

    def ended(self) -> Iterator[Body]:
        for body in self.of:
            form_end = len(body.data.rstrip(b"\r\n"))
            for at in range(form_end):
                yield replace(body, origin="ended", data=body.data[:at])

    def chunked(self) -> Iterator[Body]:
        for body in self.of:
            for at in range(1, len(body.data) + 1):
                yield replace(body, origin="chunked", cuts=(at,))
            yield replace(body, origin="bytes", cuts=tuple(range(1, len(body.data) + 1)))
