"""Every parameter of the API document, one wrong value at a time."""

import json

import pytest
from hypothesis import given, strategies

from gateway.simulator.form import Part
from gateway.simulator.refusal import Refusal
from gateway.simulator.validation import (
    MAX_FILE_BYTES,
    SIZES,
    PictureOrder,
    check_edit,
    check_generation,
    check_key,
    media_type,
    read_json,
)
from tests.simulator.pictures import png

Fields = dict[str, object]


def generation(**fields: object) -> PictureOrder:
    return check_generation(tuple({"prompt": "a cat", **fields}.items()))


def text(name: str, value: str | bytes) -> Part:
    return Part(name, None, None, (), value if isinstance(value, bytes) else value.encode())


def upload(name: str, data: bytes) -> Part:
    return Part(name, "a.png", "image/png", (), data)


def edit(*parts: Part) -> PictureOrder:
    return check_edit((upload("image", png()), text("prompt", "a cat"), *parts))


def test_defaults_are_the_documents() -> None:
    """A bare prompt is one image of 1024x1024, answered as url, for both endpoints."""
    for order in (generation(), edit()):
        assert (order.n, order.size, order.response_format) == (1, (1024, 1024), "url")


@pytest.mark.parametrize(
    "fields",
    [
        *({"size": size} for size in SIZES),
        *({"n": n} for n in (1, 10)),
        {"quality": "hd", "style": "natural", "response_format": "b64_json", "model": "dall-e-3", "user": "u-1"},
    ],
)
def test_documented_values_pass(fields: Fields) -> None:
    """Each size, both ends of n, and every other field with a value of its list."""
    assert generation(**fields).prompt == "a cat"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": " \n"}, "invalid_value", "prompt"),
        ({"prompt": None}, "invalid_type", "prompt"),
        ({"prompt": ["a"]}, "invalid_type", "prompt"),
        ({"prompt": "\ud800"}, "invalid_value", "prompt"),
        ({"model": 3}, "invalid_type", "model"),
        ({"model": ""}, "invalid_value", "model"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": 11}, "invalid_value", "n"),
        ({"n": "1"}, "invalid_type", "n"),
        ({"n": 1.0}, "invalid_type", "n"),
        ({"n": True}, "invalid_type", "n"),
        ({"n": None}, "invalid_type", "n"),
        ({"size": "640x480"}, "invalid_value", "size"),
        ({"size": "auto"}, "invalid_value", "size"),
        ({"size": None}, "invalid_type", "size"),
        ({"quality": "HD"}, "invalid_value", "quality"),
        ({"style": "loud"}, "invalid_value", "style"),
        ({"response_format": "png"}, "invalid_value", "response_format"),
        ({"user": 7}, "invalid_type", "user"),
        ({"background": "auto"}, "unknown_parameter", "background"),
        ({"Size": "256x256"}, "unknown_parameter", "Size"),
    ],
)
def test_a_wrong_generation_field_is_named(fields: Fields, code: str, param: str) -> None:
    """The refusal is a 400 that names the field."""
    with pytest.raises(Refusal) as caught:
        generation(**fields)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_a_generation_without_prompt_is_refused() -> None:
    """The one required field."""
    with pytest.raises(Refusal) as caught:
        check_generation((("n", 1),))
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "prompt")


def test_a_repeated_json_name_is_refused_though_dicts_forget_it() -> None:
    """Both members of a repeated name are read, and the second one refused."""
    fields = read_json(b'{"prompt": "a", "n": 1, "n": 10}')
    assert fields == (("prompt", "a"), ("n", 1), ("n", 10))
    with pytest.raises(Refusal) as caught:
        check_generation(fields)
    assert (caught.value.code, caught.value.param) == ("duplicate_parameter", "n")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"{", b'{"a":NaN}', b'{"a":"\xff"}', b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"n":' + b"1" * 9999],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """Truncated, foreign, too deep or too long input is a 400, never another exception."""
    with pytest.raises(Refusal) as caught:
        read_json(body)
    assert caught.value.status == 400


