"""How a command reaches the store that the config names, beside the gateways that run on it.

It only asks and tells: it renews no lease, presumes nothing, and does not count as a gateway that is there.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import typer

if TYPE_CHECKING:
    from gateway.config.document import Document
    from gateway.core.catalog import Store
    from gateway.ledger.redis import RedisLedger
    from gateway.ledger.servers import Finder

T = TypeVar("T")


class Unreachable(Exception):
    """The store cannot be had; the words say why, for people."""


def ask(document: "Document", work: "Callable[[RedisLedger], Awaitable[T]]") -> T:
    """What `work` gives of the store's ledger; an end with the reason where the store cannot be had.

    `work` asks its `administration(probing=True)` first, which finds the store.
    """
    try:
        return reach(document, work)
    except Unreachable as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


def reach(document: "Document", work: "Callable[[RedisLedger], Awaitable[T]]") -> T:
    """The same for a command that goes on without the store. Raises Unreachable."""
    from gateway.config.compile import compile_store
    from gateway.config.problems import ConfigErrors

    try:
        store = compile_store(document, os.environ)
    except ConfigErrors as error:
        raise Unreachable(str(error)) from error
    return asyncio.run(_asked(store, _way_to(store), work))


async def _asked(store: "Store", way: "Finder", work: "Callable[[RedisLedger], Awaitable[T]]") -> T:
    from gateway.core.errors import StoreUnavailable
    from gateway.ledger.redis import RedisLedger

    ledger = RedisLedger(
        way,
        namespace=store.namespace,
        deadline=0.0,
        patience=0.0,
        observe=lambda *_: None,
        presumed=lambda _: None,
    )
    try:
        return await work(ledger)
    except StoreUnavailable as error:
        how = "refuses its user a command that is needed" if "NOPERM" in ledger.trouble else "cannot be reached"
        raise Unreachable(f"The store (kind {store.kind}) {how}: {ledger.trouble}.") from error
    finally:
        await ledger.close()


def _way_to(store: "Store") -> "Finder":
    from gateway.ledger.servers import WrongAddress, finder
    from gateway.ledger.valkey import find_socket

    url = store.url.reveal() if store.url is not None else None
    if store.kind == "embedded":
        socket = find_socket(Path(store.data_dir))
        if socket is None:
            raise Unreachable(
                f"The embedded store of {store.data_dir} does not run here: it runs while its gateway does. "
                "Call this on the gateway's host, as its user."
            )
        url = f"unix://{quote(str(socket))}"
    try:
        return finder(store, url)
    except WrongAddress as error:
        raise Unreachable(str(error)) from error
