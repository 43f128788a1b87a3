"""A small catalogue for tests of the readers: two models, one of them with room for lists of images."""

from collections.abc import Mapping
from dataclasses import replace

from gateway.core.catalog import Idempotency, Listen, Model, RequestLimits, Settings, Store, Team, Upstream

DALLE = Model(
    alias="dall-e-3",
    upstream_name="vendor/dall-e-3",
    endpoints=frozenset({"generations", "edits"}),
    sizes=("1024x1024", "1792x1024", "1024x1792"),
    qualities=("standard", "hd"),
    default_size="1024x1024",
    default_quality="standard",
    max_n=10,
    edit_quality="standard",
    edit_max_images=1,
    prices={
        ("standard", "1024x1024"): 40_000,
        ("standard", "1792x1024"): 80_000,
        ("standard", "1024x1792"): 80_000,
        ("hd", "1024x1024"): 80_000,
        ("hd", "1792x1024"): 120_000,
        ("hd", "1024x1792"): 120_000,
    },
    parameters={"user": "string", "seed": "integer", "guidance": "number", "tile": "boolean"},
    ignore=frozenset({"background", "moderation"}),
)

COLLAGE = replace(
    DALLE,
    alias="collage",
    upstream_name="vendor/collage",
    endpoints=frozenset({"edits"}),
    sizes=("512x512",),
    qualities=("low",),
    default_size="512x512",
    default_quality="low",
    max_n=1,
    edit_quality="low",
    edit_max_images=4,
    prices={("low", "512x512"): 5_000},
)

TEAM = Team(
    id="design",
    zone="UTC",
    contact="ops@example.com",
    suspended=None,
    models=None,
    sizes=None,
    qualities=None,
    endpoints=None,
    rules=(),
)


def settings(models: Mapping[str, Model] | None = None) -> Settings:
    return Settings(
        hash="0" * 12,
        zone="UTC",
        contact="ops@example.com",
        listen=Listen(public=("", 0), admin=("", 0), admin_token=None, trusted_proxies=(), workers=1),
        upstream=Upstream(
            base_url="http://up", accounts=(), connect_timeout=5.0, total_timeout=280.0, edit_framing="auto"
        ),
        store=Store(
            kind="embedded",
            url=None,
            sentinel_name=None,
            sentinel_nodes=(),
            data_dir="/d",
            namespace="gateway",
            when_down="deny",
        ),
        limits=RequestLimits(
            max_image_size=4 << 20,
            max_json_size=512 << 10,
            max_prompt_chars=100,
            max_inflight_per_worker=5000,
            header_timeout=10.0,
            body_idle_timeout=15.0,
            body_total_timeout=120.0,
        ),
        default_model="dall-e-3",
        models=models or {"dall-e-3": DALLE, "collage": COLLAGE},
        teams={"design": TEAM},
        keys={},
        organization=(),
        jwt_issuers=(),
        idempotency=Idempotency(keep=3600.0, max_answer=256 << 10),
    )
