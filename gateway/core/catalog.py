"""What the config says, compiled: frozen, typed, checked. Every part of the gateway reads these, none reads YAML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from gateway.core.quota import Rule
from gateway.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Model:
    """A model as teams see it under `alias`; `upstream_name` is what goes up.

    prices: micro-dollars an image by (quality, size); a pair that is missing has no price.
    parameters: extra JSON fields let through, name -> string | integer | number | boolean.
    ignore: fields that are taken off without a word.
    """

    alias: str
    upstream_name: str
    endpoints: frozenset[str]
    sizes: tuple[str, ...]
    qualities: tuple[str, ...]
    default_size: str
    default_quality: str
    max_n: int
    edit_quality: str
    edit_max_images: int
    prices: Mapping[tuple[str, str], int]
    parameters: Mapping[str, str]
    ignore: frozenset[str]


@dataclass(frozen=True, slots=True)
class Team:
    """A team's permissions and its own rules (plan and team merged). None in a permission allows all.

    suspended: the reason, or None. rules: without the organization's. plan: its name, or None; planned: the rules that
    the plan alone would give the team. tokens_revoked_before: unix seconds; tokens that name the team and were issued
    before are void. None voids none.
    """

    id: str
    zone: str
    contact: str
    suspended: str | None
    models: frozenset[str] | None
    sizes: frozenset[str] | None
    qualities: frozenset[str] | None
    endpoints: frozenset[str] | None
    rules: tuple[Rule, ...]
    plan: str | None = None
    planned: tuple[Rule, ...] = ()
    tokens_revoked_before: float | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """An opaque key: who it belongs to and till when. expires: unix seconds, exclusive; None never."""

    team: str
    id: str
    digest: bytes = field(repr=False)
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """A key at the upstream. max_concurrent: requests in flight over all workers and hosts."""

    name: str
    api_key: Secret
    max_concurrent: int


@dataclass(frozen=True, slots=True)
class Upstream:
    """base_url ends without a slash. Times in seconds."""

    base_url: str
    accounts: tuple[Account, ...]
    connect_timeout: float
    total_timeout: float
    edit_framing: Literal["auto", "chunked", "spool"]


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds on one request. Sizes in bytes, times in seconds."""

    max_image_size: int
    max_json_size: int
    max_prompt_chars: int
    max_inflight_per_worker: int
    header_timeout: float
    body_idle_timeout: float
    body_total_timeout: float


@dataclass(frozen=True, slots=True)
class Listen:
    """Addresses are (host, port). admin_token: Bearer for /metrics and the dashboard; None asks for none."""

    public: tuple[str, int]
    admin: tuple[str, int]
    admin_token: Secret | None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    workers: int


@dataclass(frozen=True, slots=True)
class Store:
    """data_dir is absolute. nodes: Sentinel's addresses."""

    kind: Literal["embedded", "redis", "sentinel", "cluster"]
    url: Secret | None
    sentinel_name: str | None
    sentinel_nodes: tuple[tuple[str, int], ...]
    data_dir: str
    namespace: str
    when_down: Literal["deny", "allow"]


@dataclass(frozen=True, slots=True)
class JwtIssuer:
    """Who may sign tokens, and what of that is void: keys by kid, tokens by jti, all issued before (unix seconds)."""

    name: str
    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    team_claim: str
    jwks_url: str | None
    jwks_file: str | None
    public_key: str | None
    secret: Secret | None
    revoked_keys: frozenset[str] = frozenset()
    revoked_tokens: frozenset[str] = frozenset()
    revoked_before: float | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """keep in seconds, max_answer in bytes."""

    keep: float
    max_answer: int


@dataclass(frozen=True, slots=True)
class Settings:
    """One version of the config. hash: SHA-256 of the file's bytes, the first 12 hex digits."""

    hash: str
    zone: str
    contact: str
    listen: Listen
    upstream: Upstream
    store: Store
    limits: RequestLimits
    default_model: str
    models: Mapping[str, Model]
    teams: Mapping[str, Team]
    keys: Mapping[bytes, Key] = field(repr=False)
    organization: tuple[Rule, ...]
    jwt_issuers: tuple[JwtIssuer, ...]
    idempotency: Idempotency
