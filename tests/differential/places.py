"""Forms cut at every place, straight into the gateway's reader: through a socket they would take hours."""

from collections.abc import Iterable

from gateway.core.errors import GatewayError
from gateway.core.multipart import FileData, FormLimits, FormReader, parse_content_type
from tests.differential.bodies import Body

_LIMITS = FormLimits(max_image_size=4 * 1024 * 1024, max_prompt_chars=32_000)
_SHORT = 4000  # bytes; what is longer holds a picture, whose every byte is as good as the next


def cut_everywhere(tried: Iterable[Body], reader: type[FormReader] = FormReader) -> tuple[int, list[str]]:
    """How many cuts were made, and the bodies of which one in two pieces is read otherwise than the whole."""
    cuts, changed = 0, []
    for content_type, data in sorted({(body.content_type, body.data) for body in tried}):
        try:
            boundary = parse_content_type(content_type.encode("latin-1"))
        except GatewayError:  # refused by its head, before any of it is read
            continue
        if len(data) > _SHORT:
            continue
        whole = _verdict(reader, boundary, data)
        cuts += max(0, len(data) - 1)
        at = (at for at in range(1, len(data)) if _verdict(reader, boundary, data[:at], data[at:]) != whole)
        if (first := next(at, None)) is not None:
            changed.append(f"{content_type!r} {data!r} cut at {first}")
    return cuts, changed


def _verdict(kind: type[FormReader], boundary: bytes, *pieces: bytes) -> tuple[object, ...]:
    """What is read, with the pieces of a file put together; or how it is refused."""
    reader, found = kind(boundary, limits=_LIMITS), list[object]()
    try:
        for event in [event for piece in pieces for event in reader.feed(piece)] + [reader.close()]:
            if isinstance(event, FileData) and found and isinstance(found[-1], bytes):
                found[-1] += event.data
            else:
                found.append(event.data if isinstance(event, FileData) else event)
    except GatewayError as error:
        return type(error), error.param
    return tuple(found)
