"""Keys: their form, how a request carries one and how it is found."""

import hashlib
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import keys
from gateway.core.catalog import Key
from gateway.core.errors import AuthenticationFailed, ParameterError

MESSAGE = "No valid key. Ask image-gateway@example.com."
SECRET = keys.make(bytes(range(40)))
OWN_SECRET = "a-secret-that-the-company-had-before-us"
EXPIRES = 1_000.0


def _known(*secrets: str, expires: float | None = None) -> dict[bytes, Key]:
    digests = [keys.digest(secret) for secret in secrets]
    return {value: Key(team="design", id="ci", digest=value, expires=expires) for value in digests}


def _refusal(call: Callable[[], object]) -> AuthenticationFailed:
    with pytest.raises(AuthenticationFailed) as caught:
        call()
    return caught.value


@given(st.binary(min_size=keys.RANDOM_BYTES, max_size=keys.RANDOM_BYTES))
def test_make_gives_the_documented_form(random_bytes: bytes) -> None:
    """A key is the prefix, 33 base62 characters that stand for the randomness, and 6 for their CRC-32."""
    key = keys.make(random_bytes)
    prefix, body, checksum = key[:4], key[4:37], key[37:]
    number = 0
    for character in body:
        number = number * 62 + keys.ALPHABET.index(character)
    crc = 0
    for character in checksum:
        crc = crc * 62 + keys.ALPHABET.index(character)
    assert (prefix, len(key)) == ("igw_", 43)
    assert number == int.from_bytes(random_bytes, "big") % 62**33
    assert crc == zlib.crc32(body.encode())
    assert keys.looks_like_key(key)


def test_the_form_is_fixed_for_ever() -> None:
    """A key made today is recognized by every later version, so its form is pinned by an example."""
    assert keys.make(bytes(40)) == "igw_00000000000000000000000000000000026BYXP"


def test_make_refuses_too_little_randomness() -> None:
    """With fewer random bytes than documented there is no key at all."""
    with pytest.raises(ValueError, match="40 random bytes, got 39"):
        keys.make(bytes(39))


@given(st.integers(0, 42), st.sampled_from(keys.ALPHABET))
def test_any_changed_character_breaks_the_checksum(position: int, character: str) -> None:
    """CRC-32 finds every single wrong character, so a mistyped key never looks like one."""
    changed = SECRET[:position] + character + SECRET[position + 1 :]
    assert keys.looks_like_key(changed) == (changed == SECRET)


@pytest.mark.parametrize("text", ["", "igw_", SECRET[:-1], SECRET + "0", SECRET + "\n", " " + SECRET, SECRET.upper()])
def test_other_text_does_not_look_like_a_key(text: str) -> None:
    """Length, prefix and letter case are part of the form, and nothing may stand around it."""
    assert not keys.looks_like_key(text)


def test_digest_is_plain_sha256() -> None:
    """The config's hash can be made by any tool: it is SHA-256 of the UTF-8 and nothing more."""
    assert keys.digest("schlüssel") == hashlib.sha256("schlüssel".encode()).digest()


@pytest.mark.parametrize("secret", [SECRET, OWN_SECRET, "x" * 32, "x" * 512])
def test_find_gives_the_key_whose_hash_is_known(secret: str) -> None:
    """Our own keys and any secret of 32 to 512 characters open the key that has their hash."""
    assert keys.find(secret, _known(secret, "y" * 40), 0.0, message=MESSAGE).digest == keys.digest(secret)


@pytest.mark.parametrize("secret", ["x" * 31, "x" * 513, "short"])
def test_find_refuses_a_secret_of_another_length_even_if_its_hash_is_known(secret: str) -> None:
    """A weak secret does not open anything, whatever the config holds."""
    assert _refusal(lambda: keys.find(secret, _known(secret), 0.0, message=MESSAGE)).reason == "unknown"


def test_find_tells_a_mistyped_key_from_an_unknown_one() -> None:
    """With our prefix and a wrong checksum or length a secret was mistyped; with a right one it is unknown."""
    broken = SECRET[:-1] + ("0" if SECRET[-1] != "0" else "1")
    for secret, reason in ((broken, "malformed"), (SECRET[:20], "malformed"), (SECRET, "unknown")):
        assert _refusal(partial(keys.find, secret, {}, 0.0, message=MESSAGE)).reason == reason


def test_find_compares_the_digest_it_found() -> None:
    """A mapping that gives a key with another digest does not let the secret in."""
    wrong = {keys.digest(SECRET): Key(team="design", id="ci", digest=keys.digest(OWN_SECRET))}
    assert _refusal(lambda: keys.find(SECRET, wrong, 0.0, message=MESSAGE)).reason == "unknown"


