"""Takes the README's picture of the dashboard anew: ``python -m tests.dashboard.screenshot``.

It says of itself what it was made from, so that a test finds a picture of pages that have changed since.
"""

import hashlib
import io
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.dashboard.browser import running_browser, screen
from tests.dashboard.showing import running_showing, with_a_past, with_a_present

ROOT = Path(__file__).parent.parent.parent
PICTURE = ROOT / "deploy" / "dashboard.png"

_SIZE = (1280, 1200)
_NOTE = "Made-From"  # PNG's keyword


def sources() -> str:
    """A hash of all that decides how the pages look."""
    admin = ROOT / "gateway" / "admin"
    parts = sorted([*(admin / "templates").iterdir(), *(admin / "static").iterdir()])
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in parts)).hexdigest()


def made_from(path: Path) -> str:
    with Image.open(path) as picture:
        return str(picture.info[_NOTE])


def take(path: Path) -> None:
    """The overview of a gateway with made-up figures, as it is at a desk in the light."""
    with running_showing() as showing:
        with_a_past(showing)
        with_a_present(showing)
        with running_browser() as browser, screen(browser, size=_SIZE) as shown:
            shown.page.goto(showing.page, wait_until="networkidle")
            data = shown.page.screenshot()
    note = PngInfo()
    note.add_text(_NOTE, sources())
    with Image.open(io.BytesIO(data)) as picture:
        picture.save(path, "PNG", pnginfo=note, optimize=True)


if __name__ == "__main__":
    take(PICTURE)
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes")
