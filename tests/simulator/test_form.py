"""The form reader takes what RFC 7578 writers send and refuses what two readers could read in two ways."""

import pytest

from gateway.simulator.form import read_form
from gateway.simulator.refusal import Refusal, Unfinished

TYPE = "multipart/form-data; boundary=X"
FIELD = b'Content-Disposition: form-data; name="n"'


def test_parts_keep_order_headers_and_bytes() -> None:
    """Names, file names, types and data come out as they went in, CR, LF and NUL included."""
    data = b"\x89PNG\r\n\x1a\n\x00--X\r\n-- X"
    body = (
        b'--X\r\nContent-Disposition: form-data; name="image"; filename="caf\xc3\xa9.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + data + b"\r\n--X\r\n" + FIELD + b"\r\n\r\n2\r\n--X--\r\n"
    )
    image, n = read_form(TYPE, body)
    assert (image.name, image.filename, image.content_type, image.data) == ("image", "café.png", "image/png", data)
    assert (n.name, n.filename, n.content_type, n.data) == ("n", None, None, b"2")
    assert n.headers == (("Content-Disposition", 'form-data; name="n"'),)


def test_every_prefix_of_a_form_is_unfinished() -> None:
    """However much of a body is missing at its end, it is Unfinished; only the very last line break may be."""
    body = b"--X\r\n" + FIELD + b"\r\n\r\n2\r\n--X--\r\n"
    for length in range(len(body) - len(b"--\r\n")):
        with pytest.raises(Unfinished):
            read_form(TYPE, body[:length])
    assert read_form(TYPE, body[:-2]) == read_form(TYPE, body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"hello\r\n--X\r\n" + FIELD + b"\r\n\r\n2\r\n--X--", "does not begin"),
        (b"--X\r\n" + FIELD + b"\r\n\r\n2\r\n--X--\r\nmore", "goes on"),
        (b"--X\r\n" + FIELD + b"\r\n\r\n2\r\n--Xtra\r\n--X--", "not followed"),
        (b"--X\r\n" + FIELD + b"\r\n\r\n2\r\n--X \r\n" + FIELD + b"\r\n\r\n2\r\n--X--", "not followed"),
        (b"--X\r\n" + FIELD + b"\n\r\n\r\n2\r\n--X--", "CRLF"),
        (b"--X\r\nContent-Disposition: form-data;\r\n name=n\r\n\r\n2\r\n--X--", "CRLF"),
        (b"--X\r\n" + FIELD + b"\r\n" + FIELD + b"\r\n\r\n2\r\n--X--", "repeated"),
        (b"--X\r\n" + FIELD + b"\r\nnonsense\r\n\r\n2\r\n--X--", "malformed"),
        (b"--X\r\nContent-Disposition : form-data; name=n\r\n\r\n2\r\n--X--", "malformed"),
        (b"--X\r\nContent-Type: text/plain\r\n\r\n2\r\n--X--", "without Content-Disposition"),
        (b"--X\r\nContent-Disposition: form-data\r\n\r\n2\r\n--X--", "without a name"),
        (b"--X\r\n" + FIELD + b"; name=size\r\n\r\n2\r\n--X--", "each once"),
        (b"--X\r\nContent-Disposition: form-data; name*=utf-8''n\r\n\r\n2\r\n--X--", "each once"),
        (b"--X\r\n" + FIELD + b"; filename*=utf-8''n\r\n\r\n2\r\n--X--", "each once"),
        (b"--X\r\n" + FIELD + b"; x=\xff\r\n\r\n2\r\n--X--", "UTF-8"),
    ],
)
def test_ambiguous_bodies_are_refused(body: bytes, message: str) -> None:
    """Each of these is read in different ways by different parsers, so it is read by none."""
    with pytest.raises(Refusal, match=message):
        read_form(TYPE, body)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary*=utf-8''X",
        "multipart/form-data; boundary=" + "x" * 71,
        'multipart/form-data; boundary="a b "',
    ],
)
def test_a_bad_boundary_is_refused(content_type: str) -> None:
    """None, an empty, a second, an encoded, a long one, and one that ends in a space."""
    with pytest.raises(Refusal, match="boundary"):
        read_form(content_type, b"--X--\r\n")
