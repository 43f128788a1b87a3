"""Names, places and moments as a config file holds them: how each is written, read and refused.

Every parser raises `ValueError` with a sentence that says what is wrong and what to write instead, and never repeats
what may be a secret. The types at the end are what the model's fields are made of.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator, PlainValidator, WithJsonSchema

from gateway.config.pem import public_key_kind
from gateway.config.problems import did_you_mean, shown
from gateway.config.quantities import Number
from gateway.core.hosts import is_this_one

RESERVED = frozenset({"organization", "other", "none"})  #: labels with a meaning of their own in metrics

#: Unix seconds. A day further out it may be the year 0 or 10000 in some zone, which no calendar here can say.
_FIRST = datetime(1, 1, 2, tzinfo=UTC).timestamp()
_LAST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

_IMAGE_SIZE = re.compile(r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}")
_ID = re.compile(r"[a-z0-9-]{1,63}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_VARIABLE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_FILE = re.compile(r"file:(/[^\0]+)")
_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _text(value: object, kind: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected {kind}, got {shown(value)}")  # noqa: TRY004  pydantic collects ValueError
    return str(value)


def line(value: object) -> str:
    """Read text for messages: one line that any terminal, header and log may carry."""
    text = _text(value, "text")
    if not text.isprintable():
        raise ValueError("expected text on one line without control characters")
    return text


def public_key(value: object) -> str:
    """Read a public key in PEM (RFC 7468), or where it is, as ``env:NAME`` or ``file:/path``."""
    text = _text(value, "a public key").strip()
    if text.startswith(("env:", "file:")):
        secret_ref(text)
    elif not text.startswith("-----BEGIN ") or "PRIVATE" in text or not text.isascii():
        raise ValueError("expected a public key as PEM text, or env:NAME or file:/path")
    else:
        public_key_kind(text)
    return text


def identifier(value: object) -> str:
    """Read an id: it becomes a metric label, a log field and part of the store's keys."""
    text = _text(value, "an id")
    if not _ID.fullmatch(text):
        lower = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
        advice = f": write {lower}" if _ID.fullmatch(lower) and not shown(text).startswith("a text") else ""
        raise ValueError(f"expected an id of 1 to 63 characters a-z, 0-9 and -, got {shown(text)}{advice}")
    if text in RESERVED:
        raise ValueError(f"{text!r} is taken, it has a meaning of its own in metrics: choose another")
    return text


def quality(value: object) -> str:
    """Read the name of a quality. ``auto`` is no quality: clients write it for the default."""
    text = identifier(value)
    if text == "auto":
        raise ValueError("'auto' is taken: clients write it for the default")
    return text


def model_name(value: object) -> str:
    """Read a model's name as teams write it."""
    text = _text(value, "a model's name")
    if not _MODEL_NAME.fullmatch(text):
        raise ValueError(f"expected a model's name of 1 to 128 characters A-Z a-z 0-9 . _ : / -, got {shown(text)}")
    if text in {"other", "none"}:
        raise ValueError(f"{text!r} is taken, it has a meaning of its own in metrics: choose another")
    return text


def image_size(value: object) -> str:
    """Read ``1024x1024``, width by height in pixels."""
    text = _text(value, "a size like 1024x1024")
    if _IMAGE_SIZE.fullmatch(text):
        return text
    meant = re.sub(r"\s*[xX\u00d7*]\s*", "x", text.strip())
    advice = f": write {meant}" if _IMAGE_SIZE.fullmatch(meant) else ""
    raise ValueError(f"expected a size like 1024x1024, got {shown(text)}{advice}")


