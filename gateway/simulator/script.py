"""Behaviours that the next requests meet instead of a good answer, in the order they were queued.

As JSON over ``POST /_simulator/script`` a list of objects with the names of `Behaviour`'s fields; in a program
``simulator.script(Behaviour(fault="drop"))``. Some examples:

    {"status": 429, "headers": {"retry-after": "7"}}     a refusal; nothing is made
    {"status": 200, "body": "<html>"}                    200 that no client can read; the images were made
    {"fault": "cut"}                                     a good answer, half of it
    {"fault": "refuse_body", "status": 411}              an answer before the request's body was read
    {"endpoint": "edits", "fault": "hang", "times": 3}   the next three edits are never answered
    {"containing": "harbour", "status": 502}             502 to the next request with that word in its body
"""

import json
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.simulator.messages import EarlyReply, Ending, Reply
from gateway.simulator.validation import Endpoint

Fault = Literal["cut", "drop", "reset", "hang", "refuse_body", "close_before_body_end"]

_EARLY = frozenset({"refuse_body", "close_before_body_end"})


class Behaviour(BaseModel):
    """What one request, or `times` of them, meets. Everything left out is as without a script."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    endpoint: Endpoint | None = Field(default=None, description="the endpoint it applies to; none is both")
    containing: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="text in the body of the requests it applies to; none is any. Not with refuse_body "
        "and close_before_body_end, which act before the body is there",
    )
    times: Annotated[int, Field(ge=1)] | None = Field(
        default=1, description="requests it applies to; null is all to come"
    )
    latency: Annotated[float, Field(ge=0)] | None = Field(default=None, description="seconds before the first byte")
    status: Annotated[int, Field(ge=200, le=599)] | None = Field(default=None, description="answer with this status")
    headers: dict[str, str] = Field(default={}, description="joined to the answer's; content-length may lie")
    body: str | dict[str, object] | list[object] | None = Field(
        default=None, description="the answer's body: text as it stands, anything else as JSON; with a status only"
    )
    images: Annotated[int, Field(ge=0, le=100)] | None = Field(default=None, description="answer with so many images")
    pad: Annotated[int, Field(ge=0, le=256 * 1024 * 1024)] = Field(
        default=0, description="bytes put behind each PNG of a b64_json answer, or into a url answer's field `padding`"
    )
    chunked: bool = Field(default=False, description="Transfer-Encoding: chunked instead of Content-Length")
    fault: Fault | None = Field(
        default=None,
        description="cut: close after `after` bytes of the body (half of it without). drop: read all, close without a "
        "byte. reset: RST, before the first byte or after `after` bytes of the body. hang: nothing more, from the "
        "first byte on or after `after` bytes of the body. refuse_body: answer (413 unless `status` says otherwise) "
        "after `after` bytes of the request's body (0 without) and close. close_before_body_end: close without a byte "
        "after `after` bytes of the request's body (1 without), at its last byte at the latest",
    )
    after: Annotated[int, Field(ge=0)] | None = Field(default=None, description="bytes; see fault")
    made: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="images that count as made, if the order was valid. Without: none for a scripted status of 300 "
        "and more, else as many as the answer has or would have had",
    )

    @property
    def early(self) -> bool:
        """Whether it acts before the request is complete."""
        return self.fault in _EARLY

    @model_validator(mode="after")
    def _act_on_what_is_there(self) -> Self:
        if self.early and self.containing is not None:
            raise ValueError(f"{self.fault} acts before the body that should contain something is there")
        return self

    def fits(self, endpoint: Endpoint, body: bytes | bytearray) -> bool:
        """Whether it is for this request. body: as far as it has come."""
        return self.endpoint in (None, endpoint) and (self.containing is None or self.containing.encode() in body)

    def scripted(self) -> tuple[int, bytes] | None:
        """Status and body that stand for the answer, or None for a real one."""
        if self.status is None:
            return None
        if self.body is None:
            error = {"message": f"Scripted status {self.status}.", "type": "scripted", "param": None, "code": None}
            return self.status, json.dumps({"error": error}).encode()
        return self.status, self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()

    def spoil(self, reply: Reply) -> Reply:
        """The reply as this behaviour sends it."""
        names = {name.lower() for name in self.headers}
        headers = tuple((name, value) for name, value in reply.headers if name.lower() not in names)
        latency = reply.latency if self.latency is None else self.latency
        spoilt = replace(
            reply,
            headers=(*headers, *self.headers.items()),
            chunked=self.chunked,
            latency=latency,
            fault=self.fault,
        )
        match self.fault:
            case "cut":
                limit = len(reply.body) // 2 if self.after is None else self.after
                return replace(spoilt, ending=Ending.CLOSE, limit=limit)
            case "drop":
                return replace(spoilt, ending=Ending.CLOSE, silent=True)
            case "reset":
                return replace(spoilt, ending=Ending.RESET, limit=self.after, silent=self.after is None)
            case "hang":
                return replace(spoilt, ending=Ending.HANG, limit=self.after, silent=self.after is None)
            case _:
                return spoilt

    def early_reply(self) -> EarlyReply:
        """The reply of an `early` behaviour."""
        if self.fault == "close_before_body_end":
            silence = Reply(0, ending=Ending.CLOSE, silent=True, fault=self.fault)
            return EarlyReply(silence, 1 if self.after is None else self.after)
        status, body = self.scripted() or (413, b'{"error": {"message": "Too large.", "type": "scripted"}}')
        reply = Reply(status, (("content-type", "application/json"),), body, ending=Ending.LINGER)
        return EarlyReply(self.spoil(reply), self.after or 0)


class Script:
    """The queue. Each behaviour goes to the first request that fits it. Safe across threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[tuple[Behaviour, int | None]] = deque()

    def add(self, *behaviours: Behaviour | Mapping[str, object]) -> None:
        """Queue them, all or, if one is invalid (pydantic.ValidationError), none."""
        checked = [one if isinstance(one, Behaviour) else Behaviour.model_validate(one) for one in behaviours]
        with self._lock:
            self._queue.extend((one, one.times) for one in checked)

    def take(self, endpoint: Endpoint, body: bytes | bytearray = b"", *, early: bool) -> Behaviour | None:
        """The behaviour for a request to `endpoint` with this body.

        early: its head has just come. Then only an early behaviour is given out, and only if it is the next one
        for this endpoint: a request that never completes must not use up what waits for a complete one.
        """
        with self._lock:
            for position, (one, left) in enumerate(self._queue):
                if not one.fits(endpoint, body):
                    continue
                if one.early is not early:
                    if early:
                        return None
                    continue
                if left is not None:
                    del self._queue[position]
                    if left > 1:
                        self._queue.insert(position, (one, left - 1))
                return one
        return None

    def clear(self) -> None:
        with self._lock:
            self._queue.clear()

    def __len__(self) -> int:
        """Behaviours that still wait, each counted once however often it will apply."""
        with self._lock:
            return len(self._queue)
