"""What is read of the store for the dashboard, when it is read anew, and when what was read before will do."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from types import SimpleNamespace
from typing import cast

import pytest
import redis

from gateway.admin.figures import DAYS, FRESH, Figures, Reading
from gateway.core.catalog import Settings
from gateway.ledger.redis import RedisLedger
from gateway.ledger.servers import Address
from gateway.parts import Parts
from tests.core import sample
from tests.dashboard.showing import book
from tests.support.valkey import valkey

IMAGE = ("1024x1024", "standard", 40_000)

LONG = 61.0  # seconds after which a day that may still change is looked at again


class Looking:
    """A dashboard's figures on a real store, with a clock of the test's. calls: those of the store's, by operation."""

    def __init__(self, ledger: RedisLedger, url: str) -> None:
        self.now, self.url = 0.0, url
        self.settings: Settings = sample.settings()
        parts = SimpleNamespace(ledger=ledger, settings=lambda: self.settings)
        self.figures = Figures(cast("Parts", parts), clock=lambda: self.now)

    async def images(self) -> dict[int, int]:
        """Images by how many days ago they were, of all days with any."""
        reading = await self.figures.reading()
        days = await self.figures.days(reading, list(reading.members))
        assert len(days) == DAYS
        assert list(days) == sorted(days)
        return {(max(days) - day).days: spent.images for day, spent in days.items() if spent.images}

    async def day(self, age: int) -> date:
        return max(await self.figures.days(await self.figures.reading(), ["design"])) - timedelta(days=age)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with valkey() as url:
        yield url


@pytest.fixture
def url(server: str) -> str:
    with redis.Redis.from_url(server) as store:
        store.flushall()
    return server


def looking(url: str, look: Callable[[Looking], Awaitable[None]]) -> None:
    async def work() -> None:
        ledger = RedisLedger(
            Address(url),
            namespace="gateway",
            deadline=300,
            patience=60,
            observe=lambda *_: None,
            presumed=lambda _: None,
        )
        await ledger.connect(5)
        try:
            await look(Looking(ledger, url))
        finally:
            await ledger.close()

    asyncio.run(work())


def test_a_reading_serves_whoever_asks_meanwhile(url: str) -> None:
    """All who ask within two seconds, at once or one after another, get one reading; then there is a new one."""

    async def look(at: Looking) -> None:
        first: list[Reading] = await asyncio.gather(*(at.figures.reading() for _ in range(10)))
        at.now += FRESH
        assert {id(reading) for reading in first} == {id(await at.figures.reading())}
        at.now += 0.001
        assert await at.figures.reading() is not first[0]

    looking(url, look)


def test_another_config_is_another_reading(url: str) -> None:
    """A team that was saved a moment ago is there at once."""

    async def look(at: Looking) -> None:
        assert list((await at.figures.reading()).members) == ["design"]
        at.settings = replace(at.settings, teams={**at.settings.teams, "new": replace(sample.TEAM, id="new")})
        assert list((await at.figures.reading()).members) == ["design", "new"]

    looking(url, look)


def test_days_that_may_change_are_read_anew_and_others_once(url: str) -> None:
    """What comes late to yesterday or the day before shows within a minute; a day behind them is as it was."""

    async def look(at: Looking) -> None:
        for age in range(4):
            book(at.url, "design", await at.day(age), {IMAGE: 1})
        at.now += LONG
        assert await at.images() == {0: 1, 1: 1, 2: 1}, "three days ago was read when nothing was booked"
        for age in range(4):
            book(at.url, "design", await at.day(age), {IMAGE: 10})
        at.now += FRESH + 0.1
        assert await at.images() == {0: 11, 1: 1, 2: 1}, "today is always what the reading says"
        at.now += LONG
        assert await at.images() == {0: 11, 1: 11, 2: 11}

    looking(url, look)


def test_a_team_that_has_left_is_still_summed_up(url: str) -> None:
    """Usage of a team that the config no longer has is read by the config's own days."""

    async def look(at: Looking) -> None:
        book(at.url, "former", await at.day(1), {IMAGE: 5})
        book(at.url, "design", await at.day(5), {IMAGE: 7})
        at.now += LONG
        at.figures = Figures(cast("Parts", SimpleNamespace(ledger=at.figures._ledger, settings=lambda: at.settings)))
        assert await at.images() == {1: 5, 5: 7}
        assert not (await at.figures.reading()).members["former"].known

    looking(url, look)
