"""What is said of a store's address: enough to mend it, and no word of its password."""

import asyncio
import traceback

import pytest

from gateway.core.catalog import Store
from gateway.core.secret import Secret
from gateway.ledger.servers import WrongAddress, finder

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
