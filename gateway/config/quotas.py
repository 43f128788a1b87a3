"""Checks of quota lines: each alone, each list, and what a team's rules come to with its plan's."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from gateway.config.compile import compile_models, compile_team
from gateway.config.model import Config, ModelSection, QuotaLine
from gateway.config.problems import Fault, Steps, listed, or_else, shown
from gateway.config.rules import binds, name_of, orders, to_rule, unit_of
from gateway.core.quota import ORGANIZATION, Rule, Unit

Broken = Callable[..., bool]
Lines = Sequence[tuple[Steps, QuotaLine]]  #: lines that are right in themselves, with their places

_UNITS = tuple(unit.value for unit in Unit)
_OF_RULES = ("model", "size", "quality", "endpoint", "name", "mode", "warn_at", "wait")


def check_quotas(config: Config, broken: Broken) -> Iterator[Fault]:
    """Check all quota lists of the config."""
    lists: dict[Steps, Lines] = {}
    for at, quotas in _lists(config):
        faulty, lists[at] = _lines(config, broken, at, quotas)
        yield from faulty
        yield from _same_counter(lists[at])
    for at, lines in lists.items():
        yield from _merged(config, broken, at, lines, lists)
    if not broken("models"):
        yield from _prices(config, broken, lists)


def _lists(config: Config) -> Iterator[tuple[Steps, Sequence[QuotaLine]]]:
    for name, plan in config.plans.items():
        yield ("plans", name, "quotas"), plan.quotas
    for id_, team in config.teams.items():
        yield ("teams", id_, "quotas"), team.quotas
    yield (ORGANIZATION, "quotas"), config.organization.quotas


def _lines(config: Config, broken: Broken, at: Steps, quotas: Sequence[QuotaLine]) -> tuple[list[Fault], Lines]:
    """Check each line alone; return the faults and the lines without any."""
    faults: list[Fault] = []
    right: list[tuple[Steps, QuotaLine]] = []
    for index, line in enumerate(quotas):
        steps = (*at, index)
        if broken(*steps):
            continue
        found = [*_line(line, steps)]
        if not broken("models"):
            found += _narrowing(config.models, line, steps)
        faults += found
        if not found:
            right.append((steps, line))
    return faults, right


def _line(line: QuotaLine, at: Steps) -> Iterator[Fault]:
    units = [unit for unit in _UNITS if getattr(line, unit) is not None]
    if len(units) != 1:
        got = " and ".join(units) or "none"
        yield Fault(at, f"needs exactly one of images, usd, requests and concurrent, got {got}")
        return
    yield from _concurrent(line, at) if line.concurrent is not None else _counting(line, at, units[0])
    if line.adds_to is None and line.until is not None:
        yield Fault((*at, "until"), "until belongs to a grant (adds_to); a rule has no end", on_key=True)
    if line.adds_to is not None:
        for kind in _OF_RULES:
            if kind in line.model_fields_set:
                message = f"a grant (adds_to) takes no {kind}: it goes with the rule it adds to"
                yield Fault((*at, kind), message, on_key=True)


def _counting(line: QuotaLine, at: Steps, unit: str) -> Iterator[Fault]:
    if line.per is None:
        yield Fault((*at, "per"), f"missing; {unit} needs minute, hour, day, week, month or total")
    if line.wait is not None:
        yield Fault((*at, "wait"), f"wait goes with concurrent only, not with {unit}", on_key=True)


def _concurrent(line: QuotaLine, at: Steps) -> Iterator[Fault]:
    if line.per is not None:
        yield Fault((*at, "per"), "concurrent takes no per: it counts what is in flight now", on_key=True)
    for kind in ("model", "size", "quality"):
        if getattr(line, kind) is not None:
            message = "concurrent narrows on endpoint only: it is decided before the body is read"
            yield Fault((*at, kind), message, on_key=True)


def _narrowing(models: Mapping[str, ModelSection], line: QuotaLine, at: Steps) -> Iterator[Fault]:
    """Check that what a rule is narrowed to exists at all."""
    known = {
        "model": list(models),
        "size": list(dict.fromkeys(size for model in models.values() for size in model.sizes)),
        "quality": list(dict.fromkeys(quality for model in models.values() for quality in model.qualities)),
    }
    for kind, choices in known.items():
        values: tuple[str, ...] | None = getattr(line, kind)
        if values == ():
            yield Fault((*at, kind), "an empty list binds nothing; leave it out to bind all")
        for index, value in enumerate(values or ()):
            if value not in choices:
                yield Fault((*at, kind, index), f"unknown {kind} {shown(value)}{or_else(value, choices)}")
    if line.endpoint == ():
        yield Fault((*at, "endpoint"), "an empty list binds nothing; leave it out to bind all")


def _same_counter(lines: Lines) -> Iterator[Fault]:
    first: dict[tuple[str, str], str] = {}
    for steps, line in lines:
        if line.adds_to is None:
            rule = _plain(line)
            if (rule.counter, rule.mode) in first:
                other = first[rule.counter, rule.mode]
                yield Fault(steps, f"counts the same as rule {other!r} of this list; keep one of the two")
            first.setdefault((rule.counter, rule.mode), rule.name)


def _plain(line: QuotaLine) -> Rule:
    """Resolve a line to compare it with others: they share scope and zone, so any will do."""
    return to_rule(line, scope="-", zone="UTC")


def _merged(config: Config, broken: Broken, at: Steps, lines: Lines, lists: Mapping[Steps, Lines]) -> Iterator[Fault]:
    """Check names and grants in what a list comes to, for a team together with its plan."""
    plan = config.teams[str(at[1])].plan if at[0] == "teams" else None
    below = [line for _, line in lists.get(("plans", plan or "", "quotas"), ()) if line.adds_to is None]
    own = [line for _, line in lines if line.adds_to is None]
    counters = {(rule.counter, rule.mode) for rule in map(_plain, own)}
    kept = [line for line in below if ((rule := _plain(line)).counter, rule.mode) not in counters]
    names = {name_of(line) for line in kept}
    told: set[tuple[str, str]] = set()
    for steps, line in lines:
        if line.adds_to is not None:
            continue
        name, rule = name_of(line), _plain(line)
        if name in names and (rule.counter, rule.mode) not in told:
            yield Fault(steps, f"a second rule with the name {name!r}; give one of them a name of its own")
        names.add(name)
        told.add((rule.counter, rule.mode))
    if broken(*at) or (plan is not None and broken("plans", plan)):
        return
    rules = {name_of(line): line for line in [*kept, *own]}
    for steps, line in lines:
        if line.adds_to is not None:
            yield from _grant(line, rules, steps)


def _grant(line: QuotaLine, rules: Mapping[str, QuotaLine], at: Steps) -> Iterator[Fault]:
    rule = rules.get(str(line.adds_to))
    if rule is None:
        yield Fault((*at, "adds_to"), f"unknown rule {shown(line.adds_to)}{or_else(str(line.adds_to), rules)}")
    elif (unit_of(rule), rule.per) != (unit_of(line), line.per):
        kind = unit_of(rule) + (f" per {rule.per}" if rule.per else "")
        yield Fault((*at, "adds_to"), f"rule {line.adds_to!r} counts {kind}; a grant to it must do so too")


def _prices(config: Config, broken: Broken, lists: Mapping[Steps, Lines]) -> Iterator[Fault]:
    """Find orders that a rule in dollars binds and that have no price: they would pass it uncounted."""
    models = compile_models(config)
    told: set[tuple[Steps, str]] = set()
    for id_, section in config.teams.items():
        if broken("teams", id_):
            continue
        team = compile_team(config, id_, ())
        reach = list(orders(models, team))
        plan = lists.get(("plans", section.plan or "", "quotas"), ())
        for steps, line in [*plan, *lists["teams", id_, "quotas"], *lists[ORGANIZATION, "quotas"]]:
            if line.usd is None or line.adds_to is not None:
                continue
            rule = _plain(line)
            missing: dict[str, dict[str, None]] = {}
            for order in reach:
                _, model, size, quality = order
                if binds(rule, order) and (quality, size) not in model.prices:
                    missing.setdefault(model.alias, {})[f"{quality} {size}"] = None
            for alias, pairs in missing.items():
                if (steps, alias) not in told:
                    told.add((steps, alias))
                    message = (
                        f"model {alias} has no price for {_all(pairs)}, which team {id_} may order under this rule"
                    )
                    yield Fault((*steps, "usd"), message)


def _all(pairs: Iterable[str]) -> str:
    return listed(pairs).replace(" or ", " and ")
