"""PNGs to upload, and a look into those that come back."""

import io

from PIL import Image


def png(size: tuple[int, int] = (64, 64), color: tuple[int, int, int, int] = (200, 30, 30, 255)) -> bytes:
    """One colour (red, green, blue, alpha)."""
    return encoded(Image.new("RGBA", size, color))


def mask(size: tuple[int, int], hole: tuple[int, int, int, int]) -> bytes:
    """Opaque but for the transparent box `hole` (left, top, right, bottom)."""
    picture = Image.new("RGBA", size, (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), hole)
    return encoded(picture)


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    """Fully decoded; as RGBA."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        return picture.convert("RGBA")
