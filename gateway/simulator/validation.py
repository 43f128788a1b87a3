"""Every parameter of the API document, checked: a request becomes an order for pictures or a Refusal.

Stricter than kind: null, unknown and repeated fields, numbers in another form, a file where text belongs are all
refused, so that whatever the gateway should not have sent does not pass unseen. Reading and checking are two steps:
the record shows what a request said even where it is refused.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from gateway.simulator.drawing import Size, UnreadablePicture, png_size
from gateway.simulator.form import Part
from gateway.simulator.refusal import Refusal

Endpoint = Literal["generations", "edits"]

SIZES = ("256x256", "512x512", "1024x1024", "1792x1024", "1024x1792")
MAX_IMAGES = 10
MAX_FILE_BYTES = 4 * 1024 * 1024

_CHOICES = {
    "size": SIZES,
    "quality": ("standard", "hd"),
    "style": ("vivid", "natural"),
    "response_format": ("url", "b64_json"),
}
_GENERATION_FIELDS = frozenset({"prompt", "model", "n", "user", *_CHOICES})
_EDIT_FIELDS = frozenset({"prompt", "model", "n", "user", "size", "response_format"})
_EDIT_FILES = frozenset({"image", "mask"})
_COUNT = re.compile(r"0|[1-9][0-9]{0,8}")  # more digits are no count, and int() need not meet them


@dataclass(frozen=True, slots=True)
class PictureOrder:
    """What is to be drawn. size in pixels; image and mask are PNG files, for edits only."""

    endpoint: Endpoint
    prompt: str
    n: int
    size: Size
    response_format: str
    image: bytes | None = field(default=None, repr=False)
    mask: bytes | None = field(default=None, repr=False)


def check_key(authorization: Sequence[str], api_keys: Sequence[str]) -> None:
    """Raises Refusal (401) unless there is one Authorization header with one of the keys as Bearer."""
    if not authorization:
        raise Refusal("You didn't provide an API key.", status=401, code="invalid_api_key")
    scheme, _, key = authorization[0].partition(" ")
    if len(authorization) > 1 or scheme.lower() != "bearer" or key not in api_keys:
        raise Refusal("Incorrect API key provided.", status=401, code="invalid_api_key")


def media_type(content_type: Sequence[str], expected: str) -> str:
    """The one Content-Type header's value; Refusal (415) if it is missing, repeated or of another type."""
    if len(content_type) != 1 or content_type[0].partition(";")[0].strip().lower() != expected:
        raise Refusal(f"Content-Type must be {expected}.", status=415, code="unsupported_media_type")
    return content_type[0]


def read_json(body: bytes) -> tuple[tuple[str, object], ...]:
    """The members of the body's JSON object in their order, repeated ones too."""
    objects: list[list[tuple[str, object]]] = []

    def keep(pairs: list[tuple[str, object]]) -> dict[str, object]:
        objects.append(pairs)
        return dict(pairs)

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=keep, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise Refusal("We could not parse the JSON body of your request.") from exc
    if not isinstance(value, dict):
        raise Refusal("The JSON body must be an object.")
    return tuple(objects[-1])  # the outermost object is the last to end


def read_texts(parts: Sequence[Part]) -> tuple[tuple[str, object], ...]:
    """The text fields of a form in their order; bytes that are no UTF-8 show as U+FFFD here and are refused later."""
    return tuple((part.name, part.data.decode("utf-8", "replace")) for part in parts if part.filename is None)


def check_generation(fields: Sequence[tuple[str, object]]) -> PictureOrder:
    """POST /v1/images/generations."""
    _check_names([name for name, _ in fields], _GENERATION_FIELDS)
    values = dict(fields)
    n = values.get("n", 1)
    if isinstance(n, bool) or not isinstance(n, int):
        raise Refusal("n must be an integer.", code="invalid_type", param="n")
    return _order("generations", values, n)


def check_edit(parts: Sequence[Part]) -> PictureOrder:
    """POST /v1/images/edits."""
    _check_names([part.name for part in parts], _EDIT_FIELDS | _EDIT_FILES)
    values: dict[str, object] = {}
    files: dict[str, bytes] = {}
    for part in parts:
        if (part.filename is None) == (part.name in _EDIT_FILES):
            raise Refusal("Files have a file name, text fields have none.", code="invalid_type", param=part.name)
        if part.name in _EDIT_FILES:
            files[part.name] = part.data
        else:
            values[part.name] = _text(part)
    count = str(values.pop("n", "1"))
    if not _COUNT.fullmatch(count):
        raise Refusal("n must be an integer.", code="invalid_type", param="n")
    if "image" not in files:
        raise Refusal("Missing required parameter: 'image'.", code="missing_required_parameter", param="image")
    sizes = {name: _check_file(name, data) for name, data in files.items()}
    if sizes.get("mask", sizes["image"]) != sizes["image"]:
        raise Refusal("The mask must have the image's size.", code="invalid_image", param="mask")
    return _order("edits", values, int(count), files)


def _order(
    endpoint: Endpoint, values: dict[str, object], n: int, files: dict[str, bytes] | None = None
) -> PictureOrder:
    for name in ("prompt", "model", "user", *_CHOICES):
        value = values.get(name, "-")
        if not isinstance(value, str):
            raise Refusal(f"{name} must be a string.", code="invalid_type", param=name)
        if name in _CHOICES and name in values and value not in _CHOICES[name]:
            raise Refusal(f"Invalid value: {name} is one of {', '.join(_CHOICES[name])}.", param=name)
    prompt = str(values.get("prompt", ""))
    if "prompt" not in values:
        raise Refusal("Missing required parameter: 'prompt'.", code="missing_required_parameter", param="prompt")
    if not prompt.strip() or any("\ud800" <= character <= "\udfff" for character in prompt):
        raise Refusal("prompt must be non-empty Unicode text.", param="prompt")
    if values.get("model") == "":
        raise Refusal("model must not be empty.", param="model")
    if not 1 <= n <= MAX_IMAGES:
        raise Refusal(f"n must be between 1 and {MAX_IMAGES}.", param="n")
    width, _, height = str(values.get("size", "1024x1024")).partition("x")
    files = files or {}
    return PictureOrder(
        endpoint=endpoint,
        prompt=prompt,
        n=n,
        size=(int(width), int(height)),
        response_format=str(values.get("response_format", "url")),
        image=files.get("image"),
        mask=files.get("mask"),
    )


def _check_names(names: Sequence[str], known: frozenset[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name not in known:
            raise Refusal(f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name)
        if name in seen:
            raise Refusal(f"Duplicate parameter: '{name}'.", code="duplicate_parameter", param=name)
        seen.add(name)


def _check_file(name: str, data: bytes) -> Size:
    if len(data) > MAX_FILE_BYTES:
        raise Refusal(f"{name} must be at most 4 MB.", code="invalid_image", param=name)
    try:
        return png_size(data)
    except UnreadablePicture as exc:
        raise Refusal(f"{name} must be a PNG: {exc}.", code="invalid_image", param=name) from exc


def _text(part: Part) -> str:
    try:
        return part.data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Refusal(f"{part.name} is not UTF-8.", param=part.name) from exc


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
