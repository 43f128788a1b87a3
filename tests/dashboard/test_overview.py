"""What the overview asks somebody to look at, and how full it says that a rule is."""

from dataclasses import replace

import pytest

from gateway.admin.bars import bar, level, tightest
from gateway.admin.figures import Reading
from gateway.admin.overview import Notice, notices_of_config, notices_of_keys, notices_of_rules
from gateway.core.catalog import Key
from gateway.core.quota import Mode, Per, Rule, RuleState, Unit
from gateway.core.windows import Calendar
from tests.core import sample

NOW = 1_790_000_000.0
DAY = 86_400.0


def state(
    used: int,
    *,
    name: str = "images-day",
    unit: Unit = Unit.IMAGES,
    per: Per | None = Per.DAY,
    mode: Mode = "enforce",
    warn_at: tuple[int, ...] = (),
    limit: int = 100,
) -> RuleState:
    rule = Rule(scope="design", name=name, unit=unit, per=per, limit=limit, mode=mode, warn_at=warn_at)
    return RuleState(rule, 0, used, limit, NOW + 3600 if per else None, None, refused=False)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (state(0), "fine"),
        (state(79), "fine"),
        (state(80), "near"),
        (state(99), "near"),
        (state(100), "full"),
        (state(130), "full"),
        (state(50, warn_at=(50, 90)), "near"),
        (state(49, warn_at=(50, 90)), "fine"),
        (state(85, warn_at=(95,)), "near"),
    ],
)
def test_a_rule_is_near_from_four_fifths_or_its_first_threshold(found: RuleState, wanted: str) -> None:
    """What is used up is full; what has passed 80 %, or a lower `warn_at`, is near."""
    assert level(found) == wanted


@pytest.mark.parametrize(("used", "percent"), [(0, 0), (1, 0), (999, 99), (1000, 100), (1300, 100)])
def test_a_hundred_percent_means_that_nothing_is_left(used: int, percent: int) -> None:
    """A share is rounded down, and never told as more than all."""
    assert bar(state(used, limit=1000), NOW, Calendar()).percent == percent


def test_the_fullest_rule_is_one_that_can_refuse() -> None:
    """A shadow rule is not told of as a team's fullest, however full it is."""
    full, half = state(100, name="trial", mode="shadow"), state(50)
    assert tightest([full, half, state(20)]) is half
    assert tightest([full]) is None


def test_rules_that_refuse_are_told_of_before_those_that_will() -> None:
    """Used-up rules come first; shadow rules, slots and rules with room are no news."""
    states = [
        state(85, name="near"),
        state(100, name="full"),
        state(100, name="trial", mode="shadow"),
        state(100, name="slots", unit=Unit.CONCURRENT, per=None),
        state(10, name="roomy"),
    ]
    told = list(notices_of_rules(Reading(sample.settings(), NOW, states, {}, {})))
    assert [(notice.level, notice.words.split("(rule ")[1].split(")")[0]) for notice in told] == [
        ("bad", "full"),
        ("near", "near"),
    ]
    assert {notice.team for notice in told} == {"design"}


def test_keys_are_told_of_around_their_end() -> None:
    """A key that ends in 14 days, or has ended in the last 14, is told of, the first to end first; others are not."""
    ends = {"soon": 13 * DAY, "ended": -DAY, "later": 15 * DAY, "long-ago": -15 * DAY}
    keys = {name.encode(): Key("design", name, b"", NOW + after) for name, after in ends.items()}
    keys[b"never"] = Key("design", "never", b"")
    told = [notice.words for notice in notices_of_keys(replace(sample.settings(), keys=keys), NOW)]
    assert [words.split(" on ")[0] for words in told] == ["design: key ended has ended", "design: key soon ends"]


def test_a_config_that_is_not_in_force_is_told_of() -> None:
    """A wrong file, and workers that are not all on one version, are bad; else there is nothing."""
    assert list(notices_of_config([], {"a": 2})) == []
    wrong, apart = notices_of_config(["config.yaml:3:1: teams: wrong", "more"], {"a": 1, "b": 1})
    assert wrong == Notice("bad", "The config file as it stands now is not in force: config.yaml:3:1: teams: wrong")
    assert (apart.level, apart.words) == ("bad", "Workers are on different versions of the config: a, b")
