"""How values are read: exactly, and with no way to lose a digit."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.problems import looks_secret, shown
from gateway.config.quantities import MOST, Number, byte_size, count, dollars, duration, money, percent
from gateway.config.values import address, network, web_address


@given(st.integers(0, MOST * 10**6))
def test_money_is_exact_to_the_micro_dollar(micro: int) -> None:
    """Every amount of micro-dollars, written with six decimals, is read back as itself."""
    assert money(Number(f"{micro // 10**6}.{micro % 10**6:06d}")) == micro


@given(st.integers(0, 10**6), st.integers(0, 6), st.data())
def test_money_agrees_with_decimal_arithmetic(whole: int, places: int, data: st.DataObject) -> None:
    """Any number of decimals up to six means the same as in decimal arithmetic."""
    digits = data.draw(st.text("0123456789", min_size=places, max_size=places))
    text = f"{whole}.{digits}" if digits else str(whole)
    assert money(Number(text)) == Decimal(text) * 10**6


@given(st.integers(0, MOST * 10**6))
def test_dollars_are_written_as_they_are_read(micro: int) -> None:
    """What messages say of money reads back as the same amount."""
    assert money(Number(dollars(micro))) == micro


@given(st.text(max_size=12) | st.text("0123456789.,_eE+-$ ", max_size=12), st.booleans())
def test_numbers_are_read_whole_or_refused_in_words(text: str, unquoted: bool) -> None:
    """Whatever is written, a count is its plain digits or a ValueError; nothing else happens."""
    value = Number(text) if unquoted else text
    for parse in (count, money, duration, byte_size, percent):
        try:
            result = parse(value)
        except ValueError:
            continue
        if parse is count:
            assert (str(result), unquoted) == (text, True)


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("5s", 5), ("2m", 120), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    """A duration is seconds."""
    assert duration(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("512KB", 524_288), ("4MB", 4_194_304), ("1GB", 1_073_741_824)])
def test_sizes(text: str, size: int) -> None:
    """A KB is 1024 bytes."""
    assert byte_size(text) == size


@pytest.mark.parametrize(
    ("text", "expected"), [("0.0.0.0:8080", ("0.0.0.0", 8080)), ("[::1]:0", ("::1", 0)), ("host:1", ("host", 1))]
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    """An address is a host and a port; port 0 is allowed, and an IPv6 host loses its brackets."""
    assert address(text) == expected


def test_a_single_address_is_a_network() -> None:
    """A proxy may be named by its address alone."""
    assert str(network("10.0.0.1")) == "10.0.0.1/32"


def test_a_url_loses_its_closing_slash() -> None:
    """Paths are joined to it, so that it must not end with one."""
    assert web_address("https://api.3xcoder.com/v1/") == "https://api.3xcoder.com/v1"


@pytest.mark.parametrize(
    "text",
    ["sk-abc", "igw_abc", "Bearer abc", "redis://:pw@host", "x" * 10 + "1234567890", "-----BEGIN PRIVATE KEY-----"],
)
def test_what_looks_like_a_secret_is_not_shown(text: str) -> None:
    """A text that may be a secret is told by its length."""
    assert looks_secret(text)
    assert shown(text) == f"a text of {len(text)} characters"


def test_plain_names_are_shown() -> None:
    """What people mistype stays readable."""
    assert [shown(text) for text in ("dalle-3", "Europe/Berln", Number("1e3"))] == [
        "'dalle-3'",
        "'Europe/Berln'",
        "1e3",
    ]
