"""What a valid file says but hardly means: keys that are over, rules that can never bite, secrets open to all."""

import math
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.config.compile import PLACEHOLDER, compile_settings, secret_files
from gateway.config.model import QuotaLine
from gateway.config.problems import Fault, Steps
from gateway.config.quantities import dollars
from gateway.config.rules import binds, name_of, orders
from gateway.config.series import series_bound
from gateway.config.values import end_of
from gateway.core.catalog import Settings, Team
from gateway.core.quota import ORGANIZATION, Per, Rule, Unit

if TYPE_CHECKING:
    from gateway.config.document import Document

MOST_SERIES = 50_000  #: a scrape of more takes seconds and is a noticeable part of a small Prometheus

DAY = 86_400  #: seconds
SOON = 14 * DAY  #: seconds before a key's end in which its answers say so, too (`x-gateway-key-expires`)

#: Windows that hold another one whole, in one time zone. A sliding hour may lie in two days, and a week in two
#: months: there the wider window's limit may be used twice within the narrower one.
_INSIDE = {
    (Per.MINUTE, Per.HOUR),
    (Per.DAY, Per.WEEK),
    (Per.DAY, Per.MONTH),
    *((per, per) for per in Per),
    *((per, Per.TOTAL) for per in Per),
}
_WIDTH = {per: width for width, per in enumerate(Per)}


def warnings(document: "Document", now: float) -> Iterator[Fault]:
    """Find all there is to warn of. now: unix seconds."""
    settings = compile_settings(document, None)
    yield from _keys(document, now)
    yield from _grants(document, now)
    yield from _revocations(document, now)
    for team in settings.teams.values():
        yield from _toothless(document, settings, team)
    for steps, path in secret_files(document.config):
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # whether it can be read is asked when the secret is
        if mode & stat.S_IROTH:
            yield Fault(steps, f"every user of this host can read {path}; chmod o-r it")
    for index, network in enumerate(settings.listen.trusted_proxies):
        if network.prefixlen == 0:
            yield Fault(("listen", "trusted_proxies", index), "believes X-Forwarded-For of everybody")
    bound = series_bound(settings)
    if bound > MOST_SERIES:
        yield Fault(("teams",), f"teams, models, sizes and rules come to {bound} series at most, over {MOST_SERIES}")


def _keys(document: "Document", now: float) -> Iterator[Fault]:
    config = document.config
    for id_, team in config.teams.items():
        at: Steps = ("teams", id_)
        if not team.keys and not config.jwt_issuers:
            yield Fault(at, "has no key: nobody can call as this team", on_key=True)
        for index, key in enumerate(team.keys):
            if key.sha256 == PLACEHOLDER:
                yield Fault((*at, "keys", index, "sha256"), "a placeholder, not the hash of a key: nobody can use it")
            if key.id in {f"jwt-{name}" for name in config.jwt_issuers}:
                words = f"tokens of the issuer {key.id[4:]} are booked under {key.id}, too; choose another id"
                yield Fault((*at, "keys", index, "id"), words)
            left = end_of(key.expires, team.timezone or config.timezone) - now if key.expires is not None else math.inf
            if left <= 0:
                yield Fault((*at, "keys", index, "expires"), f"key {key.id} has expired; take it out")
            elif left <= SOON:
                words = f"key {key.id} ends in {math.ceil(left / DAY)} d or less; give the team its next one"
                yield Fault((*at, "keys", index, "expires"), words)


def _grants(document: "Document", now: float) -> Iterator[Fault]:
    config = document.config
    for at, zone, lines in _lists(document):
        for index, line in enumerate(lines):
            if line.adds_to is not None and line.until is None:
                words = f"this grant to {line.adds_to} has no end; give it one (until), or raise the rule's limit"
                yield Fault((*at, index), words)
            elif line.until is not None and end_of(line.until, zone or config.timezone) <= now:
                yield Fault((*at, index, "until"), f"this grant to {line.adds_to} is over; take it out")


def _revocations(document: "Document", now: float) -> Iterator[Fault]:
    """Find times before which tokens are void that are still to come: until then not one is good."""
    config = document.config
    at_issuers: Steps = ("jwt_issuers",)
    places = [
        *(((*at_issuers, name, "revoked_before"), each.revoked_before) for name, each in config.jwt_issuers.items()),
        *((("teams", id_, "tokens_revoked_before"), each.tokens_revoked_before) for id_, each in config.teams.items()),
    ]
    for steps, instant in places:
        if instant is not None and instant.timestamp() > now:
            yield Fault(steps, "lies ahead: until then every token that it binds is refused")


def _lists(document: "Document") -> Iterator[tuple[Steps, str | None, tuple[QuotaLine, ...]]]:
    config = document.config
    for name, plan in config.plans.items():
        yield ("plans", name, "quotas"), None, plan.quotas
    for id_, team in config.teams.items():
        yield ("teams", id_, "quotas"), team.timezone, team.quotas
    yield (ORGANIZATION, "quotas"), None, config.organization.quotas


def _toothless(document: "Document", settings: Settings, team: Team) -> Iterator[Fault]:
    """Find a team's own rules that can never refuse, whatever the team does."""
    reach = list(orders(settings.models, team))
    own = {name_of(line): index for index, line in enumerate(document.config.teams[team.id].quotas) if not line.adds_to}
    for rule in team.rules:
        if rule.name not in own:
            continue  # a plan's rule may bite in another team
        steps = ("teams", team.id, "quotas", own[rule.name])
        bound = [order for order in reach if binds(rule, order)]
        if not bound:
            yield Fault(steps, f"rule {rule.name} can never bite: the team may order nothing that it binds")
            continue
        for other in (*team.rules, *settings.organization):
            if other is not rule and all(binds(other, order) for order in bound) and _shadows(other, rule):
                limit = dollars(other.limit) if other.unit is Unit.USD else str(other.limit)
                place = "the organization's rule" if other.scope == ORGANIZATION else "rule"
                message = (
                    f"rule {rule.name} can never bite: {place} {other.name} stops at {limit} {other.unit} before it"
                )
                yield Fault(steps, message)
                break


def _shadows(other: Rule, rule: Rule) -> bool:
    """Whether `other`, which binds all that `rule` binds, always refuses first."""
    if other.mode != "enforce" or other.unit is not rule.unit:
        return False
    most = other.limit + sum(grant.amount for grant in other.grants)
    if rule.per is None or other.per is None:
        return rule.limit > most
    if _WIDTH[other.per] < _WIDTH[rule.per]:
        return False
    sliding = rule.per in (Per.MINUTE, Per.HOUR) and other.per is rule.per
    whole = (rule.per, other.per) in _INSIDE and (sliding or other.per is Per.TOTAL or other.zone == rule.zone)
    return rule.limit > most * (1 if whole else 2)
