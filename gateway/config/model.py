"""The shape of the configuration file: every key, its type, its default and what it is for.

The descriptions feed the JSON Schema (`gateway schema`) and so the editors. Only what can be said of one value alone
is checked here; what two values must agree on is `checks`, and what it all means is `compile`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.config.quantities import Budget, ByteSize, Count, Duration, Money, Percent, Switch
from gateway.config.values import (
    Address,
    Distinct,
    Id,
    ImageSize,
    Instant,
    KeyHash,
    KeySetAddress,
    Line,
    ModelName,
    Moment,
    Network,
    OneOrMore,
    Parameter,
    PublicKey,
    Quality,
    SecretValue,
    WebAddress,
    Zone,
)

Endpoint = Literal["generations", "edits"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]
NonEmpty = Annotated[Line, Field(min_length=1, max_length=1000)]


def spelt(text: str) -> Any:
    """Give a default as the file spells it; it is then read like the file's own values."""
    return text


class Section(BaseModel):
    """A mapping of the file. An unknown key is an error: a misspelt limit must not be no limit.

    Defaults are spelt as in the file and read like it, so that the schema shows them as an editor would write them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ListenSection(Section):
    """Where the gateway listens. Changes need a restart."""

    public: Address = Field(default=spelt("0.0.0.0:8080"), description="host:port for the teams")
    admin: Address = Field(
        default=spelt("127.0.0.1:9464"), description="host:port for operators: metrics, health, dashboard"
    )
    admin_token: SecretValue | None = Field(
        default=None,
        description="Bearer token for /metrics and the dashboard, never for health; as env:NAME or file:/path",
    )
    trusted_proxies: Annotated[tuple[Network, ...], Distinct] = Field(
        default=(), description="Networks whose X-Forwarded-For is believed"
    )
    workers: Annotated[Count, Field(le=256)] = Field(default=2, description="Worker processes")


class AccountSection(Section):
    """A key at 3xCoder."""

    name: Id = Field(description="Names the account in metrics and logs")
    api_key: SecretValue = Field(description="The key at 3xCoder, as env:NAME or file:/path")
    max_concurrent: Count = Field(
        default=100, description="Requests in flight with this key, over all workers and hosts"
    )


class UpstreamSection(Section):
    """3xCoder, as the gateway reaches it."""

    base_url: WebAddress = Field(default="https://api.3xcoder.com/v1", description="Where 3xCoder's API begins")
    accounts: Annotated[tuple[AccountSection, ...], Field(min_length=1)] = Field(
        description="One or several keys at 3xCoder"
    )
    connect_timeout: Duration = Field(default=spelt("5s"), description="Time to connect, TLS included")
    total_timeout: Duration = Field(
        default=spelt("280s"),
        description="Time for an answer from the closing bytes on; under 300s, when a Node client gives up",
    )
    edit_framing: Literal["auto", "chunked", "spool"] = Field(
        default="auto",
        description="How edits go up: auto sends chunks and, after a 411 or 501, spools the next edits to a file first",
    )


class SentinelSection(Section):
    """How Redis Sentinel is asked for the master."""

    name: NonEmpty = Field(description="The master's name at the sentinels")
    nodes: Annotated[tuple[Address, ...], Field(min_length=1), Distinct] = Field(description="The sentinels' host:port")


class StoreSection(Section):
    """Where counters live. Changes need a restart."""

    kind: Literal["embedded", "redis", "sentinel", "cluster"] = Field(
        description="embedded (this host only), redis, sentinel or cluster; there is no default"
    )
    url: SecretValue | None = Field(
        default=None, description="redis:// or rediss:// URL as env:NAME or file:/path; an unset variable is an error"
    )
    sentinel: SentinelSection | None = Field(default=None, description="For kind sentinel")
    data_dir: NonEmpty = Field(
        default="./gateway-data", description="Folder for data of this host, relative to this file"
    )
    namespace: Id = Field(default="gateway", description="Begins all keys, so that two gateways may share a store")
    when_down: Literal["deny", "allow"] = Field(
        default="deny", description="While the store is away: deny refuses, allow passes unmetered and counts that"
    )


class RequestLimitsSection(Section):
    """Bounds on one request."""

    max_image_size: ByteSize = Field(
        default=spelt("4MB"), description="Each image or mask of an edit; MB = 1024 * 1024"
    )
    max_json_size: ByteSize = Field(default=spelt("512KB"), description="The body of a generation")
    max_prompt_chars: Count = Field(default=32_000, description="Characters of a prompt")
    max_inflight_per_worker: Count = Field(default=5_000, description="Requests in a worker, then 503 overloaded")
    header_timeout: Duration = Field(default=spelt("10s"), description="Time for a request's head")
    body_idle_timeout: Duration = Field(default=spelt("15s"), description="Time without a byte of the body")
    body_total_timeout: Duration = Field(default=spelt("120s"), description="Time for the whole body")


class EditsSection(Section):
    """What an edit costs and takes. 3xCoder takes no quality on edits."""

    quality: Quality = Field(default="standard", description="The quality an edit is charged as; none is sent")
    max_images: Annotated[Count, Field(le=16)] = Field(
        default=1, description="Images of one edit, the mask not counted"
    )


class ModelSection(Section):
    """A model as teams may order it."""

    upstream_name: NonEmpty | None = Field(
        default=None, description="The name that goes up; default: the key of this entry"
    )
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1), Distinct] = Field(
        default=("generations", "edits"), description="What the model can do"
    )
    sizes: Annotated[tuple[ImageSize, ...], Field(min_length=1), Distinct] = Field(
        default=("1024x1024", "1792x1024", "1024x1792"), description="Sizes that may be ordered, width by height"
    )
    qualities: Annotated[tuple[Quality, ...], Field(min_length=1), Distinct] = Field(
        default=("standard", "hd"), description="Qualities that may be ordered"
    )
    default_size: ImageSize = Field(
        default="1024x1024", description="Written out when a request names none: it decides the price"
    )
    default_quality: Quality = Field(default="standard", description="Written out when a request names none")
    max_n: Annotated[Count, Field(le=10)] = Field(
        default=10, description="Images of one request; 3xCoder makes at most 10"
    )
    edits: EditsSection = Field(default_factory=EditsSection, description="What an edit costs and takes")
    price_usd: dict[Quality, dict[ImageSize, Money]] = Field(
        default={}, description="US dollars an image by quality and size, at most 6 decimals"
    )
    parameters: dict[Parameter, Literal["string", "integer", "number", "boolean"]] = Field(
        default={"user": "string"}, description="Fields let through beside the documented ones, with their JSON type"
    )
    ignore: Annotated[tuple[Parameter, ...], Distinct] = Field(
        default=("background", "moderation"),
        description="Fields taken off without a word; any other unknown one is refused",
    )


class QuotaLine(Section):
    """One rule, or a grant to one (`adds_to`). Exactly one of images, usd, requests and concurrent."""

    images: Count | None = Field(default=None, description="At most so many images")
    usd: Budget | None = Field(default=None, description="At most so many US dollars")
    requests: Count | None = Field(default=None, description="At most so many requests")
    concurrent: Count | None = Field(default=None, description="At most so many requests in flight")
    per: Literal["minute", "hour", "day", "week", "month", "total"] | None = Field(
        default=None,
        description="The window: minute and hour slide, day, week and month follow the calendar; none on concurrent",
    )
    model: Annotated[tuple[ModelName, ...] | None, OneOrMore, Distinct] = Field(
        default=None, description="Binds these models only"
    )
    size: Annotated[tuple[ImageSize, ...] | None, OneOrMore, Distinct] = Field(
        default=None, description="Binds these sizes only"
    )
    quality: Annotated[tuple[Quality, ...] | None, OneOrMore, Distinct] = Field(
        default=None, description="Binds these qualities only"
    )
    endpoint: Annotated[tuple[Endpoint, ...] | None, OneOrMore, Distinct] = Field(
        default=None, description="Binds these endpoints only"
    )
    name: Id | None = Field(default=None, description="Default: derived without the number, as images-day-hd")
    mode: Literal["enforce", "shadow"] = Field(
        default="enforce", description="shadow counts and reports, never refuses"
    )
    warn_at: Annotated[tuple[Percent, ...], Distinct] = Field(
        default=(), description="Percentages of the limit that warn"
    )
    wait: Duration | None = Field(
        default=None, description="On concurrent: how long a request is held before it is refused"
    )
    adds_to: NonEmpty | None = Field(
        default=None, description="Makes this line a grant: it adds to the limit of the rule so named"
    )
    until: Moment | None = Field(default=None, description="A grant's last day in the team's zone, or an RFC 3339 time")


Quotas = tuple[QuotaLine, ...]


class PlanSection(Section):
    """A template of rules: each team with the plan has counters of its own."""

    quotas: Annotated[Quotas, Field(min_length=1)] = Field(description="The plan's rules")


class KeySection(Section):
    """A key of a team. Only its hash stands in the file."""

    id: Id = Field(description="Names the key in metrics and logs")
    sha256: KeyHash = Field(description="SHA-256 of the key in hexadecimal; `gateway keys new` prints it")
    expires: Moment | None = Field(
        default=None, description="The key's last day in the team's zone, or an RFC 3339 time"
    )


class TeamSection(Section):
    """A team: what it may use, its keys and its rules."""

    plan: Id | None = Field(default=None, description="The plan whose rules the team begins with")
    timezone: Zone | None = Field(default=None, description="For the team's windows and dates; default: the file's")
    contact: NonEmpty | None = Field(default=None, description="Ends the team's messages: Ask …; default: the file's")
    suspended: NonEmpty | None = Field(default=None, description="The reason; every request is then refused with it")
    unlimited: Switch = Field(default=False, description="true says that a team without plan and quotas is meant so")
    models: Annotated[tuple[ModelName, ...] | None, Distinct] = Field(
        default=None, description="Models it may use; default all"
    )
    sizes: Annotated[tuple[ImageSize, ...] | None, Distinct] = Field(
        default=None, description="Sizes it may use; default all"
    )
    qualities: Annotated[tuple[Quality, ...] | None, Distinct] = Field(
        default=None, description="Qualities it may use; default all"
    )
    endpoints: Annotated[tuple[Endpoint, ...] | None, Distinct] = Field(
        default=None, description="Endpoints it may use; default all"
    )
    keys: tuple[KeySection, ...] = Field(default=(), description="The team's keys")
    tokens_revoked_before: Instant | None = Field(
        default=None, description="An RFC 3339 time; JWTs for the team that were issued before are void"
    )
    quotas: Quotas = Field(
        default=(), description="Rules beside the plan's; on the same counter and mode they replace it"
    )


class OrganizationSection(Section):
    """Rules over all teams together."""

    quotas: Quotas = Field(default=(), description="The rules")


class JwtIssuerSection(Section):
    """Who may sign tokens for teams. Exactly one of jwks_url, jwks_file, public_key and secret."""

    issuer: NonEmpty = Field(description="The token's iss")
    audience: NonEmpty = Field(description="One of the token's aud")
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1), Distinct] = Field(
        default=("RS256",), description="Signatures that are accepted; HS256, HS384 and HS512 go with secret alone"
    )
    team_claim: NonEmpty = Field(default="team", description="The claim that holds the team's id")
    jwks_url: KeySetAddress | None = Field(default=None, description="Where the issuer publishes its keys")
    jwks_file: NonEmpty | None = Field(default=None, description="A file with the issuer's keys, relative to this file")
    public_key: PublicKey | None = Field(
        default=None, description="The issuer's public key: PEM text, or env:NAME or file:/path"
    )
    secret: SecretValue | None = Field(default=None, description="A shared secret, as env:NAME or file:/path")
    revoked_keys: Annotated[tuple[NonEmpty, ...], Distinct] = Field(
        default=(), description="Keys of the issuer's set, by kid, that verify nothing any more"
    )
    revoked_tokens: Annotated[tuple[NonEmpty, ...], Distinct] = Field(
        default=(), description="Tokens that are void, by jti"
    )
    revoked_before: Instant | None = Field(
        default=None, description="An RFC 3339 time; tokens issued before (iat), or without a time, are void"
    )


class IdempotencySection(Section):
    """How long answers are kept for callers that send the same Idempotency-Key again."""

    keep: Duration = Field(default=spelt("1h"), description="How long an answer is kept")
    max_answer: ByteSize = Field(default=spelt("256KB"), description="The largest answer that is kept")


class Config(Section):
    """The image gateway's configuration file."""

    timezone: Zone = Field(
        default="UTC", description="For organization rules and teams that name none; weeks begin on Monday"
    )
    contact: NonEmpty = Field(
        default="the gateway's operators", description="Ends every 401, 403 and quota message: Ask …"
    )
    listen: ListenSection = Field(default_factory=ListenSection, description="Where the gateway listens")
    upstream: UpstreamSection = Field(description="3xCoder, as the gateway reaches it")
    store: StoreSection = Field(description="Where counters live")
    request_limits: RequestLimitsSection = Field(
        default_factory=RequestLimitsSection, description="Bounds on one request"
    )
    default_model: ModelName | None = Field(
        default=None, description="For requests that name none; may be left out where there is one model"
    )
    models: Annotated[dict[ModelName, ModelSection], Field(min_length=1)] = Field(
        description="What may be ordered, by the name teams use"
    )
    plans: dict[Id, PlanSection] = Field(default={}, description="Templates of rules by name")
    teams: dict[Id, TeamSection] = Field(default={}, description="Teams by id")
    organization: OrganizationSection = Field(
        default_factory=OrganizationSection, description="Rules over all teams together"
    )
    jwt_issuers: dict[Id, JwtIssuerSection] = Field(default={}, description="Issuers of tokens by name")
    idempotency: IdempotencySection = Field(default_factory=IdempotencySection, description="Idempotency-Key")
