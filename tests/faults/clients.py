"""Clients that order as teams' programs do, and send again as OpenAI's clients do; each attempt is written down.

An OpenAI client sends again, twice at most: after a broken connection, and after 408, 409, 429 and 5xx, unless
``x-should-retry`` says what to do.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx

from gateway.simulator.drawing import draw_generation
from tests.faults.history import Attempt, How
from tests.faults.workload import Order, orders, secret
from tests.support.running import NO_TLS

TRIES = 3
HANG = 60.0  # seconds: longer than every wait that the config allows together
LONGEST_PAUSE = 1.0  # seconds between two tries, whatever Retry-After says

AGAIN = frozenset({408, 409, 429})


class Client:
    """One of a team's. hosts: base URLs of gateways, of which each attempt takes one by chance."""

    def __init__(self, team: str, number: int, hosts: Sequence[str], *, seed: str) -> None:
        self.team, self.key = team, f"{team}-{number}"
        self._hosts = hosts
        self._seed = f"{seed}-{self.key}"
        self._chance = random.Random(self._seed)
        self.attempts: list[Attempt] = []
        self.orders: dict[str, str] = {}  #: token -> order

    async def run(self, goes_on: Callable[[], bool]) -> None:
        """Order after order, till it is told to stop; the last one is brought to its end."""
        limits = httpx.Limits(max_connections=None, keepalive_expiry=3.0)
        async with httpx.AsyncClient(timeout=HANG, verify=NO_TLS, limits=limits, trust_env=False) as http:
            for order in orders(self._seed):
                if not goes_on():
                    return
                await asyncio.gather(self._order(http, order), self._order_again(http, order))
                await asyncio.sleep(self._chance.uniform(0.0, 0.15))

    async def _order_again(self, http: httpx.AsyncClient, order: Order) -> None:
        if order.again is not None:
            await asyncio.sleep(order.again)
            await self._order(http, order)

    async def _order(self, http: httpx.AsyncClient, order: Order) -> None:
        for number in range(TRIES):
            attempt, pause = await self._attempt(http, order, number)
            self.attempts.append(attempt)
            self.orders[attempt.token] = order.name
            if not attempt.again:
                return
            await asyncio.sleep(min(pause, LONGEST_PAUSE))

    async def _attempt(self, http: httpx.AsyncClient, order: Order, number: int) -> tuple[Attempt, float]:
        """The attempt as it went, and the seconds until the next one."""
        token = order.name if order.keyed else f"{order.name}-try{number}"
        attempt = Attempt(
            token, self.team, self.key, order.kind, 0.0, 0.0, How.CUT, keyed=order.keyed, streamed=order.base64
        )
        headers = {"authorization": f"Bearer {secret(self.key)}", "x-stainless-retry-count": str(number)}
        if order.keyed:
            headers["idempotency-key"] = order.name
        pause = self._chance.uniform(0.1, 0.5)
        began = time.monotonic()
        try:
            async with asyncio.timeout(order.leaves):
                answer = await http.post(self._url(order), headers=headers, **_body(order, token))
            attempt, pause = _read(attempt, answer, pause)
        except TimeoutError:
            attempt = replace(attempt, how=How.LEFT)
        except httpx.ConnectError:
            attempt = replace(attempt, how=How.UNHEARD, again=True)
        except httpx.TimeoutException:
            attempt = replace(attempt, how=How.HUNG)
        except httpx.TransportError:
            attempt = replace(attempt, how=How.CUT, again=True)
        return replace(attempt, began=began, ended=time.monotonic()), pause

    def _url(self, order: Order) -> str:
        return f"{self._chance.choice(self._hosts)}/v1/images/{order.kind[0]}"


def _read(attempt: Attempt, answer: httpx.Response, pause: float) -> tuple[Attempt, float]:
    try:
        body: Any = answer.json()
        images = len(body["data"]) if answer.status_code == 200 else 0
        code = str(body["error"]["code"]) if answer.status_code != 200 else ""
        rid = answer.headers["x-request-id"]
    except (ValueError, KeyError, TypeError):
        return replace(attempt, how=How.MALFORMED, status=answer.status_code), pause
    attempt = replace(
        attempt,
        how=How.ANSWERED,
        status=answer.status_code,
        code=code,
        rid=rid,
        images=images,
        replayed="idempotent-replayed" in answer.headers,
        again=_again(answer.status_code, answer.headers),
    )
    after = answer.headers.get("retry-after", "")
    return attempt, float(after) if after.isdigit() else pause


def _again(status: int, headers: Mapping[str, str]) -> bool:
    told = headers.get("x-should-retry")
    return told == "true" or (told != "false" and (status in AGAIN or status >= 500))


def _body(order: Order, token: str) -> dict[str, Any]:
    endpoint, size, quality, n = order.kind
    fields = {"prompt": token, "size": size, "n": n, "response_format": "b64_json" if order.base64 else "url"}
    if endpoint == "generations":
        return {"json": {**fields, "quality": quality}}
    return {"data": {name: str(value) for name, value in fields.items()}, "files": {"image": ("a.png", PICTURE)}}


PICTURE = draw_generation("A pier", (1024, 1024), 0)
