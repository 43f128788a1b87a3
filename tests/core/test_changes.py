"""What a change of the config is said to mean. Both versions are YAML, as an approver has them before him."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.compile import compile_settings
from gateway.config.file import parse
from gateway.core.catalog import Settings
from gateway.core.changes import differences, restart_needed, told
from gateway.core.quota import Unit
from gateway.core.secret import Secret

BASE = """\
timezone: UTC
contact: ops@example.com
listen: {admin_token: env:TOKEN}
upstream: {accounts: [{name: main, api_key: env:KEY}, {name: spare, api_key: env:SPARE}]}
store: {kind: redis, url: env:STORE}
default_model: dall-e-3
models:
  dall-e-3: {price_usd: {hd: {1024x1024: 0.08}, standard: {1024x1024: 0.04, 1792x1024: 0.08, 1024x1792: 0.08}}}
  other-model: {}
plans:
  small: {quotas: [{images: 100, per: day}, {concurrent: 4, wait: 30s}]}
teams:
  design:
    plan: small
    keys: [{id: ci, sha256: "aa", expires: 2030-06-30}]
    quotas: [{images: 500, per: month}, {images: 60, per: day, mode: shadow, name: trial}]
  research:
    timezone: Europe/Berlin
    quotas: [{requests: 40, per: hour, warn_at: [50%]}, {images: 9, per: month, adds_to: images-month}, {images: 3, per: month}]
