"""Rules: whom they bind, what an order takes from them, which counter they share, what a verdict says."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.quota import Charge, Grant, Mode, Per, Rule, RuleState, Unit, Verdict, charges

IMAGES = Rule("design", "images-day", Unit.IMAGES, Per.DAY, 100, zone="Europe/Berlin")
ORDER = {"endpoint": "generations", "model": "dall-e-3", "size": "1024x1024", "quality": "hd"}
NARROWINGS = {"models": "model", "sizes": "size", "qualities": "quality", "endpoints": "endpoint"}


def taken(*rules: Rule, n: int = 3, cost: int | None = 240_000) -> list[tuple[str, int]]:
    found = charges(rules, endpoint="generations", model="dall-e-3", size="1024x1024", quality="hd", n=n, cost=cost)
    return [(charge.rule.name, charge.amount) for charge in found]


def test_each_unit_takes_its_own_amount() -> None:
    """An order of three images for 24 cents is three images, 240 000 micro-dollars, one request, one slot."""
    rules = [Rule("design", unit.value, unit, None if unit is Unit.CONCURRENT else Per.DAY, 1) for unit in Unit]
    assert taken(*rules) == [("images", 3), ("usd", 240_000), ("requests", 1), ("concurrent", 1)]


def test_an_order_without_a_price_takes_no_money() -> None:
    """Where the config gives no price a usd rule is charged nothing."""
    assert taken(Rule("design", "usd", Unit.USD, Per.DAY, 1), cost=None) == [("usd", 0)]


@pytest.mark.parametrize(("narrowing", "name"), NARROWINGS.items())
def test_a_rule_binds_what_it_is_narrowed_to(narrowing: str, name: str) -> None:
    """A rule on a model, size, quality or endpoint takes from orders of that and from no others."""
    own, other = frozenset({ORDER[name], "else"}), frozenset({"else"})
    assert taken(replace(IMAGES, **{narrowing: own})) == [("images-day", 3)]  # type: ignore[arg-type]
    assert taken(replace(IMAGES, **{narrowing: other})) == []  # type: ignore[arg-type]
    assert taken(replace(IMAGES, **{narrowing: frozenset()})) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("match", list(product([True, False], repeat=4)))
def test_narrowings_add_up(match: tuple[bool, ...]) -> None:
    """A rule narrowed in four ways binds an order that meets all four."""
    narrowed = {
        kind: frozenset({ORDER[name] if fits else "else"})
        for (kind, name), fits in zip(NARROWINGS.items(), match, strict=True)
    }
    rule = replace(IMAGES, **narrowed)  # type: ignore[arg-type]
    assert rule.binds(**ORDER) == all(match)


def test_limit_name_mode_and_warnings_are_no_part_of_the_counter() -> None:
    """Changing what a rule says of its counter keeps what was used on it."""
    changed = replace(IMAGES, limit=1, name="x", mode="shadow", warn_at=(50,), wait=3.0, grants=(Grant(1, None),))
    assert changed.counter == IMAGES.counter


@pytest.mark.parametrize(
    "change",
    [
        {"scope": "research"},
        {"unit": Unit.REQUESTS},
        {"per": Per.WEEK},
        {"zone": "UTC"},
        {"models": frozenset({"a"})},
        {"sizes": frozenset({"a"})},
        {"qualities": frozenset({"a"})},
        {"endpoints": frozenset({"a"})},
        {"sizes": frozenset({"a", "b"})},
        {"sizes": frozenset({"a,b"})},
    ],
    ids=str,
)
def test_scope_unit_window_zone_and_narrowing_make_the_counter(change: dict[str, object]) -> None:
    """Each of them gives a counter of its own."""
    others = {IMAGES.counter, replace(IMAGES, sizes=frozenset({"b"})).counter}
    assert replace(IMAGES, **change).counter not in others  # type: ignore[arg-type]


@pytest.mark.parametrize("per", [Per.MINUTE, Per.HOUR, Per.TOTAL])
def test_a_window_without_a_calendar_has_no_zone(per: Per) -> None:
    """What slides or never ends is one counter, whatever zone its team has."""
    assert replace(IMAGES, per=per).counter == replace(IMAGES, per=per, zone="UTC").counter


def test_the_order_of_a_narrowing_does_not_matter() -> None:
    """Two sizes are the same two in any order."""
    one, two = (replace(IMAGES, sizes=frozenset(sizes)) for sizes in (["a", "b"], ["b", "a"]))
    assert one.counter == two.counter


@pytest.mark.parametrize(
    ("used", "limit", "percent", "passed"),
    [
        (4, 10, 50, False),
        (5, 10, 50, True),
        (10, 10, 100, True),
        (9, 10, 100, False),
        (2, 3, 67, False),
        (0, 0, 1, False),
    ],
)
def test_a_threshold_is_passed_where_it_is_reached(*, used: int, limit: int, percent: int, passed: bool) -> None:
    """Use that comes to the percentage has passed it, to the last unit; what is unused has passed none."""
    standing = RuleState(IMAGES, 0, used, limit, resets_at=None, fits_at=None, refused=False)
    assert standing.has_passed(percent) is passed


def state(
    name: str, *, per: Per | None = Per.DAY, refused: bool = True, fits_at: float | None = 10.0, mode: Mode = "enforce"
) -> RuleState:
    unit = Unit.CONCURRENT if per is None else Unit.IMAGES
    rule = Rule("design", name, unit, per, 10, mode=mode)
    return RuleState(rule, amount=1, used=10, limit=10, resets_at=fits_at, fits_at=fits_at, refused=refused)


def test_the_refusal_with_the_latest_reset_leads() -> None:
    """What never comes free leads, then the latest; a slot, which may come free at once, is last."""
    verdict = Verdict(
        admitted=False,
        now=0.0,
        states=(
            state("slots", per=None, fits_at=None),
            state("soon"),
            state("fits", refused=False),
            state("never", per=Per.TOTAL, fits_at=None),
            state("trial", mode="shadow", fits_at=99.0),
            state("late", fits_at=20.0),
        ),
    )
    assert [found.rule.name for found in verdict.refusals] == ["never", "late", "soon", "slots"]
    assert [found.rule.name for found in verdict.shadowed] == ["trial"]


def test_of_rules_that_an_order_can_never_fit_the_longest_leads() -> None:
    """None of them comes free for it; the one that binds longest is told of first, wherever it stands."""
    windows = [Per.MONTH, Per.MINUTE, Per.TOTAL, Per.DAY, Per.HOUR, Per.WEEK]
    for order in (windows, windows[::-1]):
        states = tuple(state(per.value, per=per, fits_at=None) for per in order)
        found = Verdict(admitted=False, now=0.0, states=states).refusals
        assert [each.rule.per for each in found] == [*Per][::-1]


@given(st.integers(0, 2**53), st.integers(0, 2**53), st.integers(0, 2**53))
def test_remaining_is_never_below_zero(limit: int, used: int, amount: int) -> None:
    """A limit that was lowered below its use leaves nothing, not less; what exceeds the whole limit never fits."""
    found = replace(state("x"), limit=limit, used=used, amount=amount)
    assert found.remaining == (limit - used if used <= limit else 0)
    assert found.never_fits == (amount > limit)


def test_a_charge_names_its_rule() -> None:
    """Charges keep the order of the rules, so that answers can be read by place."""
    rules = tuple(replace(IMAGES, name=name) for name in "cab")
    found = charges(rules, **ORDER, n=1, cost=1)
    assert found == tuple(Charge(rule, 1) for rule in rules)
