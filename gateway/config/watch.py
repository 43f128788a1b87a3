"""Notices that a file may have changed, however it is replaced: in place, by a rename, by a swapped symbolic link.

The folder is watched and not the file, for a rename or Kubernetes' swap of ``..data`` never touches the file that was
opened. The only importer of watchfiles.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import awatch

#: Milliseconds of quiet after which a burst of changes is one, and between two looks where none was reported.
_QUIET = 50
_LOOK = 1000

#: Seconds that a file's bytes must stay the same before they are believed to be written to their end.
_SETTLED = 0.1


async def contents(path: Path) -> AsyncIterator[bytes]:
    """The file's bytes now, and again whenever they are others. Ends when its task is cancelled.

    Some file systems report nothing, so a look is taken every second all the same. A file that is away for a moment
    is waited for.
    """
    last = await asyncio.to_thread(_read, path)
    if last is not None:
        yield last
    watch = awatch(
        path.parent, recursive=False, debounce=_QUIET, step=_QUIET, rust_timeout=_LOOK, yield_on_timeout=True
    )
    async for _ in watch:
        data = await asyncio.to_thread(_read, path)
        if data is None or data == last:
            continue
        await asyncio.sleep(_SETTLED)
        again = await asyncio.to_thread(_read, path)
        if again == data:
            last = data
            yield data


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
