"""What a complete request comes to: read, checked and drawn, and written down for the record.

Synchronous, for a thread of its own: decoding and drawing take milliseconds that other connections need not wait for.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.simulator.drawing import Painter, UnreadablePicture
from gateway.simulator.form import Part, read_form
from gateway.simulator.messages import Request
from gateway.simulator.record import RecordedPart
from gateway.simulator.refusal import Refusal, Unfinished
from gateway.simulator.validation import (
    Endpoint,
    PictureOrder,
    check_edit,
    check_generation,
    check_key,
    media_type,
    read_json,
    read_texts,
)


@dataclass(slots=True)
class Outcome:
    """Filled as far as the request got: `refusal` is set, or `order` and `pictures` are.

    fields, parts: as read, also of a request that is refused for them.
    """

    body_sha256: str
    fields: tuple[tuple[str, object], ...] = ()
    parts: tuple[RecordedPart, ...] = ()
    order: PictureOrder | None = None
    pictures: tuple[bytes, ...] = ()
    refusal: Refusal | None = None


def execute(
    request: Request, endpoint: Endpoint | None, *, api_keys: Sequence[str], painter: Painter, images: int | None
) -> Outcome:
    """Do what `request` asks. endpoint: None for a path that has none. images: draw so many instead of n."""
    outcome = Outcome(hashlib.sha256(request.body).hexdigest())
    try:
        order = _read(request, endpoint, api_keys, outcome)
        count = order.n if images is None else images
        outcome.pictures = tuple(_draw(order, painter, index) for index in range(count))
        outcome.order = order
    except Unfinished as exc:
        request.complete = False
        outcome.refusal = exc
    except Refusal as exc:
        outcome.refusal = exc
    return outcome


def answer(order: PictureOrder, pictures: Sequence[bytes], *, publish: Callable[[bytes], str], pad: int) -> bytes:
    """The JSON of a 200. publish: makes a picture's URL. pad: bytes of ballast, see `script.Behaviour`."""
    body: dict[str, object] = {"created": int(time.time())}
    data: list[dict[str, str]] = []
    for picture in pictures:
        entry: dict[str, str] = {}
        if order.response_format == "b64_json":
            # PNG readers stop at IEND, so what follows makes the answer longer and the picture no other.
            entry["b64_json"] = base64.b64encode(picture + bytes(pad)).decode("ascii")
        else:
            entry["url"] = publish(picture)
        if order.endpoint == "generations":
            entry["revised_prompt"] = f"A detailed picture of: {order.prompt}"
        data.append(entry)
    body["data"] = data
    if pad and order.response_format == "url":
        body["padding"] = "-" * pad
    return json.dumps(body).encode()


def _read(request: Request, endpoint: Endpoint | None, api_keys: Sequence[str], outcome: Outcome) -> PictureOrder:
    if endpoint is None:
        raise Refusal(f"Unknown URL: {request.path}.", status=404, code="unknown_url")
    if request.method != "POST":
        raise Refusal(f"{request.method} is not allowed here.", status=405, code="method_not_allowed")
    check_key(request.header("authorization"), api_keys)
    content_type = request.header("content-type")
    if endpoint == "generations":
        media_type(content_type, "application/json")
        outcome.fields = read_json(bytes(request.body))
        return check_generation(outcome.fields)
    parts = read_form(media_type(content_type, "multipart/form-data"), bytes(request.body))
    outcome.fields = read_texts(parts)
    outcome.parts = tuple(_recorded(part) for part in parts)
    return check_edit(parts)


def _draw(order: PictureOrder, painter: Painter, index: int) -> bytes:
    if order.image is None:
        return painter.generation(order.prompt, order.size, index)
    try:
        return painter.edit(order.image, order.mask, order.prompt, order.size, index)
    except UnreadablePicture as exc:
        raise Refusal(f"image and mask must be PNGs: {exc}.", code="invalid_image", param="image") from exc


def _recorded(part: Part) -> RecordedPart:
    return RecordedPart(
        name=part.name,
        filename=part.filename,
        content_type=part.content_type,
        headers=part.headers,
        length=len(part.data),
        sha256=hashlib.sha256(part.data).hexdigest(),
    )
