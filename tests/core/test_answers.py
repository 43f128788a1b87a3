"""What comes down: errors are cleaned before anyone sees them, images are counted or admitted to be unknown."""

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.answers import MAX_MESSAGE, ImageCounter, UpstreamWords, count_images, upstream_error
from gateway.core.secret import Secret

ACCOUNT = Secret("threex-4711-account-key")


def error(message: object, **facts: object) -> bytes:
    return json.dumps({"error": {"message": message, **facts}}).encode()


def message_of(body: bytes) -> str:
    return upstream_error(body, 400, secrets=[Secret(""), ACCOUNT]).message


def test_the_upstream_speaks_for_itself() -> None:
    """Message, type, code and param of OpenAI's shape are passed on."""
    body = error("Your prompt was refused.", type="invalid_request_error", code="content_policy", param="prompt")
    assert upstream_error(body, 400) == UpstreamWords(
        "Your prompt was refused.", "invalid_request_error", "content_policy", "prompt"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"too big"}', "too big"),
        (b'{"message":"too big"}', "too big"),
        (b'{"detail":"too big"}', "too big"),
        (error("two\r\nlines\x00\x1b[31m \u202e"), "two lines[31m "),
    ],
)
def test_reads_common_variants(body: bytes, message: str) -> None:
    """Other shapes of errors are read too, as one printable line."""
    assert message_of(body) == message


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>502</html>", b"[]", b"null", b"{}", b"\xff", b"[" * 60_000, b'{"a":NaN}'),
        *(b'{"error":null}', b'{"error":[]}', b'{"error":{"message":7}}', b'{"error":"' + b"x" * 70_000 + b'"}'),
        *(error(""), error(" \x00 ")),
    ],
)
def test_rubbish_becomes_a_general_sentence(body: bytes) -> None:
    """What cannot be read says so with its status, and nothing else."""
    assert upstream_error(body, 422) == UpstreamWords(
        "The image service answered 422 without saying why.", None, None, None
    )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Incorrect API key provided: sk-abc***xyz.", "Incorrect API key provided: ***"),
        ("key 'sk-proj-AbCd_123456' is bad", "key '***' is bad"),
        ("you sent Bearer abc.def.ghi today", "you sent *** today"),
        ("you sent bearer\tabc", "you sent ***"),
        ("igw_design_ci_abcdef is unknown", "*** is unknown"),
        ("threex-4711-account-key is out of money", "*** is out of money"),
        ("threex-4711-\x00account-\u200bkey", "***"),
        ("see https://cdn.example.com/a.png?sig=abc&exp=1 now", "see https://cdn.example.com/a.png?*** now"),
        ("a task-force and a desk-lamp", "a task-force and a desk-lamp"),
    ],
)
def test_keys_and_signatures_are_struck_out(said: str, shown: str) -> None:
    """Nothing that is a key, looks like one, or signs a URL is passed on, however it is disguised."""
    assert message_of(error(said)) == shown


def test_a_key_is_struck_out_before_the_message_is_cut() -> None:
    """The cut at 500 characters never leaves half a key."""
    message = message_of(error("x" * (MAX_MESSAGE - 10) + " " + ACCOUNT.reveal() + " y" * 100))
    assert len(message) == MAX_MESSAGE
    assert "threex" not in message


@pytest.mark.parametrize(
    "value", ["", "two words", "a" * 65, "a\nb", 7, None, ["a"], "threex-4711-account-key", "sk-abc"]
)
def test_identifiers_are_identifiers(value: object) -> None:
    """Type, code and param are short plain words or nothing, and never a key."""
    words = upstream_error(error("m", type=value, code=value, param=value), 400, secrets=[ACCOUNT])
    assert words == UpstreamWords("m", None, None, None)


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ({"created": 1, "data": []}, 0),
        ({"data": [{"url": "https://x"}]}, 1),
        ({"data": [{"b64_json": "aGk="}, {"url": None, "b64_json": "aGk=", "revised_prompt": "r"}]}, 2),
        ({"data": [{"url": "https://x"}, {"revised_prompt": "r"}]}, None),
        ({"data": [{"url": ""}]}, None),
        ({"data": [{"url": 7}]}, None),
        ({"data": ["https://x"]}, None),
        ({"data": {"url": "https://x"}}, None),
        ({"data": None}, None),
        ({"images": []}, None),
        ([], None),
        ("data", None),
    ],
)
def test_counts_images_of_whole_answers(answer: object, count: int | None) -> None:
    """As many images as items with a url or base64, or None where any item or the shape is another."""
    assert count_images(json.dumps(answer).encode()) == count


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b"\xff", b'{"data":' + b"9" * 5000 + b"}", b'{"data":[]} x']
)
def test_an_unreadable_answer_has_no_count(body: bytes) -> None:
    """No bytes raise, and what is no JSON has no count."""
    assert count_images(body) is None


def counted(*chunks: bytes) -> tuple[int, bool]:
    counter = ImageCounter()
    for chunk in chunks:
        counter.feed(chunk)
    return counter.count, counter.complete


