"""What goes up: read back by other parsers, it says exactly what the order says."""

import json
from collections.abc import Callable
from dataclasses import replace
from email import message_from_bytes
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multipart import MultipartParser, parse_options_header

from gateway.core.errors import InternalError
from gateway.core.multipart import Field, FileBegan, FileData, FormLimits, FormReader, parse_content_type
from gateway.core.orders import Order
from gateway.core.rewriting import FormWriter, generation_body
from tests.core.sample import DALLE

BOUNDARY = "3f2a9c81d4e6b7058a1c2d3e4f506172"

GENERATION = Order(
    endpoint="generations",
    model="dall-e-3",
    n=2,
    size="1792x1024",
    quality="hd",
    fields=(("prompt", 'a "cat" 東京 😀\n\x00'), ("style", "vivid"), ("seed", -7), ("guidance", 0.5), ("tile", True)),
)
EDIT = replace(GENERATION, endpoint="edits")

Part = tuple[str, str | None, bytes]  # name, file name, content


def write(order: Order, files: list[tuple[str, bytes]], *, max_images: int = 1) -> tuple[str, bytes]:
    writer = FormWriter(BOUNDARY, max_images=max_images)
    body = b"".join(writer.file_head(name) + data + writer.file_tail() for name, data in files)
    return writer.content_type, body + writer.closing(order, DALLE)


def read_by_email(content_type: str, body: bytes) -> list[Part]:
    message = message_from_bytes(b"Content-Type: %s\r\n\r\n%s" % (content_type.encode(), body))
    assert message.is_multipart()
    assert not message.defects
    parts: list[Part] = []
    for part in message.get_payload():
        name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
        content = part.get_payload(decode=True)  # type: ignore[union-attr]
        assert isinstance(name, str)
        assert isinstance(content, bytes)
        parts.append((name, part.get_filename(), content))  # type: ignore[union-attr]
    return parts


def read_by_multipart(content_type: str, body: bytes) -> list[Part]:
    _, options = parse_options_header(content_type)
    parser = MultipartParser(BytesIO(body), options["boundary"], len(body))
    parts: list[Part] = []
    for part in parser:
        parts.append((part.name, part.filename, part.raw))
        part.close()
    return parts


def read_by_ourselves(content_type: str, body: bytes) -> list[Part]:
    limits = FormLimits(max_image_size=1 << 20, max_prompt_chars=1 << 20, max_images=9)
    reader = FormReader(parse_content_type(content_type.encode()), limits=limits)
    parts: list[Part] = []
    for event in reader.feed(body):
        match event:
            case FileBegan(name):
                parts.append((name, "mask.png" if name == "mask" else "image.png", b""))
            case FileData(data):
                parts[-1] = (*parts[-1][:2], parts[-1][2] + data)
            case Field(name, value):
                parts.append((name, None, value.encode()))
    reader.close()
    return parts


READERS = [read_by_email, read_by_multipart, read_by_ourselves]


def test_a_generation_says_the_whole_order() -> None:
    """The JSON names model, n, size, quality and every field, in ASCII and always in the same bytes."""
    raw = generation_body(GENERATION, DALLE)
    assert raw.isascii()
    assert raw == generation_body(GENERATION, DALLE)
    assert json.loads(raw) == {
        "model": "vendor/dall-e-3",
        "n": 2,
        "size": "1792x1024",
        "quality": "hd",
        "prompt": 'a "cat" 東京 😀\n\x00',
        "style": "vivid",
        "seed": -7,
        "guidance": 0.5,
        "tile": True,
    }
    assert raw.startswith(b'{"model":"vendor/dall-e-3","n":2,"size":"1792x1024","quality":"hd","prompt":')