def parameter(value: object) -> str:
    """Read the name of a field that the gateway does not decide itself. `style` is one on edits, which have none."""
    text = _text(value, "a parameter's name")
    if not _PARAMETER.fullmatch(text):
        raise ValueError(f"expected a parameter's name, got {shown(text)}")
    if text in {"model", "prompt", "n", "size", "quality", "response_format", "image", "mask"}:
        raise ValueError(f"{text!r} is a documented parameter and needs no entry")
    return text


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret comes from: an environment variable or a file, one of the two."""

    variable: str | None = None
    file: str | None = None


def secret_ref(value: object) -> SecretRef:
    """Read ``env:NAME`` or ``file:/path``. Anything else may be the secret itself and is never shown."""
    text = value if isinstance(value, str) else ""
    if match := _VARIABLE.fullmatch(text):
        return SecretRef(variable=match[1])
    if match := _FILE.fullmatch(text):
        return SecretRef(file=match[1])
    if text.startswith("file:"):
        raise ValueError("expected an absolute path after file:, as in file:/run/secrets/NAME")
    raise ValueError("expected env:NAME or file:/path; a secret never stands in this file, so the value is not shown")


def key_hash(value: object) -> str:
    """Read the SHA-256 of a key, 64 hexadecimal digits, into lower case."""
    text = value if isinstance(value, str) else ""
    if not _SHA256.fullmatch(text):
        raise ValueError("expected the SHA-256 of a key, 64 hexadecimal digits (from `gateway keys hash`)")
    return text.lower()


def address(value: object) -> tuple[str, int]:
    """Read ``host:port`` or ``[::1]:port`` into host and port; port 0 lets the system choose."""
    text = _text(value, "host:port")
    host, colon, port = text.rpartition(":")
    if not colon or not _HOST.fullmatch(host) or not _is_name(host) or not re.fullmatch(r"0|[1-9][0-9]{0,4}", port):
        advice = f": write 127.0.0.1:{value}" if isinstance(value, Number) and value.isdigit() else ""
        raise ValueError(f"expected host:port or [IPv6]:port, got {shown(text)}{advice}")
    if int(port) > 65535:
        raise ValueError(f"expected a port from 0 to 65535, got {port}")
    return host.strip("[]"), int(port)


def _is_name(host: str) -> bool:
    """Whether DNS can have the name at all: asked for one that it cannot, a resolver raises what is no OSError."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def network(value: object) -> IPv4Network | IPv6Network:
    """Read ``10.0.0.0/8`` or a single address."""
    text = _text(value, "a network like 10.0.0.0/8")
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        advice = f": write {ip_network(text, strict=False)}"
    except ValueError:
        advice = ""
    raise ValueError(f"expected a network like 10.0.0.0/8, got {shown(text)}{advice}")


def web_address(value: object) -> str:
    """Read an http or https URL without credentials, query or fragment; a closing slash is dropped."""
    text = _text(value, "a URL")
    try:
        url = urlsplit(text)
        usable = url.scheme in {"http", "https"} and bool(url.hostname)
    except ValueError:
        usable = False
    if not usable or not text.isascii() or re.search(r"[\s\\]", text):
        got = "one that is not shown, for it may have a password" if "@" in text else shown(text)
        raise ValueError(f"expected a URL that begins with https:// or http://, got {got}")
    if "@" in url.netloc:
        raise ValueError("expected a URL without credentials; they are not shown")
    if not _has_port(url):
        raise ValueError(f"expected a URL whose port, if it has one, is from 1 to 65535, got {shown(text)}")
    if not _is_name(url.hostname or ""):
        raise ValueError("expected a URL of a host that DNS can name: labels of 1 to 63 characters between dots")
    if "?" in text or "#" in text:
        raise ValueError("expected a URL without a query or fragment")
    return text.rstrip("/")


def _has_port(url: SplitResult) -> bool:
    """Whether the port is one that can be connected to, or left out."""
    try:
        return url.port != 0
    except ValueError:
        return False


def key_set_address(value: object) -> str:
    """Read where an issuer publishes its keys: by https, unless on this host."""
    text = web_address(value)
    url = urlsplit(text)
    if url.scheme != "https" and not is_this_one(url.hostname or ""):
        raise ValueError("expected https://: whoever can change what comes over http could sign for every team")
    return text


def zone(value: object) -> str:
    """Read an IANA time zone name."""
    text = _text(value, "a time zone like Europe/Berlin")
    try:
        ZoneInfo(text)
    except (OSError, ValueError, KeyError):  # a missing zone is a KeyError, a folder of zones an OSError
        raise ValueError(f"unknown time zone {shown(text)}{did_you_mean(text, available_timezones())}") from None
    return text


