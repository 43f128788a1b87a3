"""Exchange: all that is known of one request so far. Each step of the pipeline fills its own part.

    ARRIVED --Authenticate--> KNOWN --Read--> ORDERED --Reserve--> RESERVED --Forward--> RELEASED --Settle--> ENDED

RELEASED means that the closing bytes were handed to the upstream's socket: from there on the upstream may act, and
nothing that happens to the client changes what is owed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from gateway.core import idempotency
from gateway.core.catalog import Account, Key, Model, Settings, Team
from gateway.core.errors import AuthenticationFailed, GatewayError
from gateway.core.orders import NOTHING_ASKED, Asked, Order
from gateway.core.quota import MICRO, Verdict
from gateway.core.rewriting import FormWriter
from gateway.core.settlement import Settlement

_KEY = "gateway.exchange"


class Stage(StrEnum):
    ARRIVED = "arrived"
    KNOWN = "known"
    ORDERED = "ordered"
    RESERVED = "reserved"
    RELEASED = "released"
    ENDED = "ended"


class Sent(Protocol):
    """What went up of a request, as the upstream's client keeps it."""

    @property
    def began(self) -> bool: ...

    @property
    def released(self) -> bool: ...

    @property
    def failure(self) -> str | None: ...


@dataclass(slots=True)
class Exchange:
    """One request. Times are seconds of a monotonic clock; money is micro-dollars."""

    id: str
    settings: Settings
    endpoint: str
    client_ip: str
    headers: list[tuple[bytes, bytes]] = field(repr=False)
    began: float
    trace_id: str
    retry_count: int = 0

    key: Key | None = None
    team: Team | None = None

    order: Order | None = None
    asked: Asked = NOTHING_ASKED  #: where the body was read and became no order
    model: Model | None = None
    cost: int = 0
    writer: FormWriter | None = field(default=None, repr=False)
    digests: list[tuple[str, str]] = field(default_factory=list)  #: (name, digest) of files

    account: Account | None = None
    admitted: bool = False  #: slots are held, nothing is charged
    reserved: bool = False
    unmetered: bool = False  #: the store was away and the config says allow
    verdict: Verdict | None = field(default=None, repr=False)

    content_type: str = ""  #: what goes up
    sent: Sent | None = None
    upstream_status: int | None = None
    whole: bool = False  #: the answer was read whole before its status goes out
    made: int | None = None  #: images counted in the answer

    settlement: Settlement | None = None
    error: GatewayError | None = None
    outcome: str = "ok"
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    client_seconds: float = 0.0  #: waiting for the client's bytes
    queue_seconds: float = 0.0  #: waiting for a slot
    upstream_began: float = 0.0  #: when the closing bytes went up; 0.0 before
    upstream_seconds: float = 0.0
    ended: float = 0.0

    @property
    def stage(self) -> Stage:
        if self.settlement is not None:
            return Stage.ENDED
        if self.released:
            return Stage.RELEASED
        if self.reserved:
            return Stage.RESERVED
        if self.order is not None:
            return Stage.ORDERED
        return Stage.KNOWN if self.team is not None else Stage.ARRIVED

    @property
    def released(self) -> bool:
        """Whether the upstream may have acted."""
        return self.sent is not None and self.sent.released

    @property
    def label_team(self) -> str:
        """The team as a label: `none` before a key was recognized."""
        return self.team.id if self.team is not None else "none"

    @property
    def whose(self) -> str:
        """The team, also where its key has ended or its token is void; `none` where it is not known."""
        return self.error.team if isinstance(self.error, AuthenticationFailed) else self.label_team

    def known(self) -> Team:
        """The team, for steps behind Authenticate."""
        if self.team is None:
            raise AssertionError("no step before Authenticate asks for the team")
        return self.team

    def ordered(self) -> tuple[Order, Model]:
        """The order and its model, for steps behind Read's last message."""
        if self.order is None or self.model is None:
            raise AssertionError("the order is known once the body is complete")
        return self.order, self.model

    @property
    def named(self) -> Order | Asked:
        """Model, size, quality and n, as far as they are known."""
        return self.order if self.order is not None else self.asked

    def repeated(self) -> str:
        """What the order has in common with its repetition by the same client."""
        order, _ = self.ordered()
        key = self.key.id if self.key is not None else ""
        return idempotency.repeated(order, self.digests, team=self.known().id, key=key)

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


def bind(scope: Mapping[str, Any], exchange: Exchange) -> dict[str, Any]:
    """The scope with its exchange, for the steps inside."""
    return {**scope, _KEY: exchange}


def of(scope: Mapping[str, Any]) -> Exchange:
    """The exchange that Observe has bound to the scope."""
    exchange: Exchange = scope[_KEY]
    return exchange


def facts(exchange: Exchange) -> dict[str, object]:
    """What the log says of a request: contract 8. Nothing of a body, a header or a secret is among it."""
    named, key, error, end = exchange.named, exchange.key, exchange.error, exchange.settlement
    total = exchange.ended - exchange.began
    elsewhere = exchange.client_seconds + exchange.queue_seconds + exchange.upstream_seconds
    return {
        "request_id": exchange.id,
        "reservation_id": exchange.id if exchange.reserved else None,
        "trace_id": exchange.trace_id,
        "team": exchange.whose if exchange.whose != "none" else None,
        "key_id": key.id if key is not None else None,
        "client_ip": exchange.client_ip,
        "endpoint": exchange.endpoint,
        "model": named.model,
        "size": named.size,
        "quality": named.quality,
        "n": named.n,
        "outcome": exchange.outcome,
        "code": error.code if error is not None else None,
        "reason": getattr(error, "reason", None),
        "cause": type(error.__cause__).__name__ if error is not None and error.__cause__ is not None else None,
        "status": exchange.status,
        "images": end.images if end is not None else None,
        "cost_usd": end.cost / MICRO if end is not None else None,
        "rule": _refusing_rule(exchange),
        "account": exchange.account.name if exchange.sent is not None and exchange.account is not None else None,
        "upstream_status": exchange.upstream_status,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "upstream_ms": round(exchange.upstream_seconds * 1000, 1) if exchange.upstream_seconds else None,
        "overhead_ms": round(max(0.0, total - elsewhere) * 1000, 2),
        "total_ms": round(total * 1000, 1),
        "retry_count": exchange.retry_count or None,
        "unmetered": exchange.unmetered or None,
        "config_hash": exchange.settings.hash,
    }


def _refusing_rule(exchange: Exchange) -> str | None:
    refusals = exchange.verdict.refusals if exchange.verdict is not None and not exchange.verdict.admitted else ()
    return refusals[0].rule.name if refusals else None
