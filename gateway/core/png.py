"""The head of a PNG file (W3C PNG, 5.2 and 11.2.1), checked while the file streams by: 33 bytes decide.

Signature, the IHDR chunk with its legal values and its checksum; the pixels are the upstream's business.
"""

import struct
from zlib import crc32

from gateway.core.errors import InvalidImage

HEAD = 33  #: bytes: 8 of signature, 8 of chunk head, 13 of IHDR, 4 of checksum
MAX_SIDE = 16384  #: pixels; far above any size the API makes, far below what decoding 4 MB could blow up to

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IHDR_START = struct.pack(">I4s", 13, b"IHDR")
_IHDR = struct.Struct(">IIBBBBB")

#: colour type -> bit depths (W3C PNG, table 12)
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}

_OTHER_KINDS = (
    ("a JPEG", b"\xff\xd8\xff"),
    ("a GIF", b"GIF8"),
    ("a BMP", b"BM"),
    ("a TIFF", b"II*\x00"),
    ("a TIFF", b"MM\x00*"),
    ("a PDF", b"%PDF-"),
    ("an SVG or XML", b"<"),
)


class PngHead:
    """Feed it one file's bytes in any pieces, then `close` it at the file's end; `size` is known after 33 bytes.

    param: the form field that errors name. Raises `InvalidImage`.
    """

    def __init__(self, param: str) -> None:
        self.param = param
        self.size: tuple[int, int] | None = None  #: (width, height) in pixels
        self._head = b""

    def feed(self, data: bytes) -> None:
        if self.size is None:
            self._head += data[: HEAD - len(self._head)]
            if len(self._head) == HEAD:
                self.size = self._read()

    def close(self) -> None:
        if self.size is None:
            raise self._invalid("is empty" if not self._head else self._otherwise("is cut off within its PNG header"))

    def _read(self) -> tuple[int, int]:
        head = self._head
        if not head.startswith(_SIGNATURE):
            raise self._invalid(self._otherwise("is not a PNG"))
        if head[8:16] != _IHDR_START:
            raise self._invalid("is a PNG without its IHDR header")
        if crc32(head[12:29]) != int.from_bytes(head[29:33], "big"):
            raise self._invalid("is a damaged PNG: the checksum of its header is wrong")
        width, height, depth, colour, compression, filtering, interlace = _IHDR.unpack(head[16:29])
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise self._invalid(f"is {width}x{height} pixels; each side must be 1 to {MAX_SIDE}")
        if depth not in _DEPTHS.get(colour, ()):
            raise self._invalid(f"is a PNG of bit depth {depth} and colour type {colour}, which do not go together")
        if compression or filtering or interlace > 1:
            raise self._invalid("is a PNG with an unknown compression, filter or interlace method")
        return width, height

    def _otherwise(self, finding: str) -> str:
        """The finding, or, if another kind of file is recognised, which."""
        head = self._head
        if head.startswith(_SIGNATURE[: len(head)]):
            return finding
        kind = next((kind for kind, magic in _OTHER_KINDS if head.startswith(magic)), None)
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            kind = "a WebP"
        return f"is not a PNG: it looks like {kind} file" if kind else "is not a PNG"

    def _invalid(self, finding: str) -> InvalidImage:
        return InvalidImage(f"{self.param} {finding}. PNG files are taken.", param=self.param)


def check_mask_size(image: tuple[int, int], mask: tuple[int, int]) -> None:
    """Raises `InvalidImage` for a mask that is not of the (first) image's size, both (width, height)."""
    if image != mask:
        raise InvalidImage(
            f"mask is {mask[0]}x{mask[1]} pixels and image is {image[0]}x{image[1]}; they must be of one size.",
            param="mask",
        )
