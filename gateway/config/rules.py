"""From quota lines to rules: names, the merge of a plan with a team's own lines, and grants."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from gateway.config.model import Config, QuotaLine
from gateway.config.values import end_of
from gateway.core.catalog import Model, Team
from gateway.core.orders import Endpoint, permitted_qualities, permitted_sizes
from gateway.core.quota import ORGANIZATION, Grant, Per, Rule, Unit

ENDPOINTS: tuple[Endpoint, ...] = ("generations", "edits")


def unit_of(line: QuotaLine) -> Unit:
    """Return what a line counts; a valid one has exactly one unit."""
    return next(unit for unit in Unit if getattr(line, unit) is not None)


def name_of(line: QuotaLine) -> str:
    """Return a line's name, given or derived: unit, window and narrowing, ``images-day-1024x1792-hd``.

    The limit is no part of it, so changing a limit keeps the dashboards that know the name.
    """
    narrowing = sorted({*(line.model or ()), *(line.size or ()), *(line.quality or ()), *(line.endpoint or ())})
    return line.name or "-".join([unit_of(line), *([line.per] if line.per else []), *narrowing])


def to_rule(line: QuotaLine, *, scope: str, zone: str) -> Rule:
    """Resolve one line that is no grant. scope: a team's id or `organization`. zone: IANA name."""

    def narrowed(values: tuple[str, ...] | None) -> frozenset[str] | None:
        return None if values is None else frozenset(values)

    unit = unit_of(line)
    return Rule(
        scope=scope,
        name=name_of(line),
        unit=unit,
        per=Per(line.per) if line.per else None,
        limit=getattr(line, unit),
        zone=zone,
        mode=line.mode,
        models=narrowed(line.model),
        sizes=narrowed(line.size),
        qualities=narrowed(line.quality),
        endpoints=narrowed(line.endpoint),
        warn_at=tuple(sorted(line.warn_at)),
        wait=line.wait or 0.0,
    )


def resolve(lines: Iterable[QuotaLine], *, scope: str, zone: str, onto: Iterable[Rule] = ()) -> tuple[Rule, ...]:
    """Resolve one list of lines, `onto` the rules that stood before it.

    A line on the counter and mode of an earlier rule replaces it, in its place; grants are added to the rule they
    name, so a grant of a plan goes with the rule that a team replaces.
    """
    lines = list(lines)
    rules = {(rule.counter, rule.mode): rule for rule in onto}
    for line in lines:
        if line.adds_to is None:
            rule = to_rule(line, scope=scope, zone=zone)
            rules[rule.counter, rule.mode] = rule
    for line in lines:
        if line.adds_to is not None:
            key, rule = next((key, rule) for key, rule in rules.items() if rule.name == line.adds_to)
            grant = Grant(getattr(line, unit_of(line)), None if line.until is None else end_of(line.until, zone))
            rules[key] = replace(rule, grants=(*rule.grants, grant))
    return tuple(rules.values())


def plan_rules(config: Config, team: str) -> tuple[Rule, ...]:
    """Return the rules that a team's plan alone would give it."""
    section = config.teams[team]
    zone = section.timezone or config.timezone
    return resolve(config.plans[section.plan].quotas, scope=team, zone=zone) if section.plan in config.plans else ()


def team_rules(config: Config, team: str) -> tuple[Rule, ...]:
    """Return the rules of a team: its plan's, with its own lines on top."""
    section = config.teams[team]
    zone = section.timezone or config.timezone
    return resolve(section.quotas, scope=team, zone=zone, onto=plan_rules(config, team))


def organization_rules(config: Config) -> tuple[Rule, ...]:
    return resolve(config.organization.quotas, scope=ORGANIZATION, zone=config.timezone)


def orders(models: Mapping[str, Model], team: Team) -> Iterator[tuple[Endpoint, Model, str, str]]:
    """List what a team may order: endpoint, model, size, and the quality that is charged."""
    for model in models.values():
        if team.models is not None and model.alias not in team.models:
            continue
        for endpoint in ENDPOINTS:
            if endpoint not in model.endpoints or (team.endpoints is not None and endpoint not in team.endpoints):
                continue
            for size in permitted_sizes(model, team):
                for quality in permitted_qualities(model, team, endpoint):
                    yield endpoint, model, size, quality


def binds(rule: Rule, order: tuple[Endpoint, Model, str, str]) -> bool:
    """Whether an order of `orders` falls under a rule."""
    endpoint, model, size, quality = order
    return rule.binds(endpoint=endpoint, model=model.alias, size=size, quality=quality)
