"""The audit lines of reloads: what each changed, with what is used beside each rule; one for all workers."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from gateway import logs
from gateway.core.catalog import Settings
from gateway.core.changes import differences, told
from gateway.core.differences import Difference
from gateway.core.errors import StoreUnavailable
from gateway.core.quota import Rule, RuleState
from gateway.metrics import Metrics
from gateway.reloads import MOST_WORDS, Reload, Reloads

#: Seconds that a line waits for the store. Without an answer it is written all the same.
_PATIENCE = 5.0

States = Callable[[Sequence[Rule]], Awaitable[list[RuleState]]]


class Audit:
    """One worker's voice. states: how rules stand, or `StoreUnavailable`."""

    def __init__(self, reloads: Reloads, metrics: Metrics, states: States) -> None:
        self._reloads = reloads
        self._metrics = metrics
        self._states = states
        self._writing: set[asyncio.Task[None]] = set()

    def applied(self, old: Settings, new: Settings) -> None:
        """Count a change at once, and log it as soon as the store has said what is used."""
        try:
            found = differences(old, new)
            words = told(found)
        except Exception as error:  # noqa: BLE001  the change is in force, whatever keeps it from being told
            logs.fault(error, task="audit")
            found, words = [], []
        reload = self._reloads.tell(time.time(), "success", new.hash, words)
        if reload is None:
            return
        self._metrics.config_reloads.labels("success").inc()
        task = asyncio.create_task(self._write(reload, found[:MOST_WORDS], old.hash))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def refused(self, version: str, problems: Sequence[str], *, in_force: str) -> None:
        """Show that this worker is not on the file as it stands; count and log it. version: as of `Live`."""
        self._metrics.config_success.set(0)
        reload = self._reloads.tell(time.time(), "failure", version, problems)
        if reload is None:
            return
        self._metrics.config_reloads.labels("failure").inc()
        logs.refused_config(reload.version, reload.words, reload.more, in_force=in_force)

    async def written(self) -> None:
        """Until every line is out."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _write(self, reload: Reload, found: Sequence[Difference], old_hash: str) -> None:
        rules = [each.rule for each in found if each.rule is not None]
        used: dict[Rule, RuleState] = {}
        try:
            async with asyncio.timeout(_PATIENCE):
                used = dict(zip(rules, await self._states(rules), strict=True)) if rules else {}
        except (StoreUnavailable, TimeoutError):
            pass
        finally:  # the change is the news, whatever became of the question
            facts = {"config_hash": reload.version, "changes": told(found, used), "more": reload.more or None}
            logs.line("config reloaded", logging.INFO, **facts, old_hash=old_hash)
