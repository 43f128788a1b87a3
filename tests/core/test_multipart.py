"""The form reader: one narrow grammar, the same verdict however the bytes are cut, linear time."""

import random
import time
from collections.abc import Iterable
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import (
    DuplicateParameter,
    GatewayError,
    MalformedRequest,
    ParameterError,
    RequestTooLarge,
    UnsupportedMediaType,
)
from gateway.core.multipart import (
    Event,
    Field,
    FileBegan,
    FileData,
    FileEnded,
    FormEnded,
    FormLimits,
    FormReader,
    parse_content_type,
)
from tests.core.forms import CASES, CD, IMAGE, LIMITS, B, Verdict, file, form, text

SEVERAL = FormLimits(max_image_size=300, max_prompt_chars=40, max_images=3)


def read(chunks: Iterable[bytes], limits: FormLimits = LIMITS) -> list[Event]:
    reader = FormReader(B, limits=limits)
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return [*events, reader.close()]


def verdict(chunks: Iterable[bytes], limits: FormLimits = LIMITS) -> Verdict:
    """What a form comes to."""
    try:
        events = read(chunks, limits)
    except GatewayError as error:
        return type(error), error.param
    found: list[object] = []
    name, digest = "", sha256()
    for event in events:
        match event:
            case FileBegan():
                name, digest = event.name, sha256()
            case FileData():
                digest.update(event.data)
            case FileEnded():
                found.append((name, digest.hexdigest()))
            case Field():
                found.append((event.name, event.value))
            case FormEnded():
                found.append("end")
    return tuple(found)


def short(name: str) -> bool:
    return len(CASES[name][0]) < 1000


@pytest.mark.parametrize(("body", "expected"), CASES.values(), ids=CASES.keys())
def test_each_body_has_its_verdict(body: bytes, expected: Verdict) -> None:
    """Each crafted body is taken with exactly these parts or refused with this error, whole and byte by byte."""
    assert verdict([body]) == expected
    assert verdict(body[i : i + 1] for i in range(len(body))) == expected


@pytest.mark.parametrize("name", [name for name in CASES if short(name)])
def test_the_verdict_is_the_same_at_every_cut(name: str) -> None:
    """A body cut in two at any place gets the verdict of the whole."""
    body, expected = CASES[name]
    for cut in range(len(body) + 1):
        assert verdict([body[:cut], body[cut:]]) == expected, cut


@given(st.sampled_from(sorted(CASES)), st.lists(st.integers(0, 6000), max_size=12))
def test_the_verdict_is_the_same_for_any_chunks(name: str, cuts: list[int]) -> None:
    """A body cut anywhere, empty chunks included, gets the verdict of the whole."""
    body, expected = CASES[name]
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    assert verdict(body[a:b] for a, b in pairwise(edges)) == expected


@given(
    st.lists(
        st.sampled_from([b"\r\n", b"--", B, b"\r", b"\n", CD, b'name="n"', b'; filename=""', b": ", b"1", text(b"n")])
    ),
    st.randoms(use_true_random=False),
)
def test_chunks_do_not_matter_to_rubbish_either(pieces: list[bytes], chance: random.Random) -> None:
    """Bodies put together from the grammar's own pieces raise the gateway's errors alone, and the same at any cut."""
    body = b"--" + B + b"\r\n" + b"".join(pieces)
    cuts = sorted(chance.randrange(len(body) + 1) for _ in range(5))
    chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert verdict(chunks) == verdict([body])


@given(
    st.lists(st.tuples(st.sampled_from(["image", "image[]", "mask"]), st.binary(max_size=200)), min_size=1, max_size=3),
    st.dictionaries(st.sampled_from(["prompt", "n", "size"]), st.text(max_size=12), max_size=3),
)
def test_bytes_come_out_as_they_went_in(files: list[tuple[str, bytes]], texts: dict[str, str]) -> None:
    """Whatever files and texts hold comes out unchanged and in order, unless the files' names are not allowed."""
    body = form(
        *(file(name.encode(), data) for name, data in files),
        *(text(name.encode(), value.encode()) for name, value in texts.items()),
    )
    names = [name for name, _ in files]
    expected: Verdict = (*((name, sha256(data).hexdigest()) for name, data in files), *texts.items(), "end")
    images = [name for name in names if name != "mask"]
    if names.count("mask") > 1 or (len(images) > 1 and "image" in images):
        assert verdict([body], SEVERAL)[0] in (DuplicateParameter, ParameterError)
    else:
        assert verdict([body], SEVERAL) == expected


def test_lists_of_images_are_bounded() -> None:
    """Where a model takes three images the fourth is refused, under the name `image`."""
    three = [file(b"image[]")] * 3
    assert verdict([form(*three)], SEVERAL)[:-1] == (("image[]", IMAGE[1]),) * 3
    assert verdict([form(*three, file(b"image[]"))], SEVERAL) == (ParameterError, "image")


