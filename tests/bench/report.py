"""The tables: medians over the rounds with their spread, and ratios taken pair by pair within a round."""

import statistics
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from tests.bench.measure import Results, Sample
from tests.bench.memory import IN_FLIGHT, Memory
from tests.bench.scenarios import Scenario


def spread(values: Sequence[float], form: str) -> str:
    """Median (least..most)."""
    low, middle, high = (format(f(values), form) for f in (min, statistics.median, max))
    return f"{middle} ({low}..{high})" if len(values) > 1 else middle


def ratios(ours: Sequence[Sample], peer: Sequence[Sample], of: Callable[[Sample], float]) -> list[float]:
    """Ours over the peer's, of the same round."""
    return [of(mine) / of(other) for mine, other in zip(ours, peer, strict=True)]


def table(scenario: Scenario, connections: Sequence[int], names: Sequence[str], results: Results) -> Table:
    large = scenario.payload > 0
    unit, scale = ("ms", 1000.0) if large else ("us", 1.0)
    shown = Table(title=scenario.title, title_justify="left", title_style="bold")
    shown.add_column("conn", justify="right")
    shown.add_column("variant")
    for heading in (
        "MB/s" if large else "requests/s",
        f"p50 {unit}",
        "added",
        f"p99 {unit}",
        "added",
        "CPU us/request",
        "store's",
        "RSS MB",
        "ours : this, speed",
        "CPU",
        "others on core",
    ):
        shown.add_column(heading, justify="right")
    for count in connections:
        base = results[scenario.title, count, "direct"]
        mine = results[scenario.title, count, "ours"]
        for name in names:
            rows = results[scenario.title, count, name]
            added50 = [row.p50 - plain.p50 for row, plain in zip(rows, base, strict=True)]
            added99 = [row.p99 - plain.p99 for row, plain in zip(rows, base, strict=True)]
            gateway, peer = name != "direct", name not in ("direct", "ours")
            shown.add_row(
                str(count),
                name,
                spread([row.rate for row in rows], ".0f"),
                _time([row.p50 for row in rows], scale),
                _time(added50, scale) if gateway else "",
                _time([row.p99 for row in rows], scale),
                _time(added99, scale) if gateway else "",
                spread([row.cpu for row in rows], ".0f") if gateway else "",
                f"{statistics.median(row.store for row in rows):.0f}" if any(row.store for row in rows) else "",
                f"{statistics.median(row.rss for row in rows):.0f}" if gateway else "",
                spread(ratios(mine, rows, _rate), ".3g") if name != "ours" else "",
                spread(ratios(mine, rows, _cpu), ".3g") if peer else "",
                f"{statistics.median(row.others for row in rows):.0%}" if gateway else "",
            )
        shown.add_section()
    return shown


def _time(micros: Sequence[float], scale: float) -> str:
    return format(statistics.median(micros) / scale, ".1f" if scale > 1 else ".0f")


def memory_table(rows: Sequence[Memory]) -> Table:
    title = f"our memory with {IN_FLIGHT} in flight, MB of RSS without the store"
    shown = Table(title=title, title_justify="left", title_style="bold")
    shown.add_column("what")
    for heading in ("before", "held", "peak", "after", "growth each"):
        shown.add_column(heading, justify="right")
    for row in rows:
        figures = (row.before, row.held, row.peak, row.after)
        shown.add_row(row.what, *(f"{figure:.0f}" for figure in figures), f"{row.growth:.2f}")
    return shown


def targets(results: Results, memory: Sequence[Memory]) -> list[str]:
    """What is to be reached, in ratios: absolute figures mean little on shared machines."""
    said = []
    for title, count, peer, least in (
        ("generations", 16, "LiteLLM", 30.0),
        ("generations", 16, "LiteLLM+limits", 30.0),
        ("edits of 2.1 MB", 16, "nginx", 0.5),
        ("edits of 4 MiB", 16, "nginx", 0.5),
    ):
        mine, other = results.get((title, count, "ours")), results.get((title, count, peer))
        if mine and other:
            speed, cpu = (statistics.median(ratios(mine, other, of)) for of in (_rate, _cpu))
            word = _word(reached=speed >= least)
            said.append(
                f"{title}, {count} connections: {speed:.3g} x {peer} (by CPU time {1 / cpu:.3g}), "
                f"to reach {least:g}: {word}"
            )
    said += [
        f"{row.what}: {row.growth:.2f} MB each, to stay under 1: {_word(reached=row.growth < 1)}" for row in memory
    ]
    return said


def _rate(sample: Sample) -> float:
    return sample.rate


def _cpu(sample: Sample) -> float:
    return sample.cpu


def _word(*, reached: bool) -> str:
    return "reached" if reached else "NOT reached"


def console() -> Console:
    """Wide, so that a table in a pipe is not folded."""
    return Console(width=190, soft_wrap=True)
