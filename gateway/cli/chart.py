"""A bar chart as a PNG: dollars by group, what nobody can know in another colour."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gateway.core.refusals import dollars
from gateway.core.usage import Spent

MOST = 60  #: bars; what is behind them is summed up in one more

_WIDTH, _BAR, _ROW, _PAD = 1200, 20, 28, 24
_KNOWN, _UNKNOWN, _INK, _PAPER = (44, 102, 176), (222, 140, 36), (30, 30, 30), (255, 255, 255)


def draw(path: Path, title: str, bars: Sequence[tuple[str, Spent]]) -> None:
    """Write the PNG. Bars stand in the given order; of more than `MOST` the greatest are shown."""
    shown = list(bars)
    if len(bars) > MOST:
        greatest = sorted(range(len(bars)), key=lambda i: bars[i][1].usd, reverse=True)[:MOST]
        rest = [bars[i][1] for i in range(len(bars)) if i not in set(greatest)]
        shown = [bars[i] for i in sorted(greatest)] + [(f"{len(rest)} others", sum(rest, Spent()))]
    font = ImageFont.load_default(15)
    picture = Image.new("RGB", (_WIDTH, 3 * _PAD + _ROW * (len(shown) + 2)), _PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((_PAD, _PAD), title, _INK, font)
    left = _PAD + int(max((pen.textlength(name, font) for name, _ in shown), default=0)) + 12
    left = min(left, _WIDTH // 2)
    scale = (_WIDTH - left - 140) / max(1, *(spent.usd for _, spent in shown), 1)  # pixels a micro-dollar
    for i, (name, spent) in enumerate(shown):
        top = 2 * _PAD + _ROW * (i + 1)
        known, whole = left + spent.usd_delivered * scale, left + spent.usd * scale
        pen.text((_PAD, top), name, _INK, font)
        pen.rectangle((left, top, whole, top + _BAR), _UNKNOWN)
        if spent.usd_delivered:
            pen.rectangle((left, top, known, top + _BAR), _KNOWN)
        pen.text((whole + 8, top), dollars(spent.usd), _INK, font)
    foot = 2 * _PAD + _ROW * (len(shown) + 1)
    for x, color, word in ((left, _KNOWN, "delivered"), (left + 140, _UNKNOWN, "unknown")):
        pen.rectangle((x, foot, x + _BAR, foot + _BAR), color)
        pen.text((x + _BAR + 8, foot), word, _INK, font)
    picture.save(path, "PNG")
