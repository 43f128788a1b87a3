"""Live: which version of the config is in force, and what is said of one that is not. The file is a real one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.config.compile import compile_settings
from gateway.config.file import load
from gateway.core.catalog import Settings
from gateway.core.changes import restart_needed
from gateway.live import Live

CONFIG = """\
contact: {contact}
listen: {{admin_token: "file:{folder}/token"}}
upstream: {{accounts: [{{name: main, api_key: "file:{folder}/key"}}]}}
store: {{kind: {kind}}}
models: {{dall-e-3: {{}}}}
"""


@dataclass(slots=True)
class Site:
    """A config's folder, and what its Live has told."""

    folder: Path
    applied: list[tuple[str, str]] = field(default_factory=list)
    refused: list[list[str]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def kept(self) -> Path:
        return self.folder / "run" / "in-force.yaml"

    def write(self, contact: str = "one@example.com", kind: str = "embedded") -> None:
        self.path.write_text(CONFIG.format(contact=contact, kind=kind, folder=self.folder), "utf-8")

    def read(self) -> Settings:
        return compile_settings(load(self.path), {})

    def live(self, settings: Settings | None = None) -> Live:
        def applied(old: Settings, new: Settings) -> None:
            self.applied.append((old.contact, new.contact))

        return Live(self.path, settings or self.read(), kept=self.kept, applied=applied, refused=self.refused.append)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.kept.parent.mkdir()
    (tmp_path / "token").write_text("t" * 32)
    (tmp_path / "key").write_text("k" * 32)
    made.write()
    return made


@contextlib.asynccontextmanager
async def following(live: Live) -> AsyncIterator[None]:
    task = asyncio.create_task(live.follow())
    try:
        yield
    finally:
        assert not task.done(), "it has stopped looking"
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  the file system tells of no event
            await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


def test_a_saved_change_takes_the_old_ones_place(site: Site) -> None:
    """What is in force changes as a whole, and the old version stays with whoever holds it."""
    live = site.live()

    async def test() -> None:
        async with following(live):
            held = live()
            site.write("two@example.com")
            await until(lambda: live().contact == "two@example.com")
            assert held.contact == "one@example.com"
            assert site.applied == [("one@example.com", "two@example.com")]
            assert (live.problems, site.refused) == ([], [])

    run(test)


def test_a_change_whose_secret_comes_later_is_taken_up_then(site: Site) -> None:
    """It is refused, again only where what it lacks is another thing, and in force soon after all is there."""
    live, key = site.live(), site.folder / "key"

    async def test() -> None:
        async with following(live):
            secret = key.read_text()
            key.unlink()
            site.write("two@example.com")
            await until(lambda: site.refused)
            key.write_text("")
            await until(lambda: len(site.refused) == 2)
            key.write_text(secret)
            await until(lambda: live().contact == "two@example.com")
            assert (len(site.refused), live.problems) == (2, [])
            key.unlink()
            site.write("three@example.com")
            await until(lambda: len(site.refused) == 3)
            site.write("two@example.com")
            await until(lambda: not live.problems)
            assert (len(site.refused), live().contact) == (3, "two@example.com")

    run(test)


def test_a_wrong_file_changes_nothing_and_its_end_is_told(site: Site) -> None:
    """All of its problems are told with their places; when the version in force is back that is told as well."""
    live = site.live()

    async def test() -> None:
        async with following(live):
            site.path.write_text("store: {kind: nothing}\nextra: 1\n")
            await until(lambda: site.refused)
            assert live().contact == "one@example.com"
            assert live.problems == site.refused[0]
            assert len(live.problems) > 1
            assert all(problem.startswith(f"{site.path}:") for problem in live.problems)
            site.write()
            await until(lambda: site.applied)
            assert live.problems == []
            assert site.applied == [("one@example.com", "one@example.com")]

    run(test)


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"[" * 300, b"a: &a [*a, *a]", b"x" * 2_000_000, b"\0", b"? "])
def test_no_file_ends_the_looking(site: Site, text: bytes) -> None:
    """Whatever stands in the file, it is refused with a reason, and the next good one is taken."""
    live = site.live()

    async def test() -> None:
        async with following(live):
            site.path.write_bytes(text)
            await until(lambda: site.refused)
            assert live.problems
            site.write("two@example.com")
            await until(lambda: live().contact == "two@example.com")
            assert live.problems == []

    run(test)


