"""A file is noticed however it is replaced, and what is half written is believed by nobody."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.config.watch import contents

#: Seconds in which a change has to be seen: the contract's two, and as much again for a machine that does much else.
PROMPT = 4.0

Seen = asyncio.Queue[bytes | None]


@contextlib.asynccontextmanager
async def watched(path: Path, *, settled: float = 0.1, away: float = 2.0, look: float = 1.0) -> AsyncIterator[Seen]:
    """What is seen of the file while the block runs."""
    seen: Seen = asyncio.Queue()

    async def follow() -> None:
        async for data in contents(path, settled=settled, away=away, look=look):
            seen.put_nowait(data)

    task = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def soon(seen: Seen, limit: float = PROMPT) -> bytes | None:
    async with asyncio.timeout(limit):
        return await seen.get()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


def in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def renamed(path: Path, data: bytes) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(data)
    other.rename(path)


def put_back(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def hard_linked(path: Path, data: bytes) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(data)
    path.unlink()
    path.hardlink_to(other)


def by_the_size_alone(path: Path, data: bytes) -> None:
    """The time of the change is put back, as some copying programs do."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


WAYS = [in_place, renamed, put_back, hard_linked, by_the_size_alone]


@pytest.mark.parametrize("replace", WAYS, ids=lambda way: way.__name__)
def test_a_change_is_seen_however_it_is_made(tmp_path: Path, replace: Callable[[Path, bytes], None]) -> None:
    """The bytes at the start come first, then each new ones within two seconds, and nothing else."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"one")

    async def test() -> None:
        async with watched(path) as seen:
            assert await soon(seen) == b"one"
            for data in (b"two", b"one"):
                replace(path, data)
                assert await soon(seen) == data
            assert seen.empty()

    run(test)


def test_a_swap_of_kubernetes_folder_is_seen(tmp_path: Path) -> None:
    """A mounted ConfigMap's file is a link into ``..data``, which is a link to a dated folder that is swapped."""
    path = tmp_path / "config.yaml"

    def publish(name: str, data: bytes) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_bytes(data)
        (tmp_path / "..data_tmp").symlink_to(name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    async def test() -> None:
        publish("..2026_01", b"one")
        path.symlink_to("..data/config.yaml")
        async with watched(path) as seen:
            assert await soon(seen) == b"one"
            publish("..2026_02", b"two")
            assert await soon(seen) == b"two"
            publish("..2026_03", b"three")
            assert await soon(seen) == b"three"

    run(test)


def test_a_link_to_a_file_elsewhere_is_followed(tmp_path: Path) -> None:
    """The file that a link points to may be replaced in its own folder, where nobody watches."""
    path, elsewhere = tmp_path / "here" / "config.yaml", tmp_path / "elsewhere" / "config.yaml"
    for each in (path, elsewhere):
        each.parent.mkdir()
    elsewhere.write_bytes(b"one")
    path.symlink_to(elsewhere)

    async def test() -> None:
        async with watched(path) as seen:
            assert await soon(seen) == b"one"
            renamed(elsewhere, b"two")
            assert await soon(seen) == b"two"

    run(test)


def test_nothing_in_between_is_believed(tmp_path: Path) -> None:
    """While a writer goes on writing nothing is seen; when it has ended the whole is, once."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"one")

    async def test() -> None:
        async with watched(path, settled=1.0) as seen:
            assert await soon(seen) == b"one"
            with path.open("wb") as file:
                for _ in range(40):
                    file.write(b"line\n")
                    file.flush()
                    await asyncio.sleep(0.01)
                    assert seen.empty()
            assert await soon(seen, 5.0) == b"line\n" * 40
            assert seen.empty()

    run(test)


def test_a_file_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """Deleted and put back as it was, a file is not seen at all."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"one")

    async def test() -> None:
        async with watched(path, look=0.2) as seen:
            assert await soon(seen) == b"one"
            path.unlink()
            await asyncio.sleep(0.2)
            path.write_bytes(b"one")
            with pytest.raises(TimeoutError):
                await soon(seen, 0.6)

    run(test)


def test_a_file_that_stays_away_is_told_once(tmp_path: Path) -> None:
    """A file that cannot be read for some seconds is None, once; put back, it is seen even if it is the old one."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"one")

    async def test() -> None:
        async with watched(path, away=0.1, look=0.2) as seen:
            assert await soon(seen) == b"one"
            path.unlink()
            assert await soon(seen, 5.0) is None
            path.mkdir()
            with pytest.raises(TimeoutError):
                await soon(seen, 0.6)
            path.rmdir()
            path.write_bytes(b"one")
            assert await soon(seen) == b"one"

    run(test)


def test_a_folder_that_comes_late_or_is_replaced_is_looked_into(tmp_path: Path) -> None:
    """Where nothing can be watched the file is looked at every second: the folder need not be there, nor stay."""
    folder = tmp_path / "conf"
    path = folder / "config.yaml"

    async def test() -> None:
        async with watched(path, away=0.1, look=0.2) as seen:
            assert await soon(seen, 5.0) is None
            folder.mkdir()
            path.write_bytes(b"one")
            assert await soon(seen) == b"one"
        async with watched(path, look=0.2) as seen:
            assert await soon(seen) == b"one"
            folder.rename(tmp_path / "old")
            folder.mkdir()
            path.write_bytes(b"two")
            assert await soon(seen) == b"two"

    run(test)


def test_noise_in_the_folder_hides_no_change(tmp_path: Path) -> None:
    """Files that others write without a pause, of kinds that watchers like to ignore, delay nothing."""
    folder = tmp_path / "__pycache__"
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_bytes(b"one")

    async def noise() -> None:
        while True:
            (folder / ".config.yaml.swp").write_bytes(os.urandom(8))
            await asyncio.sleep(0.01)

    async def test() -> None:
        noisy = asyncio.create_task(noise())
        async with watched(path) as seen:
            assert await soon(seen) == b"one"
            path.write_bytes(b"two")
            assert await soon(seen) == b"two"
            assert seen.empty()
        noisy.cancel()

    run(test)


def test_a_pipe_in_the_files_place_holds_nobody_up(tmp_path: Path) -> None:
    """One that nobody writes into is a file without content, and the next file is seen."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"one")

    async def test() -> None:
        async with watched(path) as seen:
            assert await soon(seen) == b"one"
            pipe = tmp_path / "pipe"
            os.mkfifo(pipe)
            pipe.rename(path)
            assert await soon(seen) == b""
            other = tmp_path / "other"
            other.write_bytes(b"two")
            other.rename(path)
            assert await soon(seen) == b"two"

    run(test)


def test_it_ends_promptly(tmp_path: Path) -> None:
    """A worker that leaves does not wait for its watch."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"one")

    async def test() -> None:
        async with watched(path, look=30.0) as seen:
            await soon(seen)
            path.write_bytes(b"two")
            await soon(seen)
            began = time.monotonic()
        assert time.monotonic() - began < 5

    run(test)
