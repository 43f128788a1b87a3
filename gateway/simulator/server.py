"""Simulator: the API's two endpoints, the files its answers point to, and the control API, on one port.

    POST /v1/images/generations     JSON
    POST /v1/images/edits           multipart/form-data
    GET  /files/<id>.png            pictures of earlier answers, the latest ones
    POST /_simulator/script         queue behaviours (a JSON list, see `script`)
    DELETE /_simulator/script       forget those that wait
    GET, DELETE /_simulator/record  what was asked and made; forget it

The control API asks for no key: it belongs on a loopback address.
"""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from gateway.simulator.connection import Connection
from gateway.simulator.drawing import Painter
from gateway.simulator.execution import Outcome, answer, execute
from gateway.simulator.messages import EarlyReply, Ending, Reply, Request
from gateway.simulator.record import Record, RecordedRequest
from gateway.simulator.refusal import Refusal
from gateway.simulator.script import Behaviour, Script
from gateway.simulator.shelf import Shelf
from gateway.simulator.validation import Endpoint

_ENDPOINTS: Mapping[str, Endpoint] = {"/v1/images/generations": "generations", "/v1/images/edits": "edits"}
_JSON = ("content-type", "application/json")
_MAX_FILES = 1000
_MAX_FILES_BYTES = 256 * 1024 * 1024  # edits of photographs are megabytes each
_FIRST_FAILURE = 300  # the lowest status that is no success


