"""What is said of a store's address: enough to mend it, and no word of its password."""

import asyncio
import traceback
from dataclasses import replace

import pytest

from gateway.core.catalog import Store
from gateway.core.secret import Secret
from gateway.ledger.servers import WrongAddress, finder, is_open

CANARY = "pw0CANARY0pw"


def store(kind: str) -> Store:
    return Store(
        kind=kind,  # type: ignore[arg-type]
        url=Secret("redis://"),
        sentinel_name="mymaster",
        sentinel_nodes=(("127.0.0.1", 1),),
        data_dir="/nowhere",
        namespace="gateway",
        when_down="deny",
    )


@pytest.mark.parametrize("kind", ["redis", "sentinel", "cluster"])
@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{CANARY}#x@127.0.0.1:1/0",
        f"redis://:{CANARY}/x@127.0.0.1:1/0",
        f"redis://:{CANARY}?x@127.0.0.1:1/0",
        f"redis://[{CANARY}@127.0.0.1:1/0",
        f"rediss://:p@127.0.0.1:1/0?ssl_cert_reqs={CANARY}",
        f"redis://:p@127.0.0.1:1/0?socket_timeout={CANARY}",
    ],
)
def test_a_malformed_address_is_told_without_its_words(url: str, kind: str) -> None:
    """A password whose / # or ? were not escaped makes an odd port or option; the message repeats none of it."""
    with pytest.raises(WrongAddress) as caught:
        finder(store(kind), url)
    assert "%2F" in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", [f"redis://:{CANARY}@127.0.0.1:1/0", f"unix://user:{CANARY}@/run/store.sock"])
def test_a_servers_repr_holds_no_login(url: str) -> None:
    """What is said first on a connection has the password in it, so it stands in no repr."""
    server = asyncio.run(finder(store("redis"), url).find())
    assert CANARY in repr(server.login)
    assert CANARY not in repr(server)


@pytest.mark.parametrize(
    ("kind", "url", "expected"),
    [
        ("redis", "redis://store.internal:6379/0", True),
        ("redis", "rediss://store.internal", True),
        ("redis", "redis://10.0.0.7", True),
        ("cluster", "redis://[2001:db8::1]:7000", True),
        ("redis", "redis://:p@store.internal", False),
        ("redis", "redis://user:p@10.0.0.7", False),
        ("redis", "rediss://store.internal?ssl_certfile=/a&ssl_keyfile=/b", False),
        ("redis", "redis://127.0.0.1:6379", False),
        ("redis", "redis://localhost", False),
        ("cluster", "redis://[::1]:7000", False),
        ("redis", "unix:///run/store.sock", False),
        ("embedded", "unix:///run/store.sock", False),
        ("sentinel", None, False),
    ],
)
def test_a_store_is_open_that_others_reach_and_that_asks_for_nothing(
    kind: str, url: str | None, expected: bool
) -> None:
    """With TLS or not: a server's certificate says who the store is, and only a client's who may ask it."""
    assert is_open(store(kind), url) is expected


def test_a_master_is_as_open_as_its_sentinels_are_far() -> None:
    """Where they run on other hosts, so may the master that they name; its password stands in the URL."""
    far = replace(store("sentinel"), sentinel_nodes=(("127.0.0.1", 1), ("sentinel-2.internal", 26379)))
    assert is_open(far, None)
    assert is_open(far, "redis://")
    assert not is_open(far, "redis://:p@")
