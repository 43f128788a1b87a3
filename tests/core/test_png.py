"""The PNG head: exactly the legal ones pass, from any pieces, and the sentence says what else came."""

import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import InvalidImage
from gateway.core.png import HEAD, MAX_SIDE, PngHead, check_mask_size


def png(
    width: int = 3,
    height: int = 2,
    depth: int = 8,
    colour: int = 6,
    *,
    rest: bytes = b"\x00\x00",
    length: int = 13,
    kind: bytes = b"IHDR",
    crc: int | None = None,
) -> bytes:
    ihdr = kind + struct.pack(">IIBB", width, height, depth, colour) + rest[:2] + (rest[2:] or b"\x00")
    checksum = zlib.crc32(ihdr) if crc is None else crc
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", length) + ihdr + struct.pack(">I", checksum)


def size_of(*pieces: bytes) -> tuple[int, int] | None:
    head = PngHead("image")
    for piece in pieces:
        head.feed(piece)
    head.close()
    return head.size


LEGAL = {(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)} | {
    (4, 8),
    (4, 16),
    (6, 8),
    (6, 16),
}


@pytest.mark.parametrize("colour", range(8))
def test_takes_exactly_the_legal_pairs(colour: int) -> None:
    """Of all bit depths and colour types the fifteen pairs of the standard's table pass, no other."""
    for depth in range(18):
        if (colour, depth) in LEGAL:
            assert size_of(png(depth=depth, colour=colour)) == (3, 2)
        else:
            with pytest.raises(InvalidImage, match="bit depth"):
                size_of(png(depth=depth, colour=colour))


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "cut after 8 bytes": (png()[:8], "cut off"),
    "cut after 32 bytes": (png()[:32], "cut off"),
    "text": (b"not an image at all, just words and words", "is not a PNG"),
    "GIF": (b"GIF89a" + b"\x00" * 40, "a GIF"),
    "short GIF": (b"GIF89a", "a GIF"),
    "JPEG": (b"\xff\xd8\xff\xe0\x00\x10JFIF" + b"\x00" * 40, "a JPEG"),
    "WebP": (b"RIFF\x24\x00\x00\x00WEBPVP8 " + b"\x00" * 40, "a WebP"),
    "RIFF of another kind": (b"RIFF\x24\x00\x00\x00WAVEfmt " + b"\x00" * 40, "is not a PNG. "),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "an SVG"),
    "PDF": (b"%PDF-1.7\n" + b"\x00" * 40, "a PDF"),
    "newlines converted": (png().replace(b"\r\n", b"\n") + b"\x00", "is not a PNG"),
    "IHDR length": (png(length=14), "without its IHDR"),
    "other first chunk": (png(kind=b"CgBI"), "without its IHDR"),
    "checksum": (png(crc=1), "checksum"),
    "no width": (png(width=0), "each side"),
    "no height": (png(height=0), "each side"),
    "too wide": (png(width=MAX_SIDE + 1), "each side"),
    "too high": (png(height=2**31 - 1), "each side"),
    "negative": (png(width=2**32 - 1), "each side"),
    "compression": (png(rest=b"\x01\x00\x00"), "compression"),
    "filter": (png(rest=b"\x00\x01\x00"), "filter"),
    "interlace": (png(rest=b"\x00\x00\x02"), "interlace"),
}


@pytest.mark.parametrize(("data", "finding"), BAD.values(), ids=BAD.keys())
def test_says_what_is_wrong_however_it_is_cut(data: bytes, finding: str) -> None:
    """Each bad head is refused with a sentence that names the trouble, whole or byte by byte."""
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        with pytest.raises(InvalidImage, match=finding) as caught:
            size_of(*pieces)
        assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_image", "image")


@given(st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE), st.binary(max_size=50), st.lists(st.integers(0, 90)))
def test_reads_the_size_from_any_pieces(width: int, height: int, pixels: bytes, cuts: list[int]) -> None:
    """Width and height come out the same however the file arrives, and nothing past the head matters."""
    data = png(width, height, rest=b"\x00\x00\x01") + pixels
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert size_of(*(data[a:b] for a, b in pairwise(edges))) == (width, height)


@given(st.integers(0, HEAD - 1), st.integers(1, 255))
def test_notices_any_changed_byte(position: int, change: int) -> None:
    """No byte of the head can change unnoticed."""
    data = bytearray(png())
    data[position] ^= change
    with pytest.raises(InvalidImage):
        size_of(bytes(data))


def test_the_mask_has_the_size_of_the_image() -> None:
    """A mask of another size is refused under its own name with both sizes; an equal one passes."""
    check_mask_size((64, 32), (64, 32))
    with pytest.raises(InvalidImage, match="mask is 32x64 pixels and image is 64x32") as caught:
        check_mask_size((64, 32), (32, 64))
    assert caught.value.param == "mask"
