"""Which trace a request is part of, by its header ``traceparent`` (W3C Trace Context, 3.2)."""

import re
from collections.abc import Sequence
from typing import NamedTuple

_FORM = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Caller(NamedTuple):
    """The span that the request was sent in. Ids in lower-case hexadecimal; flags: 1 where it is recorded."""

    trace_id: str
    span_id: str
    flags: int


def caller(headers: Sequence[tuple[bytes, bytes]]) -> Caller | None:
    """None without a valid ``traceparent``, or with several. headers: names in lower case."""
    given = [value for name, value in headers if name == b"traceparent"]
    found = _FORM.fullmatch(given[0]) if len(given) == 1 else None
    if found is None or (found[1] == b"00" and found[5] is not None):  # only a later version may have more fields
        return None
    return Caller(found[2].decode(), found[3].decode(), int(found[4], 16))
