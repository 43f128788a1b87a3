"""A throw-away Valkey for tests: a real server, started in a twentieth of a second, gone with the block."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.ledger.embedded import EmbeddedStore


@contextmanager
def valkey() -> Iterator[str]:
    """The ``unix://`` URL of an empty server of its own."""
    with TemporaryDirectory(prefix="gateway-valkey-") as data_dir, EmbeddedStore(Path(data_dir)) as store:
        yield store.url
