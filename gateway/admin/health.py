"""Health: whether the process lives, and whether it should be given requests. Neither asks the paid upstream."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from secrets import token_hex

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.core.refusals import iso
from gateway.parts import Parts


def routes(parts: Parts, *, public: bool) -> list[Route]:
    """public: whoever may come here; what the config says, and what is wrong with it, is not told there."""
    answers: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/healthz": _alive,
        "/livez": _alive,
        "/readyz": partial(_ready, parts=parts, public=public),
    }
    return [Route(f"{path}{end}", answer, methods=["GET"]) for path, answer in answers.items() for end in ("", "/")]


async def _alive(request: Request) -> Response:
    """The event loop turns."""
    del request
    return _answer({"status": "ok"}, 200)


async def _ready(request: Request, *, parts: Parts, public: bool) -> Response:
    """503 before the first contact with the store and while draining; a store that went away later shows in verbose.

    Taking every host out of service because their common store is away would help nobody.
    """
    readiness, settings = parts.readiness, parts.settings()
    told: dict[str, object] = {"status": "ready" if readiness.ready else "not ready"}
    if "verbose" in request.query_params and not public:
        told["draining"] = readiness.draining
        ledger = parts.ledger
        told["store"] = {
            "kind": settings.store.kind,
            "up": ledger.up,
            "when_down": settings.store.when_down,
            "history_lost": ledger.lost,
            "trouble": "" if ledger.up else ledger.trouble,
        }
        told["config"] = {"hash": settings.hash, "problems": parts.settings.problems}
        told["reloads"] = [
            {
                "at": iso(each.at, "UTC"),
                "result": each.result,
                "hash": each.version,
                "told": len(each.words) + each.more,
            }
            for each in parts.reloads.latest()
        ]
    return _answer(told, 200 if readiness.ready else 503)


def _answer(told: Mapping[str, object], status: int) -> Response:
    """With the headers that every answer has. No line of the log bears its id: checks are no requests of anyone's."""
    return JSONResponse(told, status, {"x-request-id": f"req_{token_hex(12)}", "cache-control": "no-store"})
