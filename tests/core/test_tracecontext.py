"""Which trace a request is part of (W3C Trace Context, 3.2 and its test suite's cases)."""

import pytest

from gateway.core.tracecontext import Caller, caller

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"

BAD = {
    "empty": "",
    "no version": f"{TRACE}-{SPAN}-01",
    "the forbidden version": f"ff-{TRACE}-{SPAN}-01",
    "more than version 00 has": f"{GOOD}-what",
    "a dash too many": f"{GOOD}-",
    "a later version's end without a dash": f"cc-{TRACE}-{SPAN}-01what",
    "upper case": GOOD.upper(),
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "a short trace": f"00-{TRACE[1:]}-{SPAN}-01",
    "a long span": f"00-{TRACE}-{SPAN}0-01",
    "flags that are no number": f"00-{TRACE}-{SPAN}-0x",
    "blanks": f" {GOOD} ",
}


@pytest.mark.parametrize(("value", "flags"), [(GOOD, 1), (GOOD[:-1] + "0", 0), (f"cc-{TRACE}-{SPAN}-03-new", 3)])
def test_a_caller_is_known(value: str, flags: int) -> None:
    """Trace, span and flags are read, of a later version with more fields too."""
    assert caller([(b"accept", b"*/*"), (b"traceparent", value.encode())]) == Caller(TRACE, SPAN, flags)


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_what_is_malformed_names_nobody(value: str) -> None:
    """A header that the specification calls invalid is passed over whole."""
    assert caller([(b"traceparent", value.encode())]) is None


def test_two_name_nobody() -> None:
    """Of two headers neither is believed; without one nobody is named."""
    assert caller([(b"traceparent", GOOD.encode())] * 2) is None
    assert caller([]) is None
