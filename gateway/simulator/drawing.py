"""The pictures: the prompt's words on a colour of its own, or painted into the picture that is edited.

Cheap on purpose (flat colours, a palette, zlib's level 1): a generation of 1024x1024 costs a few milliseconds, and a
picture asked for again is not drawn again. Nothing here knows of HTTP. All functions may run in any thread.
"""

import colorsys
import hashlib
import io
import textwrap
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Size = tuple[int, int]
Color = tuple[int, int, int]

_MAX_PIXELS = 4096 * 4096  # an uploaded picture; a small file can claim far more
_MAX_WORDS = 240  # characters of the prompt that are drawn
_TINT = 0.55  # of the colour in an edited area: enough to see, and the original still shows


class UnreadablePicture(ValueError):
    """Not a PNG, a broken one, or one of absurd dimensions."""


def png_size(data: bytes) -> Size:
    """Width and height of a PNG whose chunks are sound (checksums verified, pixels not yet decoded)."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            size = picture.size
            picture.verify()
    except Exception as exc:  # Pillow's decoders raise nearly anything on broken data
        raise UnreadablePicture("the file is not a sound PNG") from exc
    if size[0] * size[1] > _MAX_PIXELS:
        raise UnreadablePicture("the picture has too many pixels")
    return size


class Painter:
    """Draws, and remembers the latest pictures. `index` tells the pictures of one answer apart."""

    def __init__(self) -> None:
        self.generation = lru_cache(maxsize=64)(draw_generation)
        # Its keys hold the uploaded files, so this one must be small.
        self.edit = lru_cache(maxsize=8)(draw_edit)


def draw_generation(prompt: str, size: Size, index: int) -> bytes:
    """A PNG of `size`: the prompt's words in white on its colour."""
    picture = Image.new("L", size, 0)
    _write(ImageDraw.Draw(picture), prompt, size, fill=255)
    red, green, blue = _color(prompt, index)
    # The text's grey levels become a palette from the colour to white: a third of RGB's bytes to compress.
    picture.putpalette(
        [channel + (255 - channel) * level // 255 for level in range(256) for channel in (red, green, blue)]
    )
    return _encode(picture)


def draw_edit(image: bytes, mask: bytes | None, prompt: str, size: Size, index: int) -> bytes:
    """A PNG of `size`: `image` scaled to it, changed only where `mask` is wholly transparent (everywhere without one).

    Raises UnreadablePicture if the pixels cannot be decoded.
    """
    picture = _decode(image)
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    area = Image.new("L", size, 255)
    if mask is not None:
        alpha = _decode(mask).convert("RGBA").getchannel("A")
        area = alpha.point([255] + [0] * 255).resize(size, Image.Resampling.NEAREST)
    box = area.getbbox()
    if box is None:  # the mask allows no change at all
        return _encode(picture)
    original = picture.crop(box).convert("RGB")
    painted = Image.blend(original, Image.new("RGB", original.size, _color(prompt, index)), _TINT)
    _write(ImageDraw.Draw(painted), prompt, painted.size, fill=(255, 255, 255))
    picture.paste(painted.convert(picture.mode), box, area.crop(box))
    return _encode(picture)


def _decode(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.load()
            return picture
    except Exception as exc:  # as in png_size
        raise UnreadablePicture("the picture's pixels cannot be decoded") from exc


def _encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _color(prompt: str, index: int) -> Color:
    """A dark colour that white text can be read on, the same for the same words."""
    digest = hashlib.sha256(f"{index} {prompt}".encode()).digest()
    red, green, blue = colorsys.hls_to_rgb(int.from_bytes(digest[:2]) / 65536, 0.3, 0.6)
    return round(red * 255), round(green * 255), round(blue * 255)


def _write(draw: ImageDraw.ImageDraw, prompt: str, size: Size, *, fill: int | Color) -> None:
    """The words, wrapped, in the middle of a picture of `size`."""
    width, height = size
    font = ImageFont.load_default(size=max(8, width // 18))
    columns = max(1, int(width * 0.9 / max(1.0, font.getlength("n"))))
    text = "\n".join(textwrap.wrap(prompt[:_MAX_WORDS], columns))
    draw.multiline_text((width / 2, height / 2), text, fill=fill, font=font, anchor="mm", align="center")
