"""The config in force in one worker. A saved change takes its place whole, or not at all.

A request keeps the version it began with. What cannot change while the gateway runs (its listeners, its store) makes
the whole new version wait for a restart. Every worker reads the same bytes by itself, so all come to the same verdict;
one that takes the place of another later begins with what the others have in force.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from gateway.config.compile import compile_settings
from gateway.config.document import Document
from gateway.config.file import parse, version
from gateway.config.problems import ConfigErrors
from gateway.config.watch import contents, read
from gateway.core.catalog import Settings
from gateway.core.changes import restart_needed

#: Seconds between two looks for a secret that was not there.
_RETRY = 2.0


class Live:
    """Call it for the settings in force. applied(old, new) and refused(problems) are told of each change of the file.

    kept: a file of the workers' own, where the bytes of the version in force are put for one that starts later.
    version: what `problems` are about, as `Settings.hash`; empty where there is no file to read.
    problems: why the file as it stands now is not in force; empty if it is.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        *,
        kept: Path,
        applied: Callable[[Settings, Settings], None],
        refused: Callable[[list[str]], None],
    ) -> None:
        self.problems: list[str] = []
        self.version = settings.hash
        self._path = path
        self._kept = kept
        self._settings = settings
        self._applied, self._refused = applied, refused
        self._considered: bytes | None = None
        self._lacking: Document | None = None  # whose secrets could not be had: what is considered, but for them
        self._retry_at = 0.0

    def __call__(self) -> Settings:
        return self._settings

    async def catch_up(self) -> None:
        """Take up what has changed since the settings were read: the version that others have in force, of which
        nothing need be said any more, then the file as it stands.
        """
        kept, data = await asyncio.to_thread(read, self._kept), await asyncio.to_thread(read, self._path)
        if kept is not None and version(kept) != self._settings.hash:
            with contextlib.suppress(Exception):  # its secrets have gone, say: the file is what counts
                in_force = await asyncio.to_thread(_compiled, kept, self._path)
                self._settings = self._settings if restart_needed(self._settings, in_force) else in_force
        elif kept is None and data is not None and version(data) == self._settings.hash:
            await asyncio.to_thread(_keep, data, self._kept)
        if data is not None:
            await self._consider(data)

    async def follow(self) -> None:
        """Until cancelled: take every change of the file up."""
        async for data in contents(self._path, again=self._is_worth_another_look):
            if data is None:
                self._considered, self._lacking, self.version = None, None, ""
                self._refuse([f"{self._path}: the file is not there or cannot be read"])
            else:
                await self._consider(data)

    async def _consider(self, data: bytes) -> None:
        if data == self._considered:
            if self._lacking is not None:
                await self._complete(data, self._lacking)
            return
        self._considered, self._lacking, self.version = data, None, version(data)
        if self.version == self._settings.hash:
            if self.problems:  # the version in force is back
                self._apply(self._settings)
            return
        try:
            # Reading YAML well takes its time, and requests are under way.
            document = await asyncio.to_thread(parse, data, self._path)
        except ConfigErrors as errors:
            self._refuse([str(problem) for problem in errors.problems])
        except Exception as error:  # noqa: BLE001  whatever a file does to its reader, the next one must be read
            self._refuse([f"{self._path}: the file cannot be read ({type(error).__name__})"])
        else:
            await self._complete(data, document)

    async def _complete(self, data: bytes, document: Document) -> None:
        """Take a file's version up if all its secrets can be had; if not, its being refused is told once."""
        lacked, self._lacking = self._lacking is not None, None
        try:
            new = await asyncio.to_thread(compile_settings, document, os.environ)
        except ConfigErrors as errors:
            self._lacking, self._retry_at = document, time.monotonic() + _RETRY
            problems = [str(problem) for problem in errors.problems]
            if not lacked or problems != self.problems:
                self._refuse(problems)
            return
        except Exception as error:  # noqa: BLE001  as above
            self._refuse([f"{self._path}: the file cannot be read ({type(error).__name__})"])
            return
        if fixed := restart_needed(self._settings, new):
            self._refuse([f"{self._path}: {', '.join(fixed)} cannot change while the gateway runs; restart it"])
            return
        await asyncio.to_thread(_keep, data, self._kept)
        self._apply(new)

    def _is_worth_another_look(self) -> bool:
        """A secret may come after the file that names it: in Kubernetes the two are mounted apart."""
        return self._lacking is not None and time.monotonic() >= self._retry_at

    def _apply(self, new: Settings) -> None:
        old, self._settings, self.problems = self._settings, new, []
        self._applied(old, new)

    def _refuse(self, problems: list[str]) -> None:
        self.problems = problems
        self._refused(problems)


def _compiled(data: bytes, path: Path) -> Settings:
    return compile_settings(parse(data, path), os.environ)


def _keep(data: bytes, path: Path) -> None:
    """All workers write the same, at the same time: each a file of its own, which takes its place whole."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a full disk must not keep a change out
        own.write_bytes(data)
        own.replace(path)
