"""The headers of one part of a form (RFC 7578, 4): the narrow grammar that every reader understands alike.

One ``Content-Disposition: form-data`` with one plainly quoted name, at most one file name, an optional type. No
folding, no ``name*``, no backslash in a name, no encoding, no header twice. File names are read over and thrown away.
"""

import re
from dataclasses import dataclass

from gateway.core.errors import MalformedRequest
from gateway.core.parameters import shown

# No blank before the colon, no folding, no control byte; bytes over 0x7f occur in file names.
_LINE = re.compile(rb"[A-Za-z-]{1,64}: *[^\x00-\x1f\x7f]*")

# A file name may hold anything, with backslashes as old curl writes them; filename* comes from clients that spell it
# so beyond ASCII. The part's own name has one spelling.
_DISPOSITION = re.compile(
    r'form-data; *name="(?P<name>[^"\\]*)"'
    r'(?P<file>(?:; *filename="(?:[^"\\]|\\.)*")?(?:; *filename\*=[\w!#$&+.^`|~%\'-]+)?)',
    re.ASCII,
)

# Content-Length and the no-op encoding occur in older HTTP libraries. The first is checked against the part, the
# second says that nothing is encoded; any other header could make a reader see other bytes than these.
_TAKEN = frozenset({"Content-Disposition", "Content-Type", "Content-Length", "Content-Transfer-Encoding"})


@dataclass(frozen=True, slots=True)
class PartHead:
    """name: as the client wrote it. is_file: whether a file name was given, be it empty. content_type: or None."""

    name: str
    is_file: bool
    content_type: str | None


def check_line(line: bytes, *, longest: int) -> None:
    """One header line without its CRLF. Raises `MalformedRequest`. longest: bytes."""
    if len(line) > longest:
        raise MalformedRequest("A part of the form has a header line that is too long.")
    if not _LINE.fullmatch(line):
        raise MalformedRequest("A part of the form has a malformed header line.")


def part_head(headers: list[tuple[str, str]]) -> PartHead:
    """What checked lines say. headers: (Title-Case name, value read as Latin-1). Raises `MalformedRequest`."""
    fields = dict(headers)
    if len(fields) < len(headers):
        raise MalformedRequest("A part of the form has the same header twice.")
    if odd := fields.keys() - _TAKEN:
        raise MalformedRequest(f"A part of the form has the header {shown(min(odd))}, which is not taken.")
    if fields.get("Content-Transfer-Encoding", "binary").lower() != "binary":
        raise MalformedRequest("A part of the form has a Content-Transfer-Encoding; parts are sent as they are.")
    found = _DISPOSITION.fullmatch(fields["Content-Disposition"])
    if found is None:
        raise MalformedRequest(
            'A part of the form has an odd Content-Disposition; it must be form-data; name="…"; filename="…".'
        )
    try:
        name = found["name"].encode("latin-1").decode()
    except UnicodeDecodeError as exc:
        raise MalformedRequest("A part of the form has a name that is not UTF-8.") from exc
    return PartHead(name=name, is_file=bool(found["file"]), content_type=fields.get("Content-Type"))