@pytest.mark.parametrize("read", READERS)
def test_an_edit_says_the_whole_order(read: Callable[[str, bytes], list[Part]]) -> None:
    """Other parsers find the files first, then each text once, no quality and the model's own name."""
    content_type, body = write(EDIT, [("image", b"\x89PNG\r\n\x1a\n"), ("mask", b"\r\n--" + BOUNDARY.encode()[:-1])])
    assert read(content_type, body) == [
        ("image", "image.png", b"\x89PNG\r\n\x1a\n"),
        ("mask", "mask.png", b"\r\n--" + BOUNDARY.encode()[:-1]),
        ("model", None, b"vendor/dall-e-3"),
        ("n", None, b"2"),
        ("size", None, b"1792x1024"),
        ("prompt", None, 'a "cat" 東京 😀\n\x00'.encode()),
        ("style", None, b"vivid"),
        ("seed", None, b"-7"),
        ("guidance", None, b"0.5"),
        ("tile", None, b"true"),
    ]


TEXTS = st.text(max_size=30) | st.lists(
    st.sampled_from(["\r\n", "--", BOUNDARY[:-1], '; name="n"', "Content-Disposition: form-data", "\r", "\n", ":"]),
    max_size=8,
).map("".join)


@given(TEXTS, TEXTS, st.binary(max_size=60))
def test_no_text_can_speak_for_the_form(prompt: str, user: str, data: bytes) -> None:
    """Whatever prompt and file hold, every parser reads back exactly these parts, and the JSON its exact fields."""
    fields = (("prompt", prompt), ("user", user))
    content_type, body = write(replace(EDIT, fields=fields), [("image", data)])
    expected = [
        ("image", "image.png", data),
        ("model", None, b"vendor/dall-e-3"),
        ("n", None, b"2"),
        ("size", None, b"1792x1024"),
        ("prompt", None, prompt.encode()),
        ("user", None, user.encode()),
    ]
    for read in READERS:
        assert read(content_type, body) == expected, read
    decoded = json.loads(generation_body(replace(GENERATION, fields=fields), DALLE))
    assert (decoded["prompt"], decoded["user"], decoded["n"]) == (prompt, user, 2)


def test_one_image_goes_up_as_image() -> None:
    """Where a model takes one image it is named `image`, also when the client wrote a list."""
    for name in ("image", "image[]"):
        assert read_by_multipart(*write(EDIT, [(name, b"x")]))[0] == ("image", "image.png", b"x")


def test_lists_of_images_keep_their_name() -> None:
    """Where lists are allowed the client's name stands, for the head goes up before the number is known."""
    parts = read_by_email(*write(EDIT, [("image[]", b"x"), ("image[]", b"y")], max_images=4))
    assert parts[:2] == [("image[]", "image.png", b"x"), ("image[]", "image.png", b"y")]
    assert read_by_email(*write(EDIT, [("image", b"x")], max_images=4))[0] == ("image", "image.png", b"x")


def test_nothing_is_complete_before_the_closing() -> None:
    """Files alone make no form: without the one piece that `closing` gives, a reader misses the end."""
    writer = FormWriter(BOUNDARY)
    files = writer.file_head("image") + b"x" + writer.file_tail()
    assert b"--" + BOUNDARY.encode() + b"--" not in files
    assert writer.closing(EDIT, DALLE).endswith(b"\r\n--" + BOUNDARY.encode() + b"--\r\n")


def test_a_text_that_knows_the_boundary_is_not_sent() -> None:
    """A text that holds the secret delimiter is our fault and goes nowhere."""
    order = replace(EDIT, fields=(("prompt", f"a\r\n--{BOUNDARY}\r\n"),))
    with pytest.raises(InternalError):
        FormWriter(BOUNDARY).closing(order, DALLE)


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\r\nb", "é"])
def test_a_name_that_no_form_can_carry_is_not_sent(name: str) -> None:
    """A configured parameter whose name would break a part header is refused rather than written."""
    with pytest.raises(InternalError):
        FormWriter(BOUNDARY).closing(replace(EDIT, fields=((name, "x"),)), DALLE)