STREAMED: dict[str, tuple[bytes, tuple[int, bool]]] = {
    "none": (b'{"data":[]}', (0, True)),
    "two": (b'{"created":1,"data":[{"b64_json":"aa"},{"b64_json":"bb"}],"usage":{"data":[{}]}}\n', (2, True)),
    "blanks": (b' \r\n{ "data" : [ { } , { } ] , "x" : -1.5e3 } \t', (2, True)),
    "objects inside items": (b'{"data":[{"a":{"b":[{},{}]}}]}', (1, True)),
    "brackets in strings": (b'{"data":[{"p":"]}{[,\\"{"}]}', (1, True)),
    "backslashes at the end of strings": (b'{"data":[{"p":"\\\\"},{"p":"\\\\\\""}]}', (2, True)),
    "data in a string": (b'{"x":"data","y":[{}],"data":[{}]}', (1, True)),
    "data of another level": (b'{"x":{"data":[{},{}]},"data":[{}]}', (1, True)),
    "data after a nested key": (b'{"x":{"data":1},"y":[{}],"data":[]}', (0, True)),
    "longer and shorter keys": (b'{"data2":[{}],"dat":[{}],"data":[{}]}', (1, True)),
    "escaped key is another": (b'{"dat\\u0061":[{}]}', (0, False)),
    "all scalars": (b'{"a":true,"b":false,"c":null,"d":0,"e":-0.1E+9,"data":[]}', (0, True)),
    "no data": (b'{"created":1}', (0, False)),
    "data is no list": (b'{"data":{"x":1}}', (0, False)),
    "two data": (b'{"data":[{}],"data":[{}]}', (1, False)),
    "cut": (b'{"data":[{},{}', (2, False)),
    "cut at the last brace": (b'{"data":[{}]', (1, False)),
    "text after": (b'{"data":[{}]}x', (1, False)),
    "second object": (b'{"data":[{}]}{}', (1, False)),
    "a list": (b'[{"data":[{}]}]', (0, False)),
    "a string": (b'"data"', (0, False)),
    "a number": (b"1 ", (0, False)),
    "HTML": (b"<html>{}</html>", (0, False)),
    "empty": (b"", (0, False)),
    "wrong bracket": (b'{"data":[{]}}', (1, False)),
    "missing comma": (b'{"data":[{}{}]}', (1, False)),
    "trailing comma": (b'{"data":[{},]}', (1, False)),
    "missing colon": (b'{"data"[{}]}', (0, False)),
    "key without quotes": (b"{data:[{}]}", (0, False)),
    "value for a key": (b'{"a":1,[{}]}', (0, False)),
    "bad word": (b'{"data":[nul]}', (0, False)),
    "bad number": (b'{"data":[01]}', (0, False)),
    "two words": (b'{"data":[1 2]}', (0, False)),
    "endless number": (b'{"data":[' + b"1" * 1000 + b"]}", (0, False)),
    "too deep": (b'{"data":' + b"[" * 100 + b"]" * 100 + b"}", (0, False)),
}


@pytest.mark.parametrize(("body", "expected"), STREAMED.values(), ids=STREAMED.keys())
def test_counts_the_same_at_every_cut(body: bytes, expected: tuple[int, bool]) -> None:
    """A streamed answer has its count and its completeness whole, byte by byte and cut anywhere."""
    assert counted(body) == expected
    assert counted(*(body[i : i + 1] for i in range(len(body)))) == expected
    for cut in range(len(body)):
        assert counted(body[:cut], body[cut:]) == expected


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ITEMS = st.lists(st.dictionaries(st.sampled_from(["url", "b64_json", "data"]), VALUES, max_size=3), max_size=4)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), ITEMS, st.booleans(), st.lists(st.integers(0, 400)))
def test_agrees_with_the_standard_library(
    rest: dict[str, object], data: list[object], ensure_ascii: bool, cuts: list[int]
) -> None:
    """Any JSON object with a list `data` of objects is complete, with as many images as the list is long."""
    body = json.dumps({**rest, "data": data}, ensure_ascii=ensure_ascii).encode()
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    assert counted(*(body[a:b] for a, b in pairwise(edges))) == (len(data), True)
    assert not counted(body[:-1])[1]


@given(st.binary(max_size=50), st.integers(0, 50))
def test_any_bytes_count_the_same_at_any_cut(body: bytes, cut: int) -> None:
    """The counter raises on no bytes, and where they are cut does not matter."""
    assert counted(body) == counted(body[:cut], body[cut:])


TOKENS = ["{", "}", "[", "]", ",", ":", '"data"', '"a"', " ", "0", "-1.5", "true", "nul", "{}", "[]", '"data":[', "]}"]


@given(st.lists(st.sampled_from(TOKENS), max_size=12))
def test_complete_means_json_with_one_list(tokens: list[str]) -> None:
    """Of texts made of JSON's own tokens, those are complete that the standard library reads as such an object."""
    body = "{" + "".join(tokens)
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    data = answer.get("data")
    count, complete = counted(body.encode())
    if complete:
        assert count == sum(isinstance(item, dict) for item in data)
    elif body.count('"data"') == 1:
        assert not isinstance(data, list)


@pytest.mark.parametrize("filler", [b"a", b'\\"', b"\\\\", b"\\u0041"])
def test_long_strings_are_skipped_in_linear_time(filler: bytes) -> None:
    """Eight megabytes of base64 or of escapes cost no more than their length."""
    body = b'{"data":[{"b64_json":"' + filler * ((8 << 20) // len(filler)) + b'"}]}'
    began = time.process_time()
    assert counted(*(body[i : i + 65536] for i in range(0, len(body), 65536))) == (1, True)
    assert time.process_time() - began < 4.0