def test_no_step_tells_how_much_of_a_key_was_right() -> None:
    """However many characters of a guess stand in a real key, the look-up takes the same lines of the same files."""
    known = _known(SECRET)
    other = keys.make(bytes(range(41, 81)))

    def guess(right: int) -> str:
        body = SECRET[4 : 4 + right] + other[4 + right : 37]
        return f"igw_{body}{keys._checksum(body)}"

    guesses = [guess(right) for right in range(keys.RANDOM_LENGTH)]
    assert SECRET not in guesses
    assert all(map(keys.looks_like_key, guesses))
    steps = {_steps(partial(_refusal, partial(keys.find, each, known, 0.0, message=MESSAGE))) for each in guesses}
    assert len(steps) == 1
    assert len(steps.pop()) > 10


def _steps(call: Callable[[], object]) -> tuple[tuple[str, int], ...]:
    """The files and lines of the gateway's core that a call goes through, in order."""
    lines: list[tuple[str, int]] = []
    here = str(Path(keys.__file__).parent)

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(here):
            return None
        lines.append((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return tuple(lines)


def test_a_key_expires_at_its_second() -> None:
    """`expires` is exclusive: just before it the key works, at it no more."""
    known = _known(SECRET, expires=EXPIRES)
    assert keys.find(SECRET, known, EXPIRES - 0.001, message=MESSAGE).id == "ci"
    assert _refusal(lambda: keys.find(SECRET, known, EXPIRES, message=MESSAGE)).reason == "expired"


def test_all_refusals_read_the_same() -> None:
    """Missing, malformed, unknown and expired keys get one identical answer: only the reason for the log differs."""
    refusals = [
        _refusal(lambda: keys.from_headers([], message=MESSAGE)),
        _refusal(lambda: keys.from_headers([(b"authorization", b"Basic eDp5")], message=MESSAGE)),
        _refusal(lambda: keys.find("igw_nonsense", {}, 0.0, message=MESSAGE)),
        _refusal(lambda: keys.find(SECRET, {}, 0.0, message=MESSAGE)),
        _refusal(lambda: keys.find(SECRET, _known(SECRET, expires=0.0), 0.0, message=MESSAGE)),
    ]
    assert [refusal.reason for refusal in refusals] == ["missing", "malformed", "malformed", "unknown", "expired"]
    assert {str(refusal.body()) for refusal in refusals} == {str(refusals[0].body())}
    assert refusals[0].message == MESSAGE


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer KEY")],
        [(b"authorization", b"bEARER   KEY ")],
        [(b"api-key", b"KEY")],
        [(b"api-key", b" KEY\t"), (b"host", b"example.com")],
        [(b"authorization", b"Bearer KEY"), (b"api-key", b"KEY")],
        [(b"api-key", b"KEY"), (b"api-key", b"KEY")],
        [(b"authorization", b"Bearer"), (b"api-key", b"KEY")],
        [(b"authorization", b""), (b"api-key", b"KEY")],
        [(b"authorization", b"Bearer KEY"), (b"api-key", b"")],
    ],
)
def test_the_credential_is_taken_from_either_header(headers: list[tuple[bytes, bytes]]) -> None:
    """Bearer in any letter case or `api-key`, or both with the same key; an empty header says nothing."""
    assert keys.from_headers(headers, message=MESSAGE) == "KEY"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer KEY"), (b"authorization", b"Bearer KEY")],
        [(b"authorization", b"Bearer KEY"), (b"authorization", b"")],
        [(b"authorization", b"Bearer KEY"), (b"api-key", b"OTHER")],
        [(b"api-key", b"KEY"), (b"api-key", b"OTHER")],
    ],
)
def test_two_credentials_that_differ_are_the_requests_fault(headers: list[tuple[bytes, bytes]]) -> None:
    """Which of two keys counts is nobody's guess: 400, and neither of them stands in the answer."""
    with pytest.raises(ParameterError) as caught:
        keys.from_headers(headers, message=MESSAGE)
    assert caught.value.status == 400
    assert "KEY" not in str(caught.value.body())
    assert "OTHER" not in str(caught.value.body())


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "missing"),
        ([(b"authorization", b"")], "missing"),
        ([(b"authorization", b"Bearer ")], "missing"),
        ([(b"api-key", b" ")], "missing"),
        ([(b"x-api-key", b"KEY")], "missing"),
        ([(b"authorization", b"Basic eDp5")], "malformed"),
        ([(b"authorization", b"KEY")], "malformed"),
        ([(b"authorization", b"Bearer\tKEY")], "malformed"),
        ([(b"authorization", b"Bearer KEY KEY")], "malformed"),
        ([(b"authorization", b"Bearer a, Bearer b")], "malformed"),
        ([(b"authorization", "Bearer schlüssel".encode())], "malformed"),
        ([(b"authorization", b"Bearer KEY\x00")], "malformed"),
        ([(b"authorization", b"Bearer KEY\n")], "malformed"),
        ([(b"api-key", b"KEY\x7f")], "malformed"),
    ],
)
def test_no_credential_or_an_unreadable_one_is_refused(headers: list[tuple[bytes, bytes]], reason: str) -> None:
    """Nothing sent is missing; another scheme or a byte outside visible ASCII is malformed."""
    assert _refusal(lambda: keys.from_headers(headers, message=MESSAGE)).reason == reason
