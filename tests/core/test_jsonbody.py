"""The strict JSON reader: what it takes means one thing to every reader, what it refuses it refuses politely."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import DuplicateParameter, ParameterError
from gateway.core.jsonbody import decode

REFUSED: dict[str, bytes] = {
    "empty": b"",
    "blanks only": b" \r\n\t",
    "NUL bytes": b"\x00\x00",
    "byte order mark": b'\xef\xbb\xbf{"n":1}',
    "UTF-16 with mark": '{"n":1}'.encode("utf-16"),
    "UTF-16 without mark": '{"n":1}'.encode("utf-16-le"),
    "UTF-32": '{"n":1}'.encode("utf-32-be"),
    "not UTF-8": b'{"prompt":"\xff"}',
    "overlong UTF-8": b'{"prompt":"\xc0\xaf"}',
    "surrogate in UTF-8": b'{"prompt":"\xed\xa0\x80"}',
    "a list": b"[]",
    "a string": b'"prompt"',
    "null": b"null",
    "NaN": b'{"n":NaN}',
    "Infinity": b'{"n":Infinity}',
    "minus Infinity": b'{"n":-Infinity}',
    "overflowing number": b'{"n":1e999}',
    "5000 digits": b'{"n":' + b"9" * 5000 + b"}",
    "lone high surrogate": rb'{"prompt":"\ud800"}',
    "lone low surrogate": rb'{"prompt":"a\uDC00b"}',
    "reversed pair": rb'{"prompt":"\udc00\ud800"}',
    "lone surrogate in a name": rb'{"\ud800":1}',
    "lone surrogate deep inside": rb'{"n":1,"a":{"b":["\udfff"]}}',
    "100k brackets": b"[" * 100_000,
    "100k objects": b'{"a":' * 100_000,
    "100k closed brackets": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "17 levels": b'{"a":' * 17 + b"1" + b"}" * 17,
    "trailing comma": b'{"n":1,}',
    "trailing text": b'{"n":1} x',
    "two objects": b'{"n":1}{"n":2}',
    "single quotes": b"{'n':1}",
    "comment": b'{"n":1}//',
    "leading zero": b'{"n":01}',
    "plus sign": b'{"n":+1}',
    "hexadecimal": b'{"n":0x1}',
    "newline in a string": b'{"prompt":"a\nb"}',
    "unfinished string": b'{"prompt":"a',
    "unfinished escape": b'{"prompt":"\\',
}

REPEATED: dict[str, bytes] = {
    "same name": b'{"n":1,"n":10}',
    "same value": b'{"n":1,"n":1}',
    "escaped": rb'{"n":1,"\u006e":10}',
    "other case": b'{"n":1,"N":10}',
    "other case first": b'{"N":10,"n":1}',
    "null beside a value": b'{"n":null,"n":10}',
    "upper size": b'{"size":"a","SIZE":"b"}',
    "long s": '{"size":"a","\u017fize":"b"}'.encode(),
    "long s, escaped": rb'{"size":"a","\u017fize":"b"}',
    "fullwidth": '{"n":1,"\uff4e":10}'.encode(),
    "Kelvin sign": '{"k":1,"\u212a":10}'.encode(),
    "ligature": '{"file":1,"\ufb01le":2}'.encode(),
    "composed and decomposed": '{"\u00e9":1,"e\u0301":2}'.encode(),
    "deep inside": b'{"a":[{"b":1,"b":2}]}',
    "many between": b'{"n":1,' + b",".join(b'"p%d":1' % i for i in range(500)) + b',"n":2}',
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_readers_disagree_about(raw: bytes) -> None:
    """Bodies that are no strict JSON object are a 400 and nothing else."""
    with pytest.raises(ParameterError) as caught:
        decode(raw)
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("raw", REPEATED.values(), ids=REPEATED.keys())
def test_refuses_names_that_are_one_to_some_reader(raw: bytes) -> None:
    """Two names that are equal after unescaping, case folding or compatibility mapping are refused as repeated."""
    with pytest.raises(DuplicateParameter) as caught:
        decode(raw)
    assert caught.value.code == "duplicate_parameter"
    assert caught.value.param


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b' {"n" : 1 }\r\n',
        b'{"a":{"b":[1,-0.5,1e3,true,false,null]}}',
        rb'{"prompt":"\ud83d\ude00 \u00e9 \n \" \\"}',
        '{"prompt":"\u017f 東京 😀"}'.encode(),
        b'{"a":' * 16 + b"1" + b"}" * 16,
        b'{"prompt":"' + b"[{" * 1000 + b'"}',
        rb'{"prompt":"' + rb"\"[" * 1000 + rb'"}',
        rb'{"prompt":"\\ud800"}',
        b'{"n":' + b"9" * 4000 + b"}",
    ],
)
def test_takes_plain_objects_as_json_does(raw: bytes) -> None:
    """What is taken has the value that the standard library gives it; brackets in strings are no depth."""
    assert decode(raw) == json.loads(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["prompt", "n", "user"]), JSON), st.booleans())
def test_round_trips_any_value(value: dict[str, object], ensure_ascii: bool) -> None:
    """Any JSON value comes back as it was written, escaped or not."""
    assert decode(json.dumps(value, ensure_ascii=ensure_ascii).encode(), max_depth=99) == value


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\ud8n01eE+-. \ufeff\uff4e', max_size=40).map(str.encode))
def test_raises_nothing_else(raw: bytes) -> None:
    """On any bytes the reader gives an object or one of the gateway's own errors."""
    try:
        value = decode(raw)
    except ParameterError:
        return
    assert value == json.loads(raw)


@pytest.mark.parametrize("filler", [b'"', rb"\"", b"[", b"{", b"\\", b"[]", b'"['])
def test_time_grows_with_the_length_alone(filler: bytes) -> None:
    """Half a megabyte of quotes, escapes or brackets is decided at once: no scan starts anew at each of them."""
    raw = b'{"prompt":"' + filler * (500_000 // len(filler))
    began = time.process_time()
    with pytest.raises(ParameterError):
        decode(raw)
    assert time.process_time() - began < 1.0
