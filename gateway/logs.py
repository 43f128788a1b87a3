"""One JSON line for each request, pretty on a terminal. The only importer of structlog.

What must never be printed has no way here: a line is made of named facts alone, never of headers, bodies or
exceptions' words. A traceback of our own fault shows places, not values.
"""

import asyncio
import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

#: One for all lines, for each request writes one: it is put together when it is first used.
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class _Output:
    """Where a line of JSON is written; nowhere on a terminal, whose lines are no JSON."""

    write: Callable[[bytes], None] | None = None


_output = _Output()


def configure() -> None:
    """JSON lines on standard output, or colours where that is a terminal; other libraries' words the same way."""
    tty = sys.stdout.isatty()
    lines = structlog.BytesLoggerFactory()
    stamp: list[Processor] = [structlog.processors.TimeStamper(fmt="iso", key="ts"), structlog.processors.add_log_level]
    renderer: Processor = structlog.dev.ConsoleRenderer() if tty else structlog.processors.JSONRenderer()
    quick: Processor = renderer if tty else structlog.processors.JSONRenderer(orjson.dumps)
    structlog.configure(
        processors=[*stamp, quick],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout) if tty else lines,
        cache_logger_on_first_use=True,
    )
    _output.write = None if tty else lines().msg
    foreign = logging.StreamHandler(sys.stdout)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*stamp, _named],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_exception, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [foreign]
    root.setLevel(logging.INFO)
    # It tells of every file that changes, and the log may be one of them.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)


def line(event: str, level: int = logging.INFO, **facts: object) -> None:
    """Say one thing with its facts. Facts that are None are left out."""
    with contextlib.suppress(OSError):  # a full disk costs the line, and nothing that it tells of
        _log.log(level, event, **{name: fact for name, fact in facts.items() if fact is not None})


def refused_config(version: str, problems: Sequence[str], more: int, *, in_force: str) -> None:
    """version, in_force: hashes of files. more: problems that are left out."""
    facts = {"file_hash": version, "problems": problems, "more": more or None, "in_force": in_force}
    line("config refused, the old one stays", logging.ERROR, **facts)


def request(facts: Mapping[str, object]) -> None:
    """Say what became of a request. Facts that are None are left out."""
    told = {name: fact for name, fact in facts.items() if fact is not None}
    with contextlib.suppress(OSError):  # as above
        if _output.write is None:
            _log.info("request", **told)
        else:
            # This line is on each request's path: it looks like all others, but goes through no list of processors.
            stamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            _output.write(orjson.dumps(told | {"event": "request", "ts": stamp, "level": "info"}))


def fault(error: BaseException, **facts: object) -> None:
    """Our own fault: its kind and its places, but not its words, which may hold what a request brought."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    causes: list[str] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and len(causes) < 5:
        causes.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    line("fault", logging.ERROR, error=type(error).__name__, causes=causes or None, places=places[-12:], **facts)


def keep_words_in(loop: asyncio.AbstractEventLoop) -> None:
    """Have what nobody caught told as a fault, be it in a callback or a task of the loop, in a thread or a finalizer.

    Python's own hooks would write the error's words, and the callback's arguments.
    """
    loop.set_exception_handler(_uncaught)
    threading.excepthook = lambda told: _told(told.exc_value, "thread")
    sys.unraisablehook = lambda told: _told(told.exc_value, "finalizer")


def _uncaught(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    error = context.get("exception")
    if error is None:
        line("fault", logging.ERROR, error=str(context.get("message", "")).partition("\n")[0], task="event loop")
    _told(error, "event loop")


def _told(error: BaseException | None, task: str) -> None:
    if error is not None:
        fault(error, task=task)


def _named(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["logger"] = record.name
    return event


def _without_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Of another library's exception the kind and the places, for its words and locals may hold secrets."""
    info = event.pop("exc_info", None)
    if isinstance(info, tuple) and info[0] is not None:
        event["error"] = info[0].__name__
        event["places"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(info[2])][-12:]
    return event
