"""Meter: counts requests in flight while they are, and how they ended when they have.

Tally counts what the steps inside decide at their own time: what was charged is counted when it is settled, which may
be after the client has left.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import exchange as exchanges
from gateway.core.errors import AuthenticationFailed, GatewayError
from gateway.core.quota import Verdict
from gateway.core.settlement import End
from gateway.exchange import Exchange
from gateway.metrics import Metrics


class Meter:
    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = exchanges.of(scope)
        inflight = self.metrics.inflight.labels(exchange.endpoint)
        inflight.inc()
        try:
            await self.app(scope, receive, send)
        finally:
            inflight.dec()


class Tally:
    """One worker's counting of exchanges onto its collectors."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._store_up: bool | None = None

    def ended(self, exchange: Exchange) -> None:
        """A request is over for its client."""
        metrics, endpoint, team = self.metrics, exchange.endpoint, exchange.label_team
        model = exchange.named.model or "none"
        total = exchange.ended - exchange.began
        metrics.requests.labels(team, endpoint, model, exchange.outcome).inc()
        metrics.request_seconds.labels(endpoint, exchange.outcome).observe(total)
        metrics.upload_bytes.labels(endpoint).inc(exchange.bytes_in)
        elsewhere = exchange.client_seconds + exchange.queue_seconds + exchange.upstream_seconds
        metrics.overhead_seconds.labels(endpoint).observe(max(0.0, total - elsewhere))
        if exchange.retry_count:
            metrics.client_retries.labels(endpoint).inc()
        error = exchange.error
        if error is not None:
            code = error.code if error.outcome != "upstream_refused" else "upstream_refused"
            metrics.errors.labels(team, code or "other").inc()
        if isinstance(error, AuthenticationFailed):
            metrics.auth_failures.labels(error.reason, error.team).inc()

    def unread(self, error: GatewayError) -> None:
        """A request was refused whose head was never whole, so that it had no exchange."""
        self.metrics.requests.labels("none", "other", "none", error.outcome).inc()
        self.metrics.errors.labels("none", error.code or "other").inc()

    def decided(self, exchange: Exchange, verdict: Verdict) -> None:
        """A verdict: who refused, and which shadow rules would have."""
        del exchange
        for state in (*verdict.refusals, *verdict.shadowed):
            rule = state.rule
            if not rule.scope.startswith("account:"):
                self.metrics.refusals.labels(rule.scope, rule.name, rule.per or "now", rule.mode).inc()

    def answered(self, exchange: Exchange, status: str) -> None:
        """The upstream's part is over. status: exact, or timeout, cut, connect_error."""
        account = exchange.account.name if exchange.account is not None else "none"
        self.metrics.upstream_responses.labels(account, status).inc()
        if exchange.order is not None and exchange.upstream_seconds:
            order = exchange.order
            self.metrics.upstream_seconds.labels(order.endpoint, order.model).observe(exchange.upstream_seconds)

    def settled(self, exchange: Exchange, first: bool) -> None:  # noqa: FBT001  a callback's one fact
        """A reservation has ended. first: False where it had been ended, and counted, before."""
        order, end = exchange.order, exchange.settlement
        if exchange.unmetered:
            self.metrics.unmetered.labels(exchange.label_team).inc()
        if order is None or end is None or not first:
            return
        labels = (exchange.label_team, order.endpoint, order.model, order.size, order.quality)
        self._charged(labels, end.images, end.cost, unknown=end.end is End.PRESUMED)
        if order.n > end.images:
            self.metrics.images_refunded.labels(*labels).inc(order.n - end.images)

    def presumed(self, charges: list[tuple[str, str, int, int]]) -> None:
        """Charges that a beat of the ledger presumed: (team, key|account|model|size|quality|endpoint, images, cost)."""
        for team, text, images, cost in charges:
            _, _, model, size, quality, endpoint = text.split("|")
            self.metrics.expired.labels(team).inc()
            self._charged((team, endpoint, model, size, quality), images, cost, unknown=True)

    def busy(self, account: str, inflight: int) -> None:
        """What this worker has in flight at an upstream account has changed."""
        self.metrics.upstream_inflight.labels(account).set(inflight)

    def stored(self, operation: str, seconds: float, failed: bool) -> None:  # noqa: FBT001  a callback's one fact
        """A call of the store has ended."""
        self.metrics.store_seconds.labels(operation).observe(seconds)
        if failed:
            self.metrics.store_errors.labels(operation).inc()
        if self._store_up == failed or self._store_up is None:
            self._store_up = not failed
            self.metrics.store_up.set(0 if failed else 1)

    def _charged(self, labels: tuple[str, str, str, str, str], images: int, cost: int, *, unknown: bool) -> None:
        if images == 0:
            return
        metrics = self.metrics
        metrics.images.labels(*labels).inc(images)
        metrics.cost.labels(*labels).inc(cost)
        if unknown:
            metrics.images_unknown.labels(*labels).inc(images)
            metrics.cost_unknown.labels(*labels).inc(cost)
