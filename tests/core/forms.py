"""Crafted forms, each with its verdict: what every reader takes alike, and what readers are known to disagree about."""

from hashlib import sha256

from gateway.core.errors import (
    DuplicateParameter,
    MalformedRequest,
    ParameterError,
    RequestTooLarge,
    UnknownParameter,
)
from gateway.core.multipart import FormLimits

#: Texts and files with their digests, then "end"; or the error's class and parameter.
Verdict = tuple[object, ...]

B = b"XyZ-boundary"
LIMITS = FormLimits(max_image_size=300, max_prompt_chars=40, max_text_size=64)

CD = b"Content-Disposition: form-data; "
PIXELS = b"\x89PNG\r\n\x1a\n\x00\r\n--XyZ-boundar\r\n--\r\r\n"  # near misses of the delimiter belong to the file


def part(headers: bytes, body: bytes = b"1") -> bytes:
    return b"--" + B + b"\r\n" + headers + b"\r\n\r\n" + body + b"\r\n"


def text(name: bytes, value: bytes = b"1") -> bytes:
    return part(CD + b'name="' + name + b'"', value)


def file(name: bytes = b"image", data: bytes = PIXELS, filename: bytes = b"a.png") -> bytes:
    head = CD + b'name="' + name + b'"; filename="' + filename + b'"\r\nContent-Type: image/png'
    return part(head, data)


def form(*parts: bytes, end: bytes = b"--" + B + b"--\r\n") -> bytes:
    return b"".join(parts) + end


IMAGE = ("image", sha256(PIXELS).hexdigest())
BAD = (MalformedRequest, None)

TAKEN: dict[str, tuple[bytes, Verdict]] = {
    "texts after the file": (form(file(), text(b"n", b"2")), (IMAGE, ("n", "2"), "end")),
    "texts before the file": (form(text(b"n", b"2"), file()), (("n", "2"), IMAGE, "end")),
    "no CRLF after the end": (form(file(), end=b"--" + B + b"--"), (IMAGE, "end")),
    "mask first": (form(file(b"mask"), file()), (("mask", IMAGE[1]), IMAGE, "end")),
    "image[]": (form(file(b"image[]")), (("image[]", IMAGE[1]), "end")),
    "empty file": (form(file(data=b"")), (("image", sha256().hexdigest()), "end")),
    "empty file name": (form(file(filename=b"")), (IMAGE, "end")),
    "file name of raw bytes": (form(file(filename=b"\xff\xe9\x80.png")), (IMAGE, "end")),
    "file name in UTF-8": (form(file(filename="東京.png".encode())), (IMAGE, "end")),
    "file name with escaped quotes": (form(file(filename=rb"a\"b.png")), (IMAGE, "end")),
    "file name with a path": (form(file(filename=rb"C:\dir\a.png")), (IMAGE, "end")),
    "file name that looks like a name": (form(file(filename=b"x; name=n")), (IMAGE, "end")),
    "filename*": (form(part(CD + b"name=\"image\"; filename*=utf-8''%e6.png", PIXELS)), (IMAGE, "end")),
    "both file names": (
        form(part(CD + b'name="image"; filename="_"; filename*=utf-8\'\'%e6.png', PIXELS)),
        (IMAGE, "end"),
    ),
    "header names in lower case": (form(part(b'content-disposition: form-data; name="n"')), (("n", "1"), "end")),
    "no blank after the colon": (form(part(b'Content-Disposition:form-data; name="n"')), (("n", "1"), "end")),
    "text type as aiohttp writes it": (
        form(part(b"Content-Type: text/plain; charset=utf-8\r\n" + CD + b'name="n"')),
        (("n", "1"), "end"),
    ),
    "right Content-Length": (form(part(CD + b'name="n"\r\nContent-Length: 1')), (("n", "1"), "end")),
    "binary transfer encoding": (
        form(part(CD + b'name="n"\r\nContent-Transfer-Encoding: binary')),
        (("n", "1"), "end"),
    ),
    "octet-stream image": (
        form(part(CD + b'name="image"; filename="upload"\r\nContent-Type: application/octet-stream', PIXELS)),
        (IMAGE, "end"),
    ),
    "empty text": (form(text(b"prompt", b"")), (("prompt", ""), "end")),
    "lines and quotes in a text": (form(text(b"prompt", b'"a"\r\nb\n\r--')), (("prompt", '"a"\r\nb\n\r--'), "end")),
    "text of 40 four-byte characters": (
        form(text(b"prompt", "😀".encode() * 40)),
        (("prompt", "😀" * 40), "end"),
    ),
    "other names are left to the order": (form(text(b"n[]", b"2")), (("n[]", "2"), "end")),
    "percent in a name is no escape": (form(text(b"a%22n")), (("a%22n", "1"), "end")),
    "header line of 4096 bytes": (
        form(file(filename=b"f" * (4096 - len(CD + b'name="image"; filename=""')))),
        (IMAGE, "end"),
    ),
    "32 parts": (form(*(text(b"p%d" % i) for i in range(32))), (*((f"p{i}", "1") for i in range(32)), "end")),
}

