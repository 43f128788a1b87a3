"""The pictures are real, of the asked size, and edits stay within their mask."""

import pytest
from PIL import Image, ImageChops

from gateway.simulator.drawing import Painter, UnreadablePicture, draw_edit, draw_generation, png_size
from gateway.simulator.validation import SIZES
from tests.simulator.pictures import decoded, encoded, mask, png


@pytest.mark.parametrize("size", SIZES)
def test_a_generation_has_exactly_the_asked_size(size: str) -> None:
    """A decoded generation is as wide and high as its size says, and shows more than its ground."""
    width, height = (int(side) for side in size.split("x"))
    picture = decoded(draw_generation("A lighthouse at dusk", (width, height), 0))
    assert picture.size == (width, height)
    assert picture.getextrema()[0] != (255, 255)
    assert (255, 255, 255, 255) in [color for _, color in picture.getcolors(1000) or []]


def test_the_prompt_decides_the_colour() -> None:
    """Two prompts have two grounds, the same prompt always the same bytes, two indices of it two pictures."""
    first, second = (decoded(draw_generation(prompt, (256, 256), 0)).getpixel((0, 0)) for prompt in ("sea", "desert"))
    assert first != second
    assert draw_generation("sea", (256, 256), 0) == draw_generation("sea", (256, 256), 0)
    assert draw_generation("sea", (256, 256), 0) != draw_generation("sea", (256, 256), 1)


def test_an_edit_changes_only_what_the_mask_opens() -> None:
    """What differs from the original is the transparent box to the pixel, and white words stand in it."""
    size = (1024, 1024)
    original = Image.linear_gradient("L").resize(size).convert("RGB")
    hole = (160, 240, 800, 640)
    edited = decoded(draw_edit(encoded(original), mask(size, hole), "A rainbow", size, 0)).convert("RGB")
    changed = ImageChops.difference(original, edited).convert("L").point([0] + [255] * 255)
    assert changed.getbbox() == hole
    assert (255, 255, 255) in [color for _, color in edited.crop(hole).getcolors(1_000_000) or []]


def test_an_edit_is_scaled_with_its_mask() -> None:
    """A 64 pixel original with its left half open becomes 512 pixels whose right half is the original's colour."""
    edited = decoded(draw_edit(png((64, 64)), mask((64, 64), (0, 0, 32, 64)), "Grass", (512, 512), 0))
    assert edited.size == (512, 512)
    assert edited.crop((256, 0, 512, 512)).getcolors() == [(256 * 512, (200, 30, 30, 255))]
    assert edited.getpixel((0, 0)) != (200, 30, 30, 255)


def test_an_edit_without_a_mask_changes_the_whole_picture() -> None:
    """Every corner differs from the original's colour."""
    edited = decoded(draw_edit(png(), None, "Night", (256, 256), 0))
    assert all(edited.getpixel(corner) != (200, 30, 30, 255) for corner in ((0, 0), (255, 0), (0, 255), (255, 255)))


def test_an_opaque_mask_changes_nothing() -> None:
    """A mask without a transparent pixel gives the original back."""
    edited = decoded(draw_edit(png(), mask((64, 64), (0, 0, 0, 0)), "Night", (64, 64), 0))
    assert edited.getcolors() == [(64 * 64, (200, 30, 30, 255))]


@pytest.mark.parametrize("data", [b"", b"GIF89a", png()[:40], png()[:-20], png().replace(b"IDAT", b"IDAX")])
def test_what_is_no_sound_png_is_said_so(data: bytes) -> None:
    """Empty, foreign, short and damaged files raise UnreadablePicture and nothing else."""
    with pytest.raises(UnreadablePicture):
        png_size(data)


def test_a_picture_of_absurd_dimensions_is_refused() -> None:
    """A small file that claims more than 16 million pixels is not decoded."""
    with pytest.raises(UnreadablePicture, match="too many pixels"):
        png_size(encoded(Image.new("1", (4097, 4096))))


def test_the_painter_remembers() -> None:
    """The same order twice is drawn once."""
    painter = Painter()
    assert painter.generation("sea", (256, 256), 0) is painter.generation("sea", (256, 256), 0)
    assert painter.edit(png(), None, "sea", (256, 256), 0) is painter.edit(png(), None, "sea", (256, 256), 0)