def test_a_file_is_refused_as_soon_as_it_is_too_large() -> None:
    """The byte that passes the limit ends it: nobody waits for the rest of the upload."""
    reader = FormReader(B, limits=LIMITS)
    head, _, _ = file(data=b"").partition(b"\r\n\r\n")
    assert list(reader.feed(head + b"\r\n\r\n" + b"x" * 300))[-1] == FileData(b"x" * 300)
    with pytest.raises(RequestTooLarge):
        list(reader.feed(b"x"))


def test_nothing_is_final_before_the_end_of_the_body() -> None:
    """The closing delimiter alone gives no FormEnded: what follows it may still spoil the form."""
    reader = FormReader(B, limits=LIMITS)
    assert list(reader.feed(form(text(b"n")))) == [Field("n", "1")]
    assert repr(reader) == "<FormReader EPILOGUE>"
    assert reader.close() == FormEnded()


def test_a_failed_reader_takes_no_more() -> None:
    """After an error the reader cannot be talked into a verdict."""
    reader = FormReader(B, limits=LIMITS)
    with pytest.raises(DuplicateParameter):
        list(reader.feed(text(b"n") + text(b"n")))
    with pytest.raises(RuntimeError, match="FAILED"):
        list(reader.feed(form()))
    with pytest.raises(MalformedRequest):
        reader.close()


def test_a_malformed_body_ends_the_connection_and_a_wrong_parameter_does_not() -> None:
    """After broken grammar the connection closes; what a client can put right in its call keeps it."""
    assert MalformedRequest("x").close
    assert not DuplicateParameter("x").close


@pytest.mark.parametrize(
    "filler", [b"\r", b"\n", b"\r\n", b"\r\n--", b"\r\n--XyZ-boundar", b"-", b"\r\n--XyZ-boundary"[:-2]]
)
def test_time_grows_with_the_length_alone(filler: bytes) -> None:
    """Four megabytes of almost-delimiters in small chunks are read in linear time."""
    data = filler * ((4 << 20) // len(filler))
    body = form(file(data=data))
    began = time.process_time()
    result = verdict((body[i : i + 4096] for i in range(0, len(body), 4096)), FormLimits(5 << 20, 40))
    assert time.process_time() - began < 2.0
    assert result == (("image", sha256(data).hexdigest()), "end")


CONTENT_TYPES: dict[bytes, bytes | type[GatewayError]] = {
    b"multipart/form-data; boundary=abc": b"abc",
    b"multipart/form-data;boundary=abc": b"abc",
    b"Multipart/Form-Data; Boundary=abc": b"abc",
    b'multipart/form-data; boundary="abc"': b"abc",
    b'multipart/form-data; boundary="a b:c"': b"a b:c",
    b"multipart/form-data; boundary=----formdata-undici-012345678901": b"----formdata-undici-012345678901",
    b"multipart/form-data; boundary=" + b"a" * 70: b"a" * 70,
    b"multipart/form-data; boundary=a=b/c": b"a=b/c",
    b"application/json": UnsupportedMediaType,
    b"multipart/mixed; boundary=abc": UnsupportedMediaType,
    b"application/x-www-form-urlencoded": UnsupportedMediaType,
    b"multipart/form-data\xff; boundary=abc": UnsupportedMediaType,
    b"": UnsupportedMediaType,
    b"multipart/form-data": MalformedRequest,
    b"multipart/form-data;": MalformedRequest,
    b"multipart/form-data; boundary=": MalformedRequest,
    b'multipart/form-data; boundary=""': MalformedRequest,
    b"multipart/form-data; boundary=" + b"a" * 71: MalformedRequest,
    b"multipart/form-data; boundary=a b": MalformedRequest,
    b'multipart/form-data; boundary="ab "': MalformedRequest,
    b'multipart/form-data; boundary="a\\b"': MalformedRequest,
    b'multipart/form-data; boundary="abc': MalformedRequest,
    b"multipart/form-data; boundary=abc; boundary=def": MalformedRequest,
    b"multipart/form-data; boundary=abc; charset=utf-8": MalformedRequest,
    b"multipart/form-data; charset=utf-8; boundary=abc": MalformedRequest,
    b"multipart/form-data; boundary*=abc": MalformedRequest,
    b"multipart/form-data; boundary=a\xff": MalformedRequest,
    b"multipart/form-data; boundary=abc, multipart/form-data; boundary=def": MalformedRequest,
    b"multipart/form-data boundary=abc": UnsupportedMediaType,
}


@pytest.mark.parametrize(("value", "expected"), CONTENT_TYPES.items())
def test_the_content_type_names_one_boundary(value: bytes, expected: bytes | type[GatewayError]) -> None:
    """Exactly multipart/form-data with one legal boundary is taken; 415 for another type, 400 for the rest."""
    if isinstance(expected, bytes):
        assert parse_content_type(value) == expected
    else:
        with pytest.raises(expected):
            parse_content_type(value)
