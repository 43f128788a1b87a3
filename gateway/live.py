"""The config in force in one worker. A saved change takes its place whole, or not at all.

A request keeps the version it began with. What cannot change while the gateway runs (its listeners, its store) makes
the whole new version wait for a restart. Every worker reads the same bytes by itself, so all come to the same verdict.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from gateway.config.compile import compile_settings
from gateway.config.file import parse
from gateway.config.problems import ConfigErrors
from gateway.config.watch import contents
from gateway.core.catalog import Settings


class Live:
    """Call it for the settings in force. applied(old, new) and refused(problems) are told of each change of the file.

    problems: why the file as it stands now is not in force; empty if it is.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        *,
        applied: Callable[[Settings, Settings], None],
        refused: Callable[[list[str]], None],
    ) -> None:
        self.problems: list[str] = []
        self._path = path
        self._settings = settings
        self._applied, self._refused = applied, refused

    def __call__(self) -> Settings:
        return self._settings

    async def follow(self) -> None:
        """Until cancelled: take every change of the file up."""
        async for data in contents(self._path):
            await self._consider(data)

    async def _consider(self, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest().startswith(self._settings.hash):
            self.problems = []  # the version in force is back, or was never away
            return
        try:
            # Reading YAML well takes its time, and requests are under way.
            new = await asyncio.to_thread(_compiled, data, self._path)
        except ConfigErrors as errors:
            self._refuse([str(problem) for problem in errors.problems])
            return
        if fixed := restart_needed(self._settings, new):
            self._refuse([f"{self._path}: {', '.join(fixed)} cannot change while the gateway runs; restart it"])
            return
        old, self._settings, self.problems = self._settings, new, []
        self._applied(old, new)

    def _refuse(self, problems: list[str]) -> None:
        self.problems = problems
        self._refused(problems)


def restart_needed(old: Settings, new: Settings) -> list[str]:
    """The sections that differ and that only a restart can change."""
    return [name for name in ("listen", "store") if getattr(old, name) != getattr(new, name)]


def _compiled(data: bytes, path: Path) -> Settings:
    return compile_settings(parse(data, path), os.environ)
