"""What was asked of the simulator and what it made: the oracle of the gateway's tests.

A request is recorded when its outcome is decided, before the first byte of its answer (so before its latency): whoever
holds an answer finds it here. Calls for files and of the control API are not recorded. Safe across threads.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from gateway.simulator.messages import Framing, Request
from gateway.simulator.shelf import Shelf

_MAX_REQUESTS = 10_000
_MAX_RAW_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RecordedPart:
    """A part of a form. filename is None for a text field; length in bytes; sha256 in hex, of the data."""

    name: str
    filename: str | None
    content_type: str | None
    headers: tuple[tuple[str, str], ...]
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as the simulator understood it.

    number: in the order of arrival, from 1. endpoint: generations, edits or, for any other path, empty.
    headers: as sent, the key included. body_length, body_sha256: of the body without its HTTP framing, as far as it
    came.
    complete: HTTP framing and, for a form, the closing delimiter were there. connection, ordinal: which connection and
    the how manieth request on it. fields: names and values in their order, JSON as decoded, form fields as text; empty
    where the body could not be read. parts: of a form, text fields too, in their order.
    status: what was answered, None where no byte was. error: the code of the simulator's own refusal. fault: the
    scripted one. images_made: 0 for whatever was refused or incomplete. decided_at: time.monotonic().
    """

    number: int
    endpoint: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    framing: Framing
    body_length: int
    body_sha256: str
    complete: bool
    connection: int
    ordinal: int
    fields: tuple[tuple[str, object], ...]
    parts: tuple[RecordedPart, ...]
    status: int | None
    error: str | None
    fault: str | None
    images_made: int
    decided_at: float

    def field(self, name: str) -> object:
        """Value of a field that was sent once. Raises LookupError if it was not sent, or more often."""
        values = [value for key, value in self.fields if key == name]
        if len(values) != 1:
            raise LookupError(f"{name} was sent {len(values)} times")
        return values[0]

    def part(self, name: str) -> RecordedPart:
        """The part that was sent once under this name. Raises LookupError as `field` does."""
        parts = [part for part in self.parts if part.name == name]
        if len(parts) != 1:
            raise LookupError(f"{name} was sent {len(parts)} times")
        return parts[0]

    def header(self, name: str) -> list[str]:
        """All values of a header, `name` in lower case."""
        return [value for key, value in self.headers if key.lower() == name]

    def as_json(self) -> dict[str, object]:
        """For the control API: of a key only its last four characters."""
        plain = asdict(self)
        plain["headers"] = [
            (name, f"…{value[-4:]}" if name.lower() == "authorization" else value) for name, value in self.headers
        ]
        return plain


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the start or the last clear. peak_in_flight: complete requests that were being answered at once."""

    images_made: int = 0
    complete: int = 0
    incomplete: int = 0
    connections_opened: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0


class Record:
    """The latest 10,000 requests, and totals over all. With `keep_raw` also the latest bodies, 64 MB together."""

    def __init__(self, *, keep_raw: bool = False) -> None:
        self._changed = threading.Condition()
        self._requests: deque[RecordedRequest] = deque(maxlen=_MAX_REQUESTS)
        self._totals = Totals()
        self._raw = Shelf(max_items=_MAX_REQUESTS, max_bytes=_MAX_RAW_BYTES) if keep_raw else None

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """In the order in which they were decided."""
        with self._changed:
            return tuple(self._requests)

    @property
    def totals(self) -> Totals:
        with self._changed:
            return self._totals

    def raw(self, number: int) -> bytes | None:
        """A request's body, if `keep_raw` and it is not too long ago."""
        with self._changed:
            return self._raw.get(str(number)) if self._raw is not None else None

    def wait_for(self, condition: Callable[[Totals], bool], *, timeout: float = 5.0) -> Totals:
        """Block till the totals fulfil `condition`; TimeoutError after `timeout` seconds.

        For another thread than the simulator's: aborted requests are only seen when their connection breaks.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition(self._totals):
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"after {timeout} s the totals are {self._totals}")
            return self._totals

    def clear(self) -> None:
        """Forget the requests, and count from 0; what is in flight stays in flight."""
        with self._changed:
            self._requests.clear()
            if self._raw is not None:
                self._raw.clear()
            in_flight = self._totals.in_flight
            self._set(replace(Totals(), in_flight=in_flight, peak_in_flight=in_flight))

    # What the server tells.

    def add(self, recorded: RecordedRequest, request: Request) -> None:
        with self._changed:
            self._requests.append(recorded)
            if self._raw is not None:
                self._raw.put(str(recorded.number), bytes(request.body))
            totals = self._totals
            self._set(
                replace(
                    totals,
                    images_made=totals.images_made + recorded.images_made,
                    complete=totals.complete + recorded.complete,
                    incomplete=totals.incomplete + (not recorded.complete),
                )
            )

    def connection_opened(self) -> None:
        with self._changed:
            self._set(replace(self._totals, connections_opened=self._totals.connections_opened + 1))

    def in_flight(self, change: int) -> None:
        """A complete request begins (1) or ends (-1) being answered."""
        with self._changed:
            now = self._totals.in_flight + change
            self._set(replace(self._totals, in_flight=now, peak_in_flight=max(now, self._totals.peak_in_flight)))

    def _set(self, totals: Totals) -> None:
        self._totals = totals
        self._changed.notify_all()
