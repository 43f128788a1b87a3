"""The bound on series."""

import pytest

from gateway.config.compile import compile_settings
from gateway.config.series import bounds, series_bound
from tests.config.conftest import Read


def test_a_team_adds_its_own_orders_alone(read: Read) -> None:
    """Image metrics count what a team may order: 3 sizes in 2 qualities and, as edits, in one."""
    everything = compile_settings(read("teams: {a: {unlimited: true}}"), None)
    little = compile_settings(read("teams: {a: {unlimited: true, sizes: [1024x1024], endpoints: [edits]}}"), None)
    assert bounds(everything)["images and image cost"] == 5 * (3 * 2 + 3)
    assert bounds(little)["images and image cost"] == 5
    assert series_bound(little) < series_bound(everything)


@pytest.mark.parametrize(
    "more",
    [
        "teams: {a: {unlimited: true}, b: {unlimited: true}}",
        "teams: {a: {quotas: [{images: 1, per: day}]}}",
        f"teams: {{a: {{unlimited: true, keys: [{{id: k, sha256: {'ab' * 32}}}]}}}}",
    ],
)
def test_each_team_rule_and_key_raises_the_bound(read: Read, more: str) -> None:
    """Whatever adds series raises the bound."""
    base = compile_settings(read("teams: {a: {unlimited: true}}"), None)
    assert series_bound(compile_settings(read(more), None)) > series_bound(base)