REFUSED: dict[str, tuple[bytes, Verdict]] = {
    # One parameter, two values: readers take the first, the last or both.
    "n twice": (form(text(b"n"), text(b"n", b"10")), (DuplicateParameter, "n")),
    "n twice around the file": (form(text(b"n"), file(), text(b"n", b"10")), (DuplicateParameter, "n")),
    "n twice, equal": (form(text(b"n"), text(b"n")), (DuplicateParameter, "n")),
    "n and N": (form(text(b"n"), text(b"N", b"10")), (DuplicateParameter, "N")),
    "size and long-s size": (
        form(text(b"size"), text("\u017fize".encode())),
        (DuplicateParameter, "\u017fize"),
    ),
    "fullwidth n": (form(text(b"n"), text("\uff4e".encode())), (DuplicateParameter, "\uff4e")),
    "mask twice": (form(file(b"mask"), file(b"mask")), (DuplicateParameter, "mask")),
    "image twice": (form(file(), file()), (DuplicateParameter, "image")),
    "image[] twice": (form(file(b"image[]"), file(b"image[]")), (ParameterError, "image")),
    "image and image[]": (form(file(), file(b"image[]")), (ParameterError, "image")),
    # Text or file: empty file names and missing ones are read either way.
    "n with a file name": (form(part(CD + b'name="n"; filename="n.txt"')), (ParameterError, "n")),
    "n with an empty file name": (form(part(CD + b'name="n"; filename=""', b"10")), (ParameterError, "n")),
    "n with filename*": (form(part(CD + b"name=\"n\"; filename*=utf-8''x", b"10")), (ParameterError, "n")),
    "image without file name": (form(part(CD + b'name="image"', PIXELS)), (ParameterError, "image")),
    "mask[]": (form(file(b"mask[]")), (UnknownParameter, "mask[]")),
    "image[0]": (form(file(b"image[0]")), (UnknownParameter, "image[0]")),
    "Image": (form(file(b"Image")), (UnknownParameter, "Image")),
    "other file": (form(file(b"reference")), (UnknownParameter, "reference")),
    # Content-Disposition: first or last, decoded or not.
    "two dispositions": (form(part(CD + b'name="n"\r\n' + CD + b'name="m"')), BAD),
    "two equal dispositions": (form(part(CD + b'name="n"\r\n' + CD + b'name="n"')), BAD),
    "two dispositions of other case": (form(part(CD + b'name="n"\r\ncontent-disposition: form-data; name="m"')), BAD),
    "no disposition": (form(part(b"Content-Type: text/plain")), BAD),
    "no headers": (form(b"--" + B + b"\r\n\r\n1\r\n"), BAD),
    "two names": (form(part(CD + b'name="m"; name="n"')), BAD),
    "name and name*": (form(part(CD + b"name=\"m\"; name*=UTF-8''n")), BAD),
    "name* alone": (form(part(CD + b"name*=UTF-8''n")), BAD),
    "name*0": (form(part(CD + b"name*0=n")), BAD),
    "no name": (form(part(b"Content-Disposition: form-data")), BAD),
    "unquoted name": (form(part(CD + b"name=n")), BAD),
    "backslash in the name": (form(part(CD + rb'name="\n"')), BAD),
    "escaped quote in the name": (form(part(CD + rb'name="a\"; name=\"n"')), BAD),
    "unclosed name": (form(part(CD + b'name="n')), BAD),
    "two file names": (form(part(CD + b'name="image"; filename="a"; filename="b"', PIXELS)), BAD),
    "file name before the name": (form(part(CD + b'filename="a"; name="image"', PIXELS)), BAD),
    "unknown disposition parameter": (form(part(CD + b'name="n"; size=1')), BAD),
    "trailing semicolon": (form(part(CD + b'name="n";')), BAD),
    "attachment": (form(part(b'Content-Disposition: attachment; name="n"')), BAD),
    "name not in UTF-8": (form(text(b"\xff")), BAD),
    "name with a NUL": (form(text(b"n\x00")), BAD),
    "name with a tab": (form(text(b"n\t")), BAD),
    # Other part headers.
    "base64": (form(part(CD + b'name="n"\r\nContent-Transfer-Encoding: base64', b"MTA=")), BAD),
    "quoted-printable": (form(part(CD + b'name="n"\r\nContent-Transfer-Encoding: quoted-printable', b"=31")), BAD),
    "part encoding": (form(part(CD + b'name="n"\r\nContent-Encoding: gzip')), BAD),
    "unknown header": (form(part(CD + b'name="n"\r\nX-Name: m')), BAD),
    "folded header": (form(part(b'Content-Disposition: form-data;\r\n name="n"')), BAD),
    "folded with a tab": (form(part(CD + b'name="m"\r\n\t; name="n"')), BAD),
    "blank before the colon": (form(part(b'Content-Disposition : form-data; name="n"')), BAD),
    "control before the colon": (form(part(b'Content-Disposition\x1c: form-data; name="n"')), BAD),
    "line without a colon": (form(part(CD + b'name="n"\r\nrubbish')), BAD),
    "wrong Content-Length": (form(part(CD + b'name="n"\r\nContent-Length: 2')), BAD),
    "short Content-Length": (form(part(CD + b'name="n"\r\nContent-Length: 1', b"10")), BAD),
    "two Content-Lengths": (form(part(CD + b'name="n"\r\nContent-Length: 1\r\nContent-Length: 1')), BAD),
    "UTF-16 text": (form(part(CD + b'name="n"\r\nContent-Type: text/plain; charset=utf-16')), (ParameterError, "n")),
    "UTF-7 text": (form(part(CD + b'name="n"\r\nContent-Type: text/plain; charset=utf-7')), (ParameterError, "n")),
    "JSON text": (form(part(CD + b'name="n"\r\nContent-Type: application/json')), (ParameterError, "n")),
    "nested multipart": (
        form(part(CD + b'name="n"\r\nContent-Type: multipart/mixed; boundary=i')),
        (ParameterError, "n"),
    ),
    "_charset_": (form(text(b"_charset_", b"utf-16")), (UnknownParameter, "_charset_")),
    "text not in UTF-8": (form(text(b"prompt", b"\xff")), (ParameterError, "prompt")),
    # Lines and delimiters.
    "LF lines": (form(text(b"n")).replace(b"\r\n", b"\n"), BAD),
    "LF after a header": (form(part(CD + b'name="n"\nContent-Type: text/plain')), BAD),
    "LF before the delimiter": (form(text(b"n").removesuffix(b"\r\n") + b"\n"), BAD),
    "CR alone after a header": (form(part(CD + b'name="n"\rX: y')), BAD),
    "blank after the first boundary": (form(text(b"n")).replace(B + b"\r\n", B + b" \r\n", 1), BAD),
    "blank after a later boundary": (form(text(b"n"), b"--" + B + b" \r\n" + CD + b'name="m"\r\n\r\n1\r\n'), BAD),
    "longer boundary": (form(text(b"n"), b"--" + B + b"x\r\n" + CD + b'name="m"\r\n\r\n1\r\n'), BAD),
    "one dash at the end": (form(text(b"n"), end=b"--" + B + b"-\r\n"), BAD),
    # An empty part to some readers, which count the head's last line break to the delimiter; data to others.
    "boundary where a text begins": (form(text(b"n", b"--" + B + b"\r\n" + CD + b'name="m"\r\n\r\n1')), BAD),
    "boundary where a file begins": (form(file(data=b"--" + B + b"x" + PIXELS)), BAD),
    "end where a text begins": (form(part(CD + b'name="n"')).replace(b"\r\n1\r\n", b"\r\n"), BAD),
    "preamble": (b"hello\r\n" + form(text(b"n")), BAD),
    "CRLF first": (b"\r\n" + form(text(b"n")), BAD),
    "preamble with a part": (text(b"n").replace(B, b"other") + form(text(b"n")), BAD),
    "epilogue": (form(text(b"n")) + b"x", BAD),
    "epilogue without CRLF": (form(text(b"n"), end=b"--" + B + b"--x"), BAD),
    "two CRLFs at the end": (form(text(b"n")) + b"\r\n", BAD),
    "LF at the end": (form(text(b"n"), end=b"--" + B + b"--\n"), BAD),
    "half a CRLF at the end": (form(text(b"n"), end=b"--" + B + b"--\r"), BAD),
    "second form": (form(text(b"n")) + form(text(b"n", b"10")), BAD),
    "part after the end": (form(text(b"n")) + text(b"m"), BAD),
    "no end": (form(text(b"n"), end=b""), BAD),
    "end within a part's headers": (form(end=b"--" + B + b"\r\n" + CD), BAD),
    "end delimiter as a header": (form(end=b"--" + B + b"\r\n--" + B + b"--\r\n"), BAD),
    "end delimiter after headers": (form(end=b"--" + B + b"\r\n" + CD + b'name="n"\r\n--' + B + b"--\r\n"), BAD),
    "no parts": (form(), BAD),
    "empty body": (b"", BAD),
    "a JSON body": (b'{"n":1}', BAD),
    # Bounds.
    "image of 301 bytes": (form(file(data=b"x" * 301)), (RequestTooLarge, "image")),
    "mask of 301 bytes": (form(file(b"mask", b"x" * 301)), (RequestTooLarge, "mask")),
    "text of 65 bytes": (form(text(b"size", b"1" * 65)), (ParameterError, "size")),
    "prompt of 161 bytes": (form(text(b"prompt", b"1" * 161)), (ParameterError, "prompt")),
    "header line of 4097 bytes": (form(file(filename=b"f" * (4097 - len(CD + b'name="image"; filename=""')))), BAD),
    "header line of 4098 bytes": (form(file(filename=b"f" * (4098 - len(CD + b'name="image"; filename=""')))), BAD),
    "header line of 4099 bytes": (form(file(filename=b"f" * (4099 - len(CD + b'name="image"; filename=""')))), BAD),
    "padded header line": (form(part(b"Content-Disposition:" + b" " * 4080 + b'form-data; name="n"')), BAD),
    "header line without end": (form(end=b"--" + B + b"\r\nContent-Disposition: " + b"x" * 5000), BAD),
    "33 parts": (form(*(text(b"p%d" % i) for i in range(33))), BAD),
    "nine headers": (form(part(b"\r\n".join([CD + b'name="n"'] * 9))), BAD),
}

CASES = {**TAKEN, **REFUSED}
