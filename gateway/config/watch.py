"""Notices that a file may have changed, however it is replaced: in place, by a rename, by a swapped symbolic link.

The folder is watched and not the file, for a rename or Kubernetes' swap of ``..data`` never touches the file that was
opened. The only importer of watchfiles.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from watchfiles import awatch

from gateway.config.file import content

#: Seconds of quiet after which a burst of changes is one, and between two looks where none was reported.
_QUIET = 0.05
_LOOK = 1.0

#: Seconds that a file's bytes must stay the same before they are believed to be written to their end.
_SETTLED = 0.1

#: Seconds after which a file that cannot be read is no longer on its way from one version to the next.
_AWAY = 2.0


async def contents(
    path: Path,
    *,
    again: Callable[[], bool] = lambda: False,
    settled: float = _SETTLED,
    away: float = _AWAY,
    look: float = _LOOK,
) -> AsyncIterator[bytes | None]:
    """The file's bytes now, and again whenever they are others, or are asked for. Ends when its task is cancelled.

    A file that is away for a moment is waited for; None stands for one that stays away, or cannot be read. again: asked
    at each look, `look` seconds apart at most, whether the same bytes are wanted once more.
    """
    last = await asyncio.to_thread(read, path)
    if last is not None:
        yield last
    missed: float | None = None
    async for _ in _moments(path.parent, look):
        data = await asyncio.to_thread(read, path)
        if data is not None:
            missed = None
        elif missed is None:
            missed = time.monotonic()
        elif missed + away < time.monotonic():
            missed, last = math.inf, None
            yield None
        if data is None or (data == last and not again()):
            continue
        await asyncio.sleep(settled)
        if await asyncio.to_thread(read, path) == data:
            last = data
            yield data


async def _moments(folder: Path, look: float) -> AsyncIterator[None]:
    """Times at which to look: whenever something in the folder changes, and every `look` seconds all the same, for some
    file systems report nothing, and links may point elsewhere.
    """
    watch = awatch(
        folder,
        recursive=False,
        debounce=int(_QUIET * 1000),
        step=int(_QUIET * 1000),
        rust_timeout=int(look * 1000),
        yield_on_timeout=True,
        # With a filter of its own it would start the second anew at each change that it leaves out.
        watch_filter=None,
    )
    try:
        async for _ in watch:
            yield
    except Exception:  # noqa: BLE001, S110  no such folder, no watches left on this host: looking still works
        pass
    while True:
        yield
        await asyncio.sleep(look)


def read(path: Path) -> bytes | None:
    """As much of a file's bytes as matters; None if it cannot be read."""
    try:
        return content(path)
    except OSError:
        return None