class Simulator:
    """The stand-in for 3xCoder. Runs on the loop that awaits `start`; `record` and `script` work from any thread.

    api_keys: those accepted as Bearer. latency: seconds before each answer. port: 0 takes a free one.
    keep_alive_timeout: seconds after which an idle connection is closed; may be changed at any time.
    keep_raw: the record keeps bodies too.
    """

    def __init__(
        self,
        *,
        api_keys: Sequence[str],
        latency: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
        keep_alive_timeout: float = 60.0,
        keep_raw: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self.latency = latency
        self.keep_alive_timeout = keep_alive_timeout
        self.record = Record(keep_raw=keep_raw)
        self._api_keys = tuple(api_keys)
        self._script = Script()
        self._painter = Painter()
        self._files = Shelf(max_items=_MAX_FILES, max_bytes=_MAX_FILES_BYTES)
        self._connections: set[Connection] = set()
        self._connections_opened = 0
        self._requests_begun = 0
        self._server: asyncio.Server | None = None

    @property
    def origin(self) -> str:
        """``http://host:port``"""
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What a client is configured with."""
        return f"{self.origin}/v1"

    def script(self, *behaviours: Behaviour | Mapping[str, object]) -> None:
        """Queue behaviours for the next requests. Raises pydantic.ValidationError, and then queues none."""
        self._script.add(*behaviours)

    def clear_script(self) -> None:
        """Forget the behaviours that no request has met yet."""
        self._script.clear()

    async def start(self) -> None:
        """Listen. Raises OSError if the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), self.host, self.port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, and abort what is open."""
        if self._server is None:
            return
        self._server.close()
        await asyncio.gather(*(connection.aclose() for connection in tuple(self._connections)))
        await self._server.wait_closed()
        self._server = None

    # What a connection asks (connection.Service).

    def opened(self, connection: Connection) -> int:
        self._connections.add(connection)
        self._connections_opened += 1
        self.record.connection_opened()
        return self._connections_opened

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def next_number(self) -> int:
        self._requests_begun += 1
        return self._requests_begun

    def begin(self, request: Request) -> EarlyReply | None:
        endpoint = _ENDPOINTS.get(request.path)
        behaviour = self._script.take(endpoint, early=True) if endpoint else None
        return behaviour.early_reply() if behaviour else None

    async def finish(self, request: Request) -> Reply:
        if request.path.startswith("/_simulator/"):
            return self._control(request)
        if request.path.startswith("/files/"):
            return self._file(request)
        self.record.in_flight(1)
        endpoint = _ENDPOINTS.get(request.path)
        behaviour = (self._script.take(endpoint, request.body, early=False) if endpoint else None) or Behaviour()
        outcome = await asyncio.to_thread(
            execute,
            request,
            endpoint,
            api_keys=self._api_keys,
            painter=self._painter,
            images=behaviour.images,
        )
        reply = self._reply(request, behaviour, outcome)
        made = len(outcome.pictures) if behaviour.status is None or behaviour.status < _FIRST_FAILURE else 0
        if behaviour.made is not None and outcome.order is not None:
            made = behaviour.made
        self._note(request, outcome, reply, images_made=made)
        return reply

    def finished(self, request: Request) -> None:
        if not request.path.startswith(("/_simulator/", "/files/")):
            self.record.in_flight(-1)

    def abandon(self, request: Request, reply: Reply | None) -> None:
        outcome = Outcome(hashlib.sha256(request.body).hexdigest())
        self._note(request, outcome, reply, images_made=0)

    def malformed(self) -> Reply:
        return Reply(400, (_JSON,), Refusal("The request is not HTTP/1.1.").body(), ending=Ending.LINGER)

    def too_large(self) -> Reply:
        refusal = Refusal("The request is too large.", status=413, code="request_too_large")
        return Reply(refusal.status, (_JSON,), refusal.body(), ending=Ending.LINGER)

    # Its own work.

    def _reply(self, request: Request, behaviour: Behaviour, outcome: Outcome) -> Reply:
        status, body = 200, b""
        if scripted := behaviour.scripted():
            status, body = scripted
        elif outcome.refusal is not None:
            status, body = outcome.refusal.status, outcome.refusal.body()
        elif outcome.order is not None:
            body = answer(outcome.order, outcome.pictures, publish=self._publish, pad=behaviour.pad)
        headers = (_JSON, ("x-request-id", f"sim-{request.number}"))
        return behaviour.spoil(Reply(status, headers, body, latency=self.latency))

    def _publish(self, picture: bytes) -> str:
        name = f"{secrets.token_hex(12)}.png"
        self._files.put(name, picture)
        return f"{self.origin}/files/{name}"

    def _file(self, request: Request) -> Reply:
        picture = self._files.get(request.path.removeprefix("/files/"))
        if request.method != "GET" or picture is None:
            return Reply(404, (_JSON,), Refusal("No such file.", status=404, code="not_found").body())
        return Reply(200, (("content-type", "image/png"),), picture)

    def _control(self, request: Request) -> Reply:
        said: object
        match request.method, request.path:
            case "POST", "/_simulator/script":
                try:
                    behaviours = json.loads(request.body)
                    self.script(*(behaviours if isinstance(behaviours, list) else [behaviours]))
                except ValueError as exc:
                    return Reply(400, (_JSON,), Refusal(str(exc)).body())
                said = {"waiting": len(self._script)}
            case "DELETE", "/_simulator/script":
                self.clear_script()
                said = {"waiting": 0}
            case "GET", "/_simulator/record":
                requests = [recorded.as_json() for recorded in self.record.requests]
                said = {"totals": asdict(self.record.totals), "requests": requests}
            case "DELETE", "/_simulator/record":
                self.record.clear()
                said = {"totals": asdict(self.record.totals), "requests": []}
            case _:
                return Reply(404, (_JSON,), Refusal("Not part of the control API.", status=404).body())
        return Reply(200, (_JSON,), json.dumps(said).encode())

    def _note(self, request: Request, outcome: Outcome, reply: Reply | None, *, images_made: int) -> None:
        recorded = RecordedRequest(
            number=request.number,
            endpoint=_ENDPOINTS.get(request.path, ""),
            method=request.method,
            target=request.target,
            headers=tuple(request.headers),
            framing=request.framing,
            body_length=len(request.body),
            body_sha256=outcome.body_sha256,
            complete=request.complete,
            connection=request.connection,
            ordinal=request.ordinal,
            fields=outcome.fields,
            parts=outcome.parts,
            status=None if reply is None or reply.silent else reply.status,
            error=None if outcome.refusal is None else outcome.refusal.code,
            fault=None if reply is None else reply.fault,
            images_made=images_made,
            decided_at=time.monotonic(),
        )
        self.record.add(recorded, request)