@given(strategies.dictionaries(strategies.text(), strategies.none() | strategies.booleans() | strategies.text()))
def test_json_members_are_read_as_written(members: Fields) -> None:
    """Whatever an encoder writes, the reader gives back, nested objects not mistaken for the outer one."""
    members["nested"] = {"n": {"n": 1}}
    assert read_json(json.dumps(members).encode()) == tuple(members.items())


@pytest.mark.parametrize(
    ("part", "code", "param"),
    [
        (text("quality", "hd"), "unknown_parameter", "quality"),
        (text("style", "vivid"), "unknown_parameter", "style"),
        (upload("image[]", png()), "unknown_parameter", "image[]"),
        (upload("image", png()), "duplicate_parameter", "image"),
        (text("prompt", "b"), "duplicate_parameter", "prompt"),
        (text("mask", "no file"), "invalid_type", "mask"),
        (upload("size", b"256x256"), "invalid_type", "size"),
        (upload("mask", png((64, 65))), "invalid_image", "mask"),
        (upload("mask", b"GIF89a"), "invalid_image", "mask"),
        (upload("mask", png() + bytes(MAX_FILE_BYTES)), "invalid_image", "mask"),
        (text("n", "0"), "invalid_value", "n"),
        (text("n", "11"), "invalid_value", "n"),
        (text("n", "01"), "invalid_type", "n"),
        (text("n", " 1"), "invalid_type", "n"),
        (text("n", "1\n"), "invalid_type", "n"),
        (text("n", "\u0661"), "invalid_type", "n"),
        (text("n", "9" * 5000), "invalid_type", "n"),
        (text("size", "1x1"), "invalid_value", "size"),
        (text("response_format", ""), "invalid_value", "response_format"),
        (text("model", ""), "invalid_value", "model"),
        (text("user", b"\xff"), "invalid_value", "user"),
    ],
)
def test_a_wrong_edit_part_is_named(part: Part, code: str, param: str) -> None:
    """The refusal is a 400 that names the part; edits take neither quality nor style."""
    with pytest.raises(Refusal) as caught:
        edit(part)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


@pytest.mark.parametrize(("missing", "left"), [("image", text("prompt", "a")), ("prompt", upload("image", png()))])
def test_an_edit_needs_image_and_prompt(missing: str, left: Part) -> None:
    """Either alone is refused for the other."""
    with pytest.raises(Refusal) as caught:
        check_edit((left,))
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", missing)


def test_an_edit_takes_a_mask_of_the_images_size() -> None:
    """Image and mask are handed on as they came."""
    order = edit(upload("mask", png()), text("n", "10"), text("size", "256x256"))
    assert (order.image, order.mask, order.n, order.size) == (png(), png(), 10, (256, 256))


@pytest.mark.parametrize(
    "headers", [[], ["sk-a"], ["Basic sk-a"], ["Bearer sk-b"], ["Bearer sk-a "], ["Bearer sk-a", "Bearer sk-a"]]
)
def test_a_missing_or_wrong_key_is_401(headers: list[str]) -> None:
    """Nothing but one Bearer header with a known key passes."""
    check_key(["bearer sk-a"], ["sk-a"])
    with pytest.raises(Refusal) as caught:
        check_key(headers, ["sk-a"])
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


@pytest.mark.parametrize("headers", [[], ["text/plain"], ["application/jsonx"], ["application/json"] * 2])
def test_another_content_type_is_415(headers: list[str]) -> None:
    """Missing, foreign and repeated types are refused; parameters and case do not matter."""
    assert media_type(["Application/JSON; charset=utf-8"], "application/json") == "Application/JSON; charset=utf-8"
    with pytest.raises(Refusal) as caught:
        media_type(headers, "application/json")
    assert caught.value.status == 415
