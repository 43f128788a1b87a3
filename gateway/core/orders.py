"""An order: what one request asks for, decided once and the same for the price, the quota and the upstream."""

from dataclasses import dataclass, field
from typing import Literal

Endpoint = Literal["generations", "edits"]


@dataclass(frozen=True, slots=True)
class Order:
    """What will be priced, charged and sent. `model` is the alias teams use; `size` is ``WIDTHxHEIGHT``.

    fields: the rest that goes up beside model, n, size and quality (prompt, style, response_format, and the
    parameters the config lets through), decoded and validated.
    """

    endpoint: Endpoint
    model: str
    n: int
    size: str
    quality: str
    fields: tuple[tuple[str, object], ...] = field(default=(), repr=False)
