"""What each row of the error table makes of a client that sends again: how often it asks, and what is paid for.

Three records are put side by side for each call: the client's own word, the lines of the gateway's log that have the
call's trace, and what the simulator says it made of the call's prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from gateway.simulator.script import Behaviour
from tests.e2e.clients import Call, Client, Family, Told
from tests.support.site import Site, wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Requests that a call comes to, by who decides on repeating it: exactly so many, or one of a range."""

    openai: int | range = 1
    ai: int | range = 1
    curl: int | range = 1

    def by(self, family: Family) -> range:
        sent: int | range = getattr(self, family)
        return sent if isinstance(sent, range) else range(sent, sent + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a call meets and what it comes to.

    paid: images made and charged. status, code: of the last answer. script: what the upstream does at each of the
    call's requests; once: at the first one alone. key: where it is not the team's. own: a header with one value for
    each client. image: of an edit, by its name in `Grounds`. timeout: the client's own, in seconds. stalled: it goes
    by a network that withholds the last byte of its first request.
    """

    when: str
    sent: Sent = Sent()
    paid: int = 0
    status: int = 200
    code: str | None = None
    script: Behaviour | None = None
    once: bool = False
    team: str = "plain"
    key: str | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    own: str | None = None
    image: str | None = None
    timeout: float | None = None
    stalled: bool = False

    def prompt(self, client: Client) -> str:
        return f"A lighthouse; {self.when}; {client.name}."

    def value(self, client: Client) -> str:
        """Of the header `own`."""
        return self.prompt(client).replace(" ", "-")


@dataclass(frozen=True, slots=True)
class Grounds:
    """Where the clients are let loose. images: PNGs by a name. stalled: address of the network that stalls."""

    site: Site
    images: Mapping[str, Path]
    stalled: str

    def call(self, row: Row, client: Client) -> Call:
        own = {} if row.own is None else {row.own: row.value(client)}
        return Call(
            url=f"{self.stalled}/v1" if row.stalled else self.site.base_url,
            key=row.key or self.site.key(row.team),
            prompt=row.prompt(client),
            fields=row.fields,
            headers={**row.headers, **own},
            image=self.images[row.image] if row.image is not None else None,
            timeout=row.timeout,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a row with a client. sent: requests. paid: images that the upstream made. charged: that the gateway
    charged for. repeated: requests that the gateway takes for an SDK's repetition.
    """

    row: Row
    client: Client
    told: Told
    sent: int
    paid: int
    charged: int
    repeated: int


def ask(
    rows: Sequence[Row],
    clients: Sequence[Client],
    grounds: Grounds,
    *,
    meanwhile: AbstractContextManager[Callable[[], bool] | None] | None = None,
) -> list[Seen]:
    """All rows with all clients at once.

    meanwhile: a state of things that ends when each call has met it once. It may say what tells that; without, it is
    that the first request of each call has ended.
    """
    site = grounds.site
    calls = {client.name: [grounds.call(row, client) for row in rows] for client in clients}
    for row in rows:
        for client in clients:
            if row.script is not None:
                about = {"containing": row.prompt(client), "times": 1 if row.once else None}
                site.simulator.script(row.script.model_copy(update=about))
    with ThreadPoolExecutor(len(clients)) as pool, ExitStack() as till_met:
        met = till_met.enter_context(meanwhile) if meanwhile is not None else None
        asked = [pool.submit(client.ask, calls[client.name]) for client in clients]
        if meanwhile is not None:
            wanted = {call.trace for each in calls.values() for call in each}
            wait_until(
                met or (lambda: wanted <= {line["trace_id"] for line in site.gateway.requests_logged()}), seconds=20
            )
            till_met.close()
        told = [each.result() for each in asked]
    # What is still in the making when its client has gone ends a moment later.
    wait_until(lambda: site.gateway.metric("gateway_inflight_requests") == 0)
    site.simulator.simulator.clear_script()
    return [
        _seen(site, row, client, call, outcome)
        for client, outcomes in zip(clients, told, strict=True)
        for row, call, outcome in zip(rows, calls[client.name], outcomes, strict=True)
    ]


def _seen(site: Site, row: Row, client: Client, call: Call, told: Told) -> Seen:
    lines = [line for line in site.gateway.requests_logged() if line["trace_id"] == call.trace]
    made = [each.images_made for each in site.simulator.record.requests if ("prompt", call.prompt) in each.fields]
    charged = [line.get("images") or 0 for line in lines]
    repeated = [line for line in lines if line.get("retry_count")]
    return Seen(row, client, told, len(lines), sum(made), sum(charged), len(repeated))


def table(seen: Sequence[Seen]) -> str:
    """Client by row: requests sent, images paid for, and the last answer's status."""
    names = list(dict.fromkeys(each.client.name for each in seen))
    rows = list(dict.fromkeys(each.row.when for each in seen))
    found = {(each.row.when, each.client.name): each for each in seen}
    width = max(len(row) for row in rows)
    lines = [f"{'requests, paid, status':{width}}  " + "".join(f"{name:18}" for name in names)]
    for row in rows:
        cells = [found.get((row, name)) for name in names]
        shown = [f"{cell.sent}, {cell.paid}, {cell.told.status or '-'}" if cell else "" for cell in cells]
        lines.append(f"{row:{width}}  " + "".join(f"{cell:18}" for cell in shown))
    return "\n".join(lines)