organization: {quotas: [{images: 900, per: month}]}
jwt_issuers: {corp: {issuer: https://id, audience: us, jwks_url: https://id/jwks}}
""".replace('"aa"', f'"{"aa" * 32}"').replace("https://id", "https://id.example.com")  # noqa: E501

SECRETS = {"KEY": "k" * 32, "SPARE": "s" * 32, "STORE": "redis://u:one@store:6379/0", "TOKEN": "t" * 32}


def compiled(text: str, environ: dict[str, str] | None = None) -> Settings:
    return compile_settings(parse(text.encode(), Path("/etc/gateway/config.yaml")), {**SECRETS, **(environ or {})})


def change(*swaps: tuple[str, str]) -> list[str]:
    """What is told of a config in which each first text stands as the second."""
    text = BASE
    for old, new in swaps:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        text = text.replace(old, new)
    return told(differences(compiled(BASE), compiled(text)))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{images: 500, per: month}", "{images: 800, per: month}", ["design: images-month 500 -> 800"]),
        (
            "{images: 500, per: month}",
            "{images: 500, per: month}, {images: 150, per: day}",
            ["design: images-day 100 -> 150, replaces plan small: 100"],
        ),
        (
            "{images: 100, per: day}, {concurrent",
            "{images: 120, per: day}, {concurrent",
            ["design: images-day 100 -> 120"],
        ),
        ("wait: 30s", "wait: 10s", ["design: concurrent wait 30s -> 10s"]),
        (
            "{images: 500, per: month}, ",
            "",
            ["design: rule images-month is gone: 500 images per month"],
        ),
        (
            "{images: 500, per: month}",
            "{images: 500, per: month}, {usd: 12.5, per: week, quality: standard, model: dall-e-3}",
            ["design: new rule usd-week-dall-e-3-standard: $12.50 per week, dall-e-3 standard only"],
        ),
        (
            "mode: shadow, name: trial",
            "mode: enforce, name: trial",
            [
                "design: trial 100 -> 60, replaces plan small: 100",
                "design: rule images-day is now named trial",
                "design: rule trial is gone: 60 images per day, shadow",
            ],
        ),
        (
            "{images: 500, per: month}",
            "{images: 500, per: month, mode: shadow}",
            ["design: images-month: enforce -> shadow, counts and refuses no more"],
        ),
        (
            "{images: 500, per: month}",
            "{images: 500, per: month, name: much}",
            ["design: rule images-month is now named much"],
        ),
        (
            "{images: 500, per: month}",
            "{images: 50, per: month, size: 1024x1024, name: images-month}",
            [
                "design: images-month: 500 images per month -> 50 images per month, 1024x1024 only; counts from zero",
            ],
        ),
        (
            "timezone: Europe/Berlin",
            "timezone: Asia/Tokyo",
            [
                "research: timezone Europe/Berlin -> Asia/Tokyo",
                "research: images-month: calendar of Europe/Berlin -> Asia/Tokyo; counts from zero",
            ],
        ),
        ("warn_at: [50%]", "warn_at: [80%, 50%]", ["research: requests-hour warn_at 50% -> 50%, 80%"]),
        ("{images: 9, per", "{images: 8, per", [
            "research: images-month: a grant of 8 images for ever",
            "research: images-month: no more grant of 9 images for ever",
        ]),
        ("plan: small", "plan: small\n    suspended: budget review", ["design: suspended: budget review"]),
        ("plan: small", "plan: small\n    sizes: [1024x1024]", ["design: may use sizes: all -> 1024x1024"]),
        ("plan: small", "plan: small\n    contact: we@x.org", ["design: contact ops@example.com -> we@x.org"]),
        (
            "    plan: small\n",
            "",
            [
                "design: plan small -> none",
                "design: rule images-day is gone: 100 images per day",
                "design: rule concurrent is gone: 4 requests in flight",
            ],
        ),
        (
            ", expires: 2030-06-30}",
            ", expires: 2031-06-30}",
            ["design: key ci expires 2030-07-01 00:00 UTC -> 2031-07-01 00:00 UTC"],
        ),
        (", expires: 2030-06-30}", "}", ["design: key ci expires 2030-07-01 00:00 UTC -> never"]),
        ("{id: ci,", "{id: deploy,", ["design: key ci is now named deploy"]),
        ("aa" * 32, "bb" * 32, ["design: key ci replaced by another, expires 2030-07-01 00:00 UTC"]),
        (
            ", expires: 2030-06-30}",
            f", expires: 2030-06-30}}, {{id: next, sha256: {'bb' * 32}}}",
            ["design: key next added, expires never"],
        ),
        (f'keys: [{{id: ci, sha256: "{"aa" * 32}", expires: 2030-06-30}}]', "keys: []", ["design: key ci revoked"]),
        ("  design:\n", "  atelier:\n", ["atelier: team renamed, it was design: counters start at zero"]),
        ("  research:\n", "  labs:\n", ["labs: team renamed, it was research: counters start at zero"]),
        (
            "organization: ",
            "  newcomer: {unlimited: true, sizes: [1024x1024]}\norganization: ",
            ["newcomer: new team, no plan, may use sizes 1024x1024, unlimited"],
        ),
        ("{images: 900, per: month}", "{images: 800, per: month}", ["organization: images-month 900 -> 800"]),
        ("{hd: {1024x1024: 0.08}", "{hd: {1024x1024: 0.1}", ["model dall-e-3: price of hd 1024x1024 $0.08 -> $0.10"]),
        ("  other-model: {}\n", "", ["model other-model: model removed: requests for it are refused"]),
        (
            "other-model: {}",
            "other-model: {upstream_name: x, max_n: 4}",
            ["model other-model: upstream_name other-model -> x", "model other-model: max_n 10 -> 4"],
        ),
        ("default_model: dall-e-3", "default_model: other-model", [
            "requests without a model: get dall-e-3 -> other-model"
        ]),
        ("contact: ops@", "contact: help@", ["all teams: contact ops@example.com -> help@example.com"]),
        ("api_key: env:KEY}", "api_key: env:SPARE}", ["account main: another api_key"]),
        (", {name: spare, api_key: env:SPARE}", "", ["account spare: account removed"]),
        ("audience: us", "audience: them", ["jwt issuer corp: audience us -> them"]),
        (
            "audience: us",
            "audience: us, revoked_tokens: [b, a], revoked_keys: [one], revoked_before: 2026-11-23T12:00:00+01:00",
            [
                "jwt issuer corp: tokens before 2026-11-23 11:00 UTC are void",
                "jwt issuer corp: keys revoked: one",
                "jwt issuer corp: tokens revoked: a, b",
            ],
        ),
        (
            "    timezone: Europe/Berlin\n    quotas: [{requests",
            "    timezone: Europe/Berlin\n    tokens_revoked_before: 2026-11-23T11:00:00Z\n    quotas: [{requests",
            ["research: tokens before 2026-11-23 12:00 Europe/Berlin are void"],
        ),
        (
            "listen: {",
            "listen: {workers: 3, ",
            ["listen: workers 2 -> 3; needs a restart, and a reload that changes it is refused whole"],
        ),
        ("timezone: UTC", "# only a comment\ntimezone: 'UTC'", []),
    ],
)  # fmt: skip
def test_a_change_is_told_in_words(old: str, new: str, expected: list[str]) -> None:
    """Each change gives its sentences, all of them and no other."""
    assert change((old, new)) == expected


def test_what_is_no_longer_revoked_is_told() -> None:
    """Taking a revocation out is a change of its own: what it bound is good again."""
    revoked = "audience: us, revoked_tokens: [a], revoked_keys: [one], revoked_before: 2026-11-23T12:00:00Z"
    old = compiled(BASE.replace("audience: us", revoked))
    assert told(differences(old, compiled(BASE))) == [
        "jwt issuer corp: no longer any time before which tokens are void",
        "jwt issuer corp: keys no longer revoked: one",
        "jwt issuer corp: tokens no longer revoked: a",
    ]


def test_a_key_that_moves_is_told_on_both_sides() -> None:
    """A key that opens another team afterwards is not said to be revoked."""
    entry = f'{{id: ci, sha256: "{"aa" * 32}", expires: 2030-06-30}}'
    swaps = ((f"keys: [{entry}]", "keys: []"), ("timezone: Europe", f"keys: [{entry}]\n    timezone: Europe"))
    assert change(*swaps) == [
        "design: key ci opens team research from now on",
        "research: key ci added, which opened team design, expires 2030-07-01 00:00 Europe/Berlin",
    ]


def test_a_renamed_team_may_change_as_well() -> None:
    """Its rules are set beside those that it had under its old name."""
    swaps = (("  design:\n", "  atelier:\n"), ("images: 500", "images: 800"))
    assert change(*swaps) == [
        "atelier: team renamed, it was design: counters start at zero",
        "atelier: images-month 500 -> 800",
    ]


def test_what_is_used_is_asked_of_the_counter_that_holds_it() -> None:
    """A limit that moves names the rule to come, one that goes or counts from zero the rule that has counted."""
    for swap, rule in (
        (("images: 500", "images: 800"), 800),
        (("{images: 500, per: month}, ", ""), 500),
        (("{images: 500, per: month}", "{images: 50, per: month, size: 1024x1024, name: images-month}"), 500),
    ):
        (found,) = differences(compiled(BASE), compiled(BASE.replace(*swap)))
        assert found.rule is not None
        assert found.rule.limit == rule


def test_a_password_may_rotate_and_a_place_may_not() -> None:
    """Of the store's URL only user and password may change while the gateway runs; no word of it is told."""
    old = compiled(BASE)
    rotated = compiled(BASE, {"STORE": "redis://u:two@store:6379/0"})
    elsewhere = compiled(BASE, {"STORE": "redis://u:one@other:6379/0"})
    assert (restart_needed(old, rotated), restart_needed(old, elsewhere)) == ([], ["store"])
    assert told(differences(old, rotated)) == ["store: another user or password, for workers that begin"]
    assert told(differences(old, elsewhere)) == [
        "store: another url; needs a restart, and a reload that changes it is refused whole"
    ]


def test_only_what_needs_a_restart_is_said_to() -> None:
    """What is told and what refuses a reload are the same thing."""
    old = compiled(BASE)
    for changed in mutations(old):
        found = differences(old, changed)
        assert any(each.restart for each in found) == bool(restart_needed(old, changed)), told(found)


def test_no_change_of_a_value_goes_untold() -> None:
    """Whatever single value of the settings becomes another one, something is told of it, and no secret."""
    old = compiled(BASE)
    count = 0
    for changed in mutations(old):
        words = told(differences(old, changed))
        assert words, changed
        assert not any("another secret" in line or SECRETS["KEY"] in line for line in words)
        count += 1
    assert count > 90


Make = Callable[[Any], Any]


def mutations(settings: Settings) -> Iterator[Settings]:
    """The settings with each of their values changed in turn, but their hash."""
    return (changed for changed in altered(settings) if changed.hash == settings.hash)


#: Derived from others, or what a plan alone would give: nothing takes effect by them.
_NOT_SAID = {("Rule", "counter"), ("Rule", "scope"), ("Rule", "zone"), ("Team", "id"), ("Team", "planned"),
             ("Model", "alias"), ("Key", "digest"), ("Key", "team")}  # fmt: skip


def altered(value: Any) -> Iterator[Any]:
    """Values of the same kind, each with one thing in it changed."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if (type(value).__name__, field.name) not in _NOT_SAID and field.init:
                for other in altered(getattr(value, field.name)):
                    yield replace(value, **{field.name: other})
    elif isinstance(value, dict):
        for key, item in value.items():
            for other in altered(item):
                yield {**value, key: other}
            yield {k: v for k, v in value.items() if k != key}
    elif isinstance(value, tuple) and value and not isinstance(value[0], str | int):
        for index, item in enumerate(value):
            for other in altered(item):
                yield (*value[:index], other, *value[index + 1 :])
        yield value[:-1]
    elif value not in (None, ()):
        yield another(value)


_OTHERS = {"enforce": "shadow", "day": "week", "month": "week", "hour": "minute", "UTC": "Asia/Tokyo",
           "Europe/Berlin": "Asia/Tokyo", "images": Unit.REQUESTS, "requests": Unit.IMAGES,
           "concurrent": Unit.IMAGES, "usd": Unit.IMAGES}  # fmt: skip


def another(value: Any) -> Any:
    match value:
        case Secret():
            return Secret("another secret")
        case bool():
            return not value
        case int() | float():
            return value + 1
        case frozenset():
            return value | {"more"}
        case tuple():
            return (*value, *value, "more")[-2:]
        case str():
            return _OTHERS.get(value, f"{value}2")
    raise AssertionError(f"cannot change {value!r}")
