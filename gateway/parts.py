"""What a worker is made of, put together once and handed to whatever needs it."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.accounts import Accounts
from gateway.exchange import Exchange
from gateway.lastuse import LastUse
from gateway.ledger.redis import RedisLedger
from gateway.live import Live
from gateway.metrics import Metrics
from gateway.pipeline.meter import Tally
from gateway.refused import Refused
from gateway.reloads import Reloads
from gateway.transport import Transport


@dataclass(slots=True)
class Readiness:
    """Whether this worker should be given requests: after the first contact with the store, and not while it drains."""

    ledger: RedisLedger
    draining: bool = False

    @property
    def ready(self) -> bool:
        return self.ledger.contacted and not self.draining


@dataclass(slots=True)
class Parts:
    """settings gives the config in force; a request keeps the one it began with. traced: told of each at its end."""

    settings: Live
    ledger: RedisLedger
    transport: Transport
    metrics: Metrics
    tally: Tally
    readiness: Readiness
    accounts: Accounts
    refused: Refused
    last_use: LastUse
    reloads: Reloads
    traced: Callable[[Exchange], None]
