"""Accounts: which key at the upstream a request goes by. The clock is the test's."""

from dataclasses import dataclass, field

import pytest

from gateway.accounts import SET_ASIDE, Accounts
from gateway.core.catalog import Account
from gateway.core.secret import Secret

A, B, C = (Account(name, Secret(f"sk-{name}"), max_concurrent=1) for name in "abc")


@dataclass(slots=True)
class Desk:
    """Accounts with a clock that stands still, and what they tell of their load."""

    now: float = 0.0
    told: list[tuple[str, int]] = field(default_factory=list)
    accounts: Accounts = field(init=False)

    def __post_init__(self) -> None:
        self.accounts = Accounts(lambda *change: self.told.append(change), clock=lambda: self.now)

    @property
    def order(self) -> str:
        return "".join(account.name for account in self.accounts.by_preference((A, B, C)))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_least_busy_comes_first(desk: Desk) -> None:
    """Of equals the config's order decides; each request that is taken moves its account back, and its end forth."""
    assert desk.order == "abc"
    for account in (A, A, B):
        desk.accounts.take(account)
    assert desk.order == "cba"
    desk.accounts.give_back(A)
    assert desk.order == "cab"
    assert desk.told == [("a", 1), ("a", 2), ("b", 1), ("a", 1)]


@pytest.mark.parametrize("status", ["401", "402", "403", "connect_error"])
def test_one_that_will_not_have_us_is_left_alone_for_a_while(desk: Desk, status: str) -> None:
    """It comes last however idle it is, for thirty seconds from its last such answer."""
    desk.accounts.take(B)
    desk.accounts.take(C)
    desk.accounts.heard(A, status)
    assert desk.order == "bca"
    desk.now = SET_ASIDE - 1
    assert desk.order == "bca"
    desk.accounts.heard(A, status)
    desk.now = 2 * SET_ASIDE - 2
    assert desk.order == "bca"
    desk.now = 2 * SET_ASIDE
    assert desk.order == "abc"


@pytest.mark.parametrize("status", ["200", "400", "429", "500", "timeout", "cut"])
def test_any_other_answer_takes_it_back(desk: Desk, status: str) -> None:
    """What is no word about the account itself shows that it is in use again."""
    desk.accounts.heard(A, "401")
    assert desk.order == "bca"
    desk.accounts.heard(A, status)
    assert desk.order == "abc"


def test_where_all_are_set_aside_all_are_still_there(desk: Desk) -> None:
    """Nobody is refused for that: the least busy of them is tried."""
    for account in (A, B, C):
        desk.accounts.heard(account, "402")
    desk.accounts.take(A)
    assert desk.order == "bca"


def test_an_account_that_left_the_config_is_none(desk: Desk) -> None:
    """Requests that still go by it end as they would have, and nobody is given it any more."""
    desk.accounts.take(A)
    assert [account.name for account in desk.accounts.by_preference((B,))] == ["b"]
    desk.accounts.give_back(A)
    assert desk.told[-1] == ("a", 0)