def test_sections_that_need_a_restart_are_named(site: Site) -> None:
    """A version with another store is refused whole, also the part of it that could change."""
    live = site.live()

    async def test() -> None:
        async with following(live):
            text = site.path.read_text().replace("kind: embedded", "kind: embedded, namespace: second")
            site.path.write_text(text.replace("one@", "two@").replace("listen: {", "listen: {workers: 7, "))
            await until(lambda: site.refused)
            assert live.problems == [f"{site.path}: listen, store cannot change while the gateway runs; restart it"]
            assert live().contact == "one@example.com"

    run(test)


def test_secrets_are_read_again_with_a_change(site: Site) -> None:
    """With a saved change keys at the upstream and the admin token are taken from their files anew."""
    live = site.live()

    async def test() -> None:
        async with following(live):
            (site.folder / "key").write_text("K" * 32)
            (site.folder / "token").write_text("T" * 32)
            site.write("two@example.com")
            await until(lambda: site.applied or site.refused)
            assert site.refused == []
            assert live().upstream.accounts[0].api_key.reveal() == "K" * 32
            token = live().listen.admin_token
            assert token is not None
            assert token.reveal() == "T" * 32

    run(test)


def test_a_secret_that_is_missing_refuses_the_change(site: Site) -> None:
    """A change whose secrets cannot be read is refused whole, with the file's name and nothing of a secret."""
    live = site.live()

    async def test() -> None:
        async with following(live):
            (site.folder / "key").unlink()
            site.write("two@example.com")
            await until(lambda: site.refused)
            assert live().upstream.accounts[0].api_key.reveal() == "k" * 32
            assert str(site.folder / "key") in live.problems[0]

    run(test)


def test_a_new_worker_begins_with_the_file_as_it_is(site: Site) -> None:
    """What the master read long ago does not count where the file has changed since."""
    old = site.read()
    site.write("two@example.com")
    live = site.live(old)

    async def test() -> None:
        await live.catch_up()
        assert live().contact == "two@example.com"
        async with following(live):
            site.write("three@example.com")
            await until(lambda: live().contact == "three@example.com")
        assert [new for _, new in site.applied] == ["two@example.com", "three@example.com"]

    run(test)


def test_a_new_worker_beside_a_wrong_file_begins_with_the_last_good_one(site: Site) -> None:
    """It comes up with what its siblings have in force, not with what the master read, and knows what is wrong."""
    old = site.read()
    sibling = site.live(old)

    async def test() -> None:
        async with following(sibling):
            site.write("two@example.com")
            await until(lambda: sibling().contact == "two@example.com")
            site.path.write_text("store: {kind: nothing}\n")
            await until(lambda: sibling.problems)
        live = site.live(old)
        await live.catch_up()
        assert live().contact == "two@example.com"
        assert live.problems == sibling.problems
        told = len(site.refused)
        async with following(live):
            site.write("three@example.com")
            await until(lambda: live().contact == "three@example.com")
        assert len(site.refused) == told, "the same bytes are refused once"

    run(test)


def test_rotated_secrets_are_no_change_of_the_listeners(site: Site) -> None:
    """The admin token is read for each request, so it may change while the gateway runs; its port may not."""
    old = site.read()
    (site.folder / "token").write_text("T" * 32)
    assert restart_needed(old, site.read()) == []
    site.path.write_text(site.path.read_text().replace("listen: {", "listen: {admin: 127.0.0.1:9999, "))
    assert restart_needed(old, site.read()) == ["listen"]


def test_a_new_worker_says_what_is_new_since_the_version_of_the_others(site: Site) -> None:
    """After a hangup it is given the file as it is, which the others never had in force: that change is told."""
    first = site.live()

    async def test() -> None:
        await first.catch_up()
        site.write("two@example.com")
        live = site.live(site.read())
        await live.catch_up()
        assert live().contact == "two@example.com"
        assert site.applied == [("one@example.com", "two@example.com")]

    run(test)


def test_a_rotated_password_of_the_store_holds_nothing_back(site: Site) -> None:
    """A change that is saved after the store's password was rotated takes effect; one to another store does not."""
    (site.folder / "store").write_text("redis://gateway:old@store:6379")
    text = site.path.read_text().replace("kind: embedded", f'kind: redis, url: "file:{site.folder}/store"')
    site.path.write_text(text)
    live = site.live()

    async def test() -> None:
        async with following(live):
            (site.folder / "store").write_text("redis://gateway:new@store:6379")
            site.path.write_text(text.replace("one@", "two@"))
            await until(lambda: site.applied or site.refused)
            assert site.applied == [("one@example.com", "two@example.com")]
            (site.folder / "store").write_text("redis://gateway:new@elsewhere:6379")
            site.path.write_text(text.replace("one@", "three@"))
            await until(lambda: site.refused)
            assert live().contact == "two@example.com"
            assert "elsewhere" not in str(site.refused)

    run(test)
