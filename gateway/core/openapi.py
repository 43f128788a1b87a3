"""The description of the public port (OpenAPI 3.1), made from what orders are read by: the models of the config, the
documented parameters, the tree of errors. It holds nothing of any team, no price, no upstream name and no secret.
"""

from collections.abc import Iterator

from gateway.core.catalog import Model, Settings
from gateway.core.errors import ClientGone, GatewayError, QuotaExceeded, UpstreamRefused
from gateway.core.orders import CHOICES, DOCUMENTED, Endpoint

Schema = dict[str, object]

_IGNORED: Schema = {"description": "Taken off, whatever it is."}
_FILE: Schema = {"type": "string", "format": "binary", "contentMediaType": "image/png"}
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "All that a person needs to know."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "quota": {"type": "array", "items": {"type": "object"}, "description": "The rules that refuse."},
                "charged": {"description": "What an order of unknown outcome was charged."},
            },
        }
    },
}
_IMAGES: Schema = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "created": {"type": "integer"},
        "data": {
            "type": "array",
            "items": {"type": "object", "properties": {"url": {"type": "string"}, "b64_json": {"type": "string"}}},
        },
    },
}
_MODEL: Schema = {
    "type": "object",
    "required": ["id", "object", "endpoints", "sizes", "qualities", "max_n", "price_usd"],
    "properties": {"id": {"type": "string"}, "object": {"const": "model"}, "max_n": {"type": "integer"}},
}
_MODELS: Schema = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL}},
}
_USAGE: Schema = {
    "type": "object",
    "required": ["object", "team", "timezone", "rules", "today", "month"],
    "properties": {"object": {"const": "usage"}, "rules": {"type": "array", "items": {"type": "object"}}},
}
_HEALTH: Schema = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}

_ID: Schema = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_IDEMPOTENCY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same order is made and charged once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def description(settings: Settings, *, version: str) -> Schema:
    """The whole document, as JSON values."""
    keyed: Schema = {"security": [{"bearer": []}, {"apiKey": []}]}
    paths: dict[str, Schema] = {
        "/v1/images/generations": {"post": {**keyed, **_order("generations", settings)}},
        "/v1/images/edits": {"post": {**keyed, **_order("edits", settings)}},
        "/v1/models": {"get": {**keyed, **_read("listModels", "The models your team may use.", _MODELS)}},
        "/v1/models/{id}": {"parameters": [_ID], "get": {**keyed, **_read("getModel", "One of them.", _MODEL)}},
        "/v1/usage": {"get": {**keyed, **_read("getUsage", "What your team has used, and what is left.", _USAGE)}},
        "/openapi.json": {"get": _read("describe", "This description.", {"type": "object"})},
        "/healthz": {"get": _read("health", "Whether the process lives.", _HEALTH)},
        "/readyz": {"get": _read("readiness", "Whether to send it requests.", _HEALTH, unready=True)},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Image gateway",
            "version": version,
            "description": f"3xCoder's image API with the company's keys and quotas. Ask {settings.contact}",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
            "schemas": {"Error": _ERROR, "Images": _IMAGES},
        },
    }


def _order(endpoint: Endpoint, settings: Settings) -> Schema:
    """A POST that makes images. Each model has a schema of its own: sizes and qualities differ."""
    models = [model for model in settings.models.values() if endpoint in model.endpoints]
    schemas = [_body(model, endpoint, settings) for model in models]
    media = "application/json" if endpoint == "generations" else "multipart/form-data"
    content: Schema = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    if endpoint == "edits":
        content["encoding"] = {name: {"contentType": "image/png"} for name in ("image", "mask")}
    return {
        "operationId": "createImages" if endpoint == "generations" else "editImages",
        "summary": "Makes images." if endpoint == "generations" else "Makes images from a PNG of yours.",
        "parameters": [_IDEMPOTENCY],
        "requestBody": {"required": True, "content": {media: content}},
        "responses": {"200": _answer("The images.", {"$ref": "#/components/schemas/Images"}), **_refusals()},
    }


def _body(model: Model, endpoint: Endpoint, settings: Settings) -> Schema:
    """What an order of this model may say. Null leaves a parameter of JSON open; a form has no null."""
    qualities = model.qualities if endpoint == "generations" else (model.edit_quality,)
    known: dict[str, Schema] = {
        "model": {"enum": [model.alias]},
        "prompt": {"type": "string", "pattern": r"\S", "maxLength": settings.limits.max_prompt_chars},
        "n": {"type": "integer", "minimum": 1, "maximum": model.max_n, "default": 1},
        "size": {"enum": [*model.sizes, "auto"], "default": model.default_size},
        "quality": {"enum": [*qualities, "auto"], "default": qualities[0]},
        **{name: {"enum": list(values)} for name, values in CHOICES.items()},
        **{name: {"type": kind} for name, kind in model.parameters.items()},
    }
    documented = DOCUMENTED[endpoint]
    if endpoint == "generations":
        known["quality"]["default"] = model.default_quality
    properties = {name: schema for name, schema in known.items() if name in (*documented, *model.parameters)}
    required = ["prompt"] if model.alias == settings.default_model else ["model", "prompt"]
    if endpoint == "generations":
        properties = {k: v if k in required else _or_null(v) for k, v in properties.items()}
        properties |= dict.fromkeys(sorted(model.ignore), _IGNORED)
    else:
        properties |= {name: {"type": "string"} for name in sorted(model.ignore)}
        properties |= _files(model)
        required = [*required, "image"] if model.edit_max_images == 1 else required
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def _files(model: Model) -> dict[str, Schema]:
    files: dict[str, Schema] = {"image": _FILE, "mask": _FILE}
    if model.edit_max_images > 1:
        files["image[]"] = {"type": "array", "items": _FILE, "minItems": 1, "maxItems": model.edit_max_images}
    return files


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _read(operation: str, summary: str, schema: Schema, *, unready: bool = False) -> Schema:
    responses: Schema = {"200": _answer(summary, schema)}
    if unready:
        return {
            "operationId": operation,
            "summary": summary,
            "responses": {**responses, "503": _answer("Not now.", schema)},
        }
    return {"operationId": operation, "summary": summary, "responses": {**responses, **_refusals()}}


def _answer(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _refusals() -> dict[str, object]:
    """An answer for each status of the error tree, with its codes."""
    codes: dict[int, list[str]] = {}
    for error in _errors(GatewayError):
        if error.code is not None and error not in (ClientGone, QuotaExceeded, UpstreamRefused):
            told = codes.setdefault(error.status, [])
            told += [error.code] if error.code not in told else []
    shape: Schema = {"$ref": "#/components/schemas/Error"}
    return {str(status): _answer(", ".join(codes[status]), shape) for status in sorted(codes)}


def _errors(root: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _errors(kind)
