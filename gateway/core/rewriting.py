"""What goes up: the gateway's own encoding of an order. Nothing of the client's framing is in it.

Everything the price depends on is written out, so an upstream whose defaults change cannot change the price. The
bytes of one order are always the same. An edit's files go through as they arrive, between part headers made here;
its texts come after them, in one piece with the closing delimiter.
"""

import json
from functools import lru_cache

import orjson

from gateway.core.catalog import Model
from gateway.core.errors import InternalError
from gateway.core.orders import Order

_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def generation_body(order: Order, model: Model) -> bytes:
    """The JSON of ``POST /images/generations``: ASCII, model, n, size and quality first. model: of `order.model`."""
    body = {
        "model": model.upstream_name,
        "n": order.n,
        "size": order.size,
        "quality": order.quality,
        **dict(order.fields),
    }
    if all(isinstance(value, str) for _, value in order.fields):
        written = orjson.dumps(body)
        if written.isascii():
            return written
    return _ENCODER.encode(body).encode("ascii")


class FormWriter:
    """Writes the ``multipart/form-data`` of ``POST /images/edits``.

    boundary: random, 128 bits at least and unknown to the client, so that no file can hold it. max_images: what
    `FormLimits` said. Where one is the most, it goes up as `image`, however named. Where lists are allowed the head
    is written before it is known whether more follow, so the client's own word stands: `image` for the one, `image[]`
    for each of a list (the reader refuses a mixture).
    """

    def __init__(self, boundary: str, *, max_images: int = 1) -> None:
        self._boundary = boundary
        self._delimiter = f"--{boundary}".encode("ascii")
        self._max_images = max_images

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    def file_head(self, name: str) -> bytes:
        """What stands before a file's bytes. name: as the reader gave it (image, image[], mask)."""
        if name == "image[]" and self._max_images == 1:
            name = "image"
        filename = "mask.png" if name == "mask" else "image.png"
        return b"%s\r\nContent-Disposition: form-data; name=%s; filename=%s\r\nContent-Type: image/png\r\n\r\n" % (
            self._delimiter,
            _quoted(name),
            _quoted(filename),
        )

    def file_tail(self) -> bytes:
        return b"\r\n"

    def closing(self, order: Order, model: Model) -> bytes:
        """All texts and the closing delimiter. No quality: the API takes none on edits. model: of `order.model`."""
        texts = {"model": model.upstream_name, "n": order.n, "size": order.size, **dict(order.fields)}
        parts = [self._text(name, value) for name, value in texts.items()]
        return b"".join((*parts, self._delimiter, b"--\r\n"))

    def _text(self, name: str, value: object) -> bytes:
        raw = value.encode() if isinstance(value, str) else json.dumps(value, allow_nan=False).encode()
        if self._delimiter in raw:
            # It is random and the client has not seen it. If it stands there all the same, the randomness is broken.
            raise InternalError("The request could not be written for the upstream.")
        return b"%s\r\nContent-Disposition: form-data; name=%s\r\n\r\n%s\r\n" % (self._delimiter, _quoted(name), raw)


@lru_cache(maxsize=256)
def _quoted(name: str) -> bytes:
    """A parameter of a part header. Names come from the API document and the config, never from a client."""
    if not name.isascii() or not name.isprintable() or '"' in name or "\\" in name:
        raise InternalError("A configured parameter has a name that no form can carry.")
    return b'"%s"' % name.encode("ascii")
