"""The picture of the dashboard in the README is of the pages as they are."""

from PIL import Image

from tests.dashboard import screenshot


def test_the_picture_is_of_these_pages() -> None:
    """It was taken of these very templates, styles and scripts; python -m tests.dashboard.screenshot takes it anew."""
    assert screenshot.made_from(screenshot.PICTURE) == screenshot.sources()


def test_the_picture_can_be_read() -> None:
    """It is as wide as a desk's screen, and no burden to whoever fetches the page."""
    with Image.open(screenshot.PICTURE) as picture:
        assert picture.size[0] == 1280
    assert screenshot.PICTURE.stat().st_size < 300_000
