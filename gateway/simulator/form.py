"""multipart/form-data (RFC 7578, RFC 2046 section 5.1), read strictly and from the whole body.

Written against the RFCs with the standard library alone, on purpose: the gateway frames the bodies that arrive here,
and a reading that shared its parser would share its mistakes. What two readers could understand differently is
refused: a preamble or an epilogue, a line that begins like a delimiter and is none, a header or parameter given twice.
"""

import re
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser

from gateway.simulator.refusal import Refusal, Unfinished

_LOOSE_LINES = re.compile(rb"\r(?!\n)|(?<!\r)\n|\r\n[ \t]")  # a bare CR or LF, a folded header
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 section 5.1.1


@dataclass(frozen=True, slots=True)
class Part:
    """One part. filename is None for a text field. headers: names and values as sent."""

    name: str
    filename: str | None
    content_type: str | None
    headers: tuple[tuple[str, str], ...]
    data: bytes = field(repr=False)


def read_form(content_type: str, body: bytes) -> tuple[Part, ...]:
    """The parts in their order.

    Raises Refusal for what is malformed, Unfinished where the closing delimiter is missing.
    """
    dash_boundary = b"--" + _boundary(content_type)
    if dash_boundary.startswith(body):
        raise Unfinished("The body ends within its first delimiter.")
    if not body.startswith(dash_boundary):
        raise Refusal("The body does not begin with its boundary.")
    delimiter = b"\r\n" + dash_boundary
    pieces = body[len(dash_boundary) :].split(delimiter)
    if not pieces[-1].startswith(b"--"):
        raise Unfinished("The body does not end with its closing delimiter.")
    if pieces[-1] not in (b"--", b"--\r\n"):
        raise Refusal("The body goes on behind its closing delimiter.")
    return tuple(_part(piece) for piece in pieces[:-1])


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["content-type"] = content_type
    boundaries = [value for name, value in header.get_params(failobj=[]) if name.lower() == "boundary"]
    # An RFC 2231 value comes as a tuple.
    if len(boundaries) != 1 or not isinstance(boundaries[0], str) or not _BOUNDARY.fullmatch(boundaries[0]):
        raise Refusal("multipart/form-data takes exactly one boundary of 1 to 70 characters.")
    return boundaries[0].encode("ascii")


def _part(piece: bytes) -> Part:
    """A part from behind its delimiter: CRLF, headers, empty line, data."""
    head, separator, data = piece.partition(b"\r\n\r\n")
    if not head.startswith(b"\r\n") or not separator:
        raise Refusal("A delimiter is not followed by a part's headers and an empty line.")
    if _LOOSE_LINES.search(head):
        raise Refusal("A part's headers are not lines of one header each, ended by CRLF.")
    try:
        message = HeaderParser().parsestr(head[2:].decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise Refusal("A part's headers are not UTF-8.") from exc
    headers = tuple((name, str(value)) for name, value in message.items())
    names = [name.lower() for name, _ in headers]
    if message.defects or message.get_payload() or len(set(names)) < len(names):
        raise Refusal("A part's headers are malformed or repeated.")
    disposition = message.get_params(failobj=[], header="content-disposition")
    if not disposition or disposition[0][0].lower() != "form-data":
        raise Refusal("A part without Content-Disposition: form-data.")
    parameters = {name.lower(): value for name, value in disposition[1:]}
    plain = all(isinstance(value, str) for value in parameters.values())  # an RFC 2231 value comes as a tuple
    if not plain or len(parameters) != len(disposition) - 1 or not set(parameters) <= {"name", "filename"}:
        raise Refusal("Content-Disposition takes name and filename, each once.")
    if not parameters.get("name"):
        raise Refusal("A part without a name.")
    return Part(parameters["name"], parameters.get("filename"), message["content-type"], headers, data)