def moment(value: object) -> date:
    """Read a date, or an RFC 3339 time (which always names its offset)."""
    text = _text(value, "a date")
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
        if _RFC3339.fullmatch(text):
            return datetime.fromisoformat(text.upper())
    except ValueError:
        pass  # such as February 30: told below
    raise ValueError(
        f"expected a date like 2030-06-30, or a time like 2030-06-30T18:00:00+02:00, got {shown(value)}"
    ) from None


def instant(value: object) -> datetime:
    """Read an RFC 3339 time: a date alone would not say which of its seconds is meant."""
    text = str(value) if isinstance(value, str) else ""
    try:
        if _RFC3339.fullmatch(text):
            return datetime.fromisoformat(text.upper())
    except ValueError:
        pass  # such as hour 25: told below
    raise ValueError(f"expected a time like 2030-06-30T18:00:00+02:00, got {shown(value)}") from None


def end_of(moment: date, zone: str) -> float:
    """Unix seconds, exclusive, at which a `moment` is over: itself if it is a time, else the end of that day."""
    if isinstance(moment, datetime):
        return unix_seconds(moment)
    if moment == date.max:
        return _LAST
    return unix_seconds(datetime.combine(moment + timedelta(days=1), time.min, ZoneInfo(zone)))


def unix_seconds(instant: datetime) -> float:
    """An aware time as unix seconds, which can be told in every zone: 9999-12-31, written for `never`, too."""
    return min(max(instant.timestamp(), _FIRST), _LAST)


def distinct(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Refuse a list that says a thing twice."""
    seen: list[Any] = []
    for value in values or ():
        if value in seen:
            raise ValueError(f"{shown(value)} stands twice")
        seen.append(value)
    return values


def one_or_more(value: object) -> object:
    """Let a single value stand for a list of one."""
    return [value] if isinstance(value, str) else value


Line = Annotated[str, BeforeValidator(line)]
PublicKey = Annotated[str, PlainValidator(public_key), WithJsonSchema({"type": "string"})]
Id = Annotated[str, PlainValidator(identifier), WithJsonSchema({"type": "string", "pattern": f"^{_ID.pattern}$"})]
Quality = Annotated[str, PlainValidator(quality), WithJsonSchema({"type": "string", "pattern": f"^{_ID.pattern}$"})]
ModelName = Annotated[
    str, PlainValidator(model_name), WithJsonSchema({"type": "string", "pattern": f"^{_MODEL_NAME.pattern}$"})
]
ImageSize = Annotated[
    str, PlainValidator(image_size), WithJsonSchema({"type": "string", "pattern": f"^{_IMAGE_SIZE.pattern}$"})
]
Parameter = Annotated[
    str, PlainValidator(parameter), WithJsonSchema({"type": "string", "pattern": f"^{_PARAMETER.pattern}$"})
]
SecretValue = Annotated[
    SecretRef, PlainValidator(secret_ref), WithJsonSchema({"type": "string", "pattern": "^(env:[A-Za-z_]|file:/)"})
]
KeyHash = Annotated[
    str, PlainValidator(key_hash), WithJsonSchema({"type": "string", "pattern": f"^{_SHA256.pattern}$"})
]
Address = Annotated[
    tuple[str, int], PlainValidator(address), WithJsonSchema({"type": "string", "pattern": "^.+:[0-9]{1,5}$"})
]
Network = Annotated[IPv4Network | IPv6Network, PlainValidator(network), WithJsonSchema({"type": "string"})]
WebAddress = Annotated[str, PlainValidator(web_address), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
KeySetAddress = Annotated[
    str, PlainValidator(key_set_address), WithJsonSchema({"type": "string", "pattern": "^https?://"})
]
Zone = Annotated[str, PlainValidator(zone), WithJsonSchema({"type": "string"})]
Moment = Annotated[date, PlainValidator(moment), WithJsonSchema({"type": "string", "pattern": f"^{_DATE.pattern}"})]
Instant = Annotated[
    datetime, PlainValidator(instant), WithJsonSchema({"type": "string", "pattern": f"^{_DATE.pattern}[Tt ]"})
]
Distinct = AfterValidator(distinct)
OneOrMore = BeforeValidator(one_or_more)
