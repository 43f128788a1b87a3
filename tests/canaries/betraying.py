"""A gateway with a fault of its own in the middle of its path, whose errors say all that was at hand.

    python -m tests.canaries.betraying [aloud] serve --config config.yaml

is the real gateway, but that a generation whose prompt says "explode" breaks it in every way Python has: an exception
with a cause, a background task that nobody waits for, a callback with arguments, a library that logs what it caught,
a thread, a finalizer.
aloud: it logs the words as well, as the gateway never does, so that whoever searches its log must find them.
"""

import asyncio
import logging
import sys
import threading
from typing import NoReturn

import httpx

from gateway import app, logs
from gateway.answer import Progress
from gateway.cli.main import main
from gateway.upstream import Upstream

ALOUD = sys.argv[1:2] == ["aloud"]


class Betraying(Upstream):
    async def send(self, request: httpx.Request, progress: Progress) -> httpx.Response:
        if isinstance(request.stream, httpx.ByteStream):
            body = b"".join(request.stream)
            if b"explode" in body:
                _explode(f"{request.url} {request.headers.raw} {body!r}")
        return await super().send(request, progress)


def _explode(words: str) -> NoReturn:
    if ALOUD:
        logs.line("betrayed", words=words)
    loop = asyncio.get_running_loop()
    loop.call_soon(_fail, words)
    threading.Thread(target=_fail, args=(words,), name=words).start()
    _Finalized().words = words
    loop.create_task(_failing(words))  # noqa: RUF006  nobody waits for it, and its end is told by the loop alone
    try:
        _fail(words)
    except ValueError as error:
        logging.getLogger("library").exception("something broke")
        raise RuntimeError(words) from error


class _Finalized:
    words = ""

    def __del__(self) -> None:
        _fail(self.words)


def _fail(words: str) -> NoReturn:
    raise ValueError(words)


async def _failing(words: str) -> NoReturn:
    _fail(words)


if __name__ == "__main__":
    if ALOUD:
        del sys.argv[1]
    setattr(app, "Upstream", Betraying)  # noqa: B010  a class is not for assigning to
    main()
