"""What a request in flight costs in memory: our RSS with 64 of them at once, against itself before."""

import contextlib
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.bench import client
from tests.bench.client import Connection, LoadError, Request
from tests.bench.processes import Tree
from tests.bench.scenarios import edit, generation
from tests.bench.upstream import Upstream
from tests.bench.variants import Variant, ours

IN_FLIGHT = 64
_IMAGE = 4 * 1024 * 1024
_LAST = 64 * 1024  #: bytes of an upload that are held back, so that all are in flight at once
_TIMES = 3
_LIMIT = 30.0
_STILL = 0.5  #: seconds without progress after which nothing more will move

#: Brings the requests in flight, holds them there, tells the RSS, and brings them to their end.
_Scene = Callable[[Upstream, Variant, Tree], float]


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes of all of the gateway's processes but the store: before, with all in flight (the last time), the peak,
    and after. Each is brought about several times, which shows what is kept for good.
    """

    what: str
    before: float
    held: float
    peak: float
    after: float

    @property
    def growth(self) -> float:
        """Megabytes for each request in flight, at the peak."""
        return (self.peak - self.before) / IN_FLIGHT


def measure(upstream: Upstream) -> Iterator[Memory]:
    """Each on a gateway of its own that has served some requests, so that what is loaded once is there."""
    yield _measured(upstream, "edits of 4 MiB, all but the end sent", _uploads)
    yield _measured(upstream, "edits of 4 MiB, the upstream stalled", _stalled_uploads)
    yield _measured(upstream, "answers of 4 MiB, nobody reading", _unread_answers)


def _measured(upstream: Upstream, what: str, scene: _Scene) -> Memory:
    with ours(upstream) as variant:
        assert variant.tree is not None
        tree, port = variant.tree, variant.ports["edits"]
        for request in (generation(variant.key), edit(variant.key, _IMAGE), generation(variant.key, big=True)):
            length = client.ask(port, request)
            client.drive(port, request, length=length, connections=1, seconds=0.3)
        variant.settle()
        tree.forget_peak()
        before = tree.rss()
        held = 0.0
        for _ in range(_TIMES):
            held = scene(upstream, variant, tree)
            variant.settle()
        return Memory(what, before, held, tree.peak_rss(), tree.rss())


def _uploads(upstream: Upstream, variant: Variant, tree: Tree) -> float:
    with _connections(variant.ports["edits"], edit(variant.key, _IMAGE)) as held:
        seen = upstream.seen().body_bytes
        _send(held, until=_IMAGE - _LAST)
        _wait(lambda: upstream.seen().body_bytes - seen > IN_FLIGHT * (_IMAGE - 2 * _LAST))
        rss = tree.rss()
        _finish(held)
    return rss


def _stalled_uploads(upstream: Upstream, variant: Variant, tree: Tree) -> float:
    with _connections(variant.ports["edits"], edit(variant.key, _IMAGE)) as held:
        upstream.pause()
        try:
            _send(held, until=None)
            rss = tree.rss()
        finally:
            upstream.resume()
        _finish(held)
    return rss


def _unread_answers(upstream: Upstream, variant: Variant, tree: Tree) -> float:
    with _connections(variant.ports["answers"], generation(variant.key, big=True)) as held:
        served = upstream.seen().requests
        _send(held, until=None)
        _wait(lambda: upstream.seen().requests - served >= IN_FLIGHT)
        variant.settle()
        rss = tree.rss()
        _finish(held)
    return rss


@contextlib.contextmanager
def _connections(port: int, request: Request) -> Iterator[list[Connection]]:
    wire = request.wire()
    held = [Connection(port, wire) for _ in range(IN_FLIGHT)]
    try:
        yield held
    finally:
        for each in held:
            each.close()


def _send(held: list[Connection], *, until: int | None) -> None:
    """On all, to `until`; without it as far as is taken before nothing moves any more."""
    waiting, moved = held, time.monotonic()
    while waiting:
        before = sum(each.sent for each in held)
        waiting = [each for each in waiting if not each.send(until)]
        if sum(each.sent for each in held) > before:
            moved = time.monotonic()
        elif time.monotonic() - moved > _STILL:
            if until is None:
                return
            raise LoadError("the uploads do not move on")
        time.sleep(0.005)


def _finish(held: list[Connection]) -> None:
    """Send what is left and read every answer to its end."""
    buffer = bytearray(256 * 1024)
    loop = select.epoll()
    by_fd = {each.socket.fileno(): each for each in held}
    for fd in by_fd:
        loop.register(fd, select.EPOLLIN | select.EPOLLOUT)
    ends = time.monotonic() + _LIMIT
    while by_fd:
        for fd, event in loop.poll(1.0):
            if event & select.EPOLLOUT and by_fd[fd].send():
                loop.modify(fd, select.EPOLLIN)
            if event & ~select.EPOLLOUT and by_fd[fd].receive(buffer):
                loop.unregister(fd)
                del by_fd[fd]
        if time.monotonic() > ends:
            raise LoadError(f"{len(by_fd)} requests were not answered within {_LIMIT:.0f} s")
    loop.close()


def _wait(done: Callable[[], bool]) -> None:
    ends = time.monotonic() + _LIMIT
    while not done():
        if time.monotonic() > ends:
            raise LoadError("what was sent did not reach the upstream")
        time.sleep(0.02)
