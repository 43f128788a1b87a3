"""The scripts' promises one by one, on a real Valkey whose clock the test sets. All at once: test_machine.py."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
import redis

from gateway.core import settlement
from gateway.core.quota import Charge, Grant, Per, Rule, Unit
from gateway.core.windows import Calendar
from gateway.ledger import scripts
from gateway.ledger.base import Booking
from tests.ledger.counters import HOUR, MINUTE, SECOND
from tests.ledger.model import LEASE, Answer
from tests.ledger.store import NAMESPACE, Mutant, Store, connected, loaded
from tests.support.valkey import valkey

NOON = 1_794_916_800_000  # 2026-11-17 12:00 UTC, a Tuesday
DAY = 24 * HOUR
LARGEST = 2**53 - 1

IMAGES = Rule("design", "images-day", Unit.IMAGES, Per.DAY, 10)
MINUTELY = Rule("design", "images-minute", Unit.IMAGES, Per.MINUTE, 10)
REQUESTS = Rule("design", "requests-hour", Unit.REQUESTS, Per.HOUR, 10)
MONEY = Rule("design", "usd-month", Unit.USD, Per.MONTH, 10_000_000)
SLOTS = Rule("design", "slots", Unit.CONCURRENT, None, 2)

UNSENT = settlement.refunded(sent=False)
REFUNDED = settlement.refunded(sent=True)


@pytest.fixture(scope="module")
def client() -> Iterator["redis.Redis"]:
    with valkey() as url, connected(url) as found:
        yield found


@pytest.fixture
def store(client: "redis.Redis") -> Store:
    return Store(client, loaded(client), now=NOON)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000


def order(store: Store, rid: str, *rules: Rule, n: int = 1, cost: int = 40_000, zone: str = "UTC") -> Answer:
    amounts = {Unit.IMAGES: n, Unit.USD: cost, Unit.REQUESTS: 1, Unit.CONCURRENT: 1}
    booking = Booking("design", zone, "ci", "main", "generations", "dall-e-3", "1024x1024", "standard", n, cost)
    return store.reserve(rid, [Charge(rule, amounts[rule.unit]) for rule in rules], booking)


def made(k: int, *, of: int = 1, cost: int = 40_000) -> settlement.Settlement:
    return settlement.committed(ordered=of, cost=cost, made=k)


def used(store: Store, rule: Rule) -> int:
    return store.used([rule])[0][0]


def booked(store: Store) -> dict[str, int]:
    """What stands in the usage ledger, over all periods, by kind: images alone."""
    totals: dict[str, int] = {}
    for period, fields in store.look()[0]["usage"].items():
        for name, amount in fields.items():
            *_, kind, unit = name.split("|")
            if unit == "images":
                totals[f"{period} {kind}"] = totals.get(f"{period} {kind}", 0) + int(amount)
    return totals


def untouched(store: Store, rules: list[Rule]) -> tuple[Any, ...]:
    return store.look(rules)


# All or none


def test_a_refusal_leaves_no_trace(store: Store) -> None:
    """Where one rule of four refuses, none is charged, no slot is taken and nothing is remembered."""
    rules = [IMAGES, REQUESTS, replace(MONEY, limit=39_999), SLOTS]
    before = untouched(store, rules)
    answer = order(store, "r", *rules)
    assert answer.status == 0
    assert [state.refused for state in answer.states] == [False, False, True, False]
    assert untouched(store, rules) == before


def test_over_the_headroom_is_refused_and_not_shrunk(store: Store) -> None:
    """Seven of ten images are used: four more are refused whole, three more fit."""
    assert order(store, "a", IMAGES, n=7).status == 1
    assert order(store, "b", IMAGES, n=4).status == 0
    assert order(store, "c", IMAGES, n=3).status == 1
    assert used(store, IMAGES) == 10


def test_a_shadow_rule_counts_and_reports_and_never_refuses(store: Store) -> None:
    """Beside an enforced rule on the same counter the order is charged once; the shadow alone says it is over."""
    shadow = replace(IMAGES, name="trial", limit=2, mode="shadow")
    answer = order(store, "r", IMAGES, shadow, n=3)
    assert answer.status == 1
    assert [(s.used, s.limit, s.refused) for s in answer.states] == [(3, 10, False), (3, 2, True)]
    assert used(store, IMAGES) == 3


def test_a_shadow_slot_is_counted_over_its_limit(store: Store) -> None:
    """Requests in flight beyond a shadow rule's limit are counted and come free like any others."""
    shadow = replace(SLOTS, limit=1, mode="shadow")
    assert [order(store, rid, shadow).status for rid in ("a", "b")] == [1, 1]
    assert used(store, SLOTS) == 2
    store.settle("a", REFUNDED)
    assert used(store, SLOTS) == 1


# Windows


@pytest.mark.parametrize(
    ("zone", "per", "last", "first"),
    [
        ("Europe/Berlin", Per.MONTH, "2026-12-31T23:59:59+01:00", "2027-01-01T00:00:00+01:00"),
        ("Europe/Berlin", Per.DAY, "2026-10-25T23:59:59+01:00", "2026-10-26T00:00:00+01:00"),
        ("Europe/Berlin", Per.DAY, "2027-03-28T23:59:59+02:00", "2027-03-29T00:00:00+02:00"),
        ("America/Santiago", Per.DAY, "2026-09-05T23:59:59-04:00", "2026-09-06T01:00:00-03:00"),
        ("Asia/Kolkata", Per.WEEK, "2026-11-22T23:59:59+05:30", "2026-11-23T00:00:00+05:30"),
        ("UTC", Per.MONTH, "2028-02-29T23:59:59+00:00", "2028-03-01T00:00:00+00:00"),
    ],
)
def test_a_window_ends_with_its_last_second(store: Store, zone: str, per: Per, last: str, first: str) -> None:
    """Full in its last second, a window says when it is free again, and then it is: month ends and clock changes."""
    rule = replace(IMAGES, per=per, zone=zone, limit=1)
    store.now = at(last)
    assert order(store, "a", rule, zone=zone).status == 1
    refused = order(store, "b", rule, zone=zone)
    assert (refused.status, refused.states[0].fit) == (0, at(first))
    store.now = at(first) - 1
    assert order(store, "b", rule, zone=zone).status == 0
    store.now = at(first)
    assert order(store, "b", rule, zone=zone).status == 1
    assert used(store, rule) == 1


def test_a_sliding_window_has_no_edge(store: Store) -> None:
    """Ten in the last second of a minute leave nothing for the first of the next; they fit when all has left."""
    store.now = NOON + 59_500
    assert order(store, "a", MINUTELY, n=10).status == 1
    for later in (SECOND, 30 * SECOND, 59 * SECOND, 60 * SECOND):
        store.now = NOON + 59_500 + later
        assert order(store, "b", MINUTELY).status == 0
    fit = order(store, "b", MINUTELY).states[0].fit
    assert fit is not None
    assert 60 * SECOND < fit - (NOON + 59_500) <= 60 * SECOND + 2, "strict by two milliseconds, no more"
    store.now = fit - 1
    assert order(store, "b", MINUTELY).status == 0
    store.now = fit
    assert order(store, "b", MINUTELY, n=10).status == 1


@pytest.mark.parametrize("within", [0, 1, 499, 500, 998, 999])
@pytest.mark.parametrize(("per", "length", "late"), [(Per.MINUTE, MINUTE, 2), (Per.HOUR, HOUR, 60)])
def test_what_was_charged_leaves_a_window_later(store: Store, per: Per, length: int, late: int, within: int) -> None:
    """Wherever in a slice it was charged: never within the window's length, and hardly a moment after it."""
    rule = replace(MINUTELY, per=per, name="x")
    store.now = NOON + within * length // MINUTE
    charged = store.now
    assert order(store, "a", rule, n=10).status == 1
    store.now += length
    refused = order(store, "b", rule)
    assert refused.status == 0
    fit = refused.states[0].fit
    assert fit is not None
    assert charged + length < fit <= charged + length + late
    store.now = fit
    assert order(store, "b", rule, n=10).status == 1


def fullest_span(store: Store, per: Per, length: int) -> int:
    """The most images in any span of that length, by the times of what was admitted.

    Orders come at random, and at the very end of the span that the tenth but last one began.
    """
    rule, chance = replace(MINUTELY, per=per, name="x"), random.Random(5)
    admitted: list[int] = []
    fullest = 0
    for number in range(1500):
        step = chance.choice([0, 1, 5, 100, 1000, 3000, 9000]) * length // MINUTE + chance.randrange(length // MINUTE)
        edge = admitted[-10] + length if len(admitted) >= 10 else 0
        store.now = edge if step < edge - store.now < length // 10 else store.now + step
        if order(store, f"r{number}", rule).status == 1:
            admitted.append(store.now)
            fullest = max(fullest, sum(at >= store.now - length for at in admitted))
            store.settle(f"r{number}", made(1))
    return fullest


SPANS = [(Per.MINUTE, MINUTE), (Per.HOUR, HOUR)]


@pytest.mark.parametrize(("per", "length"), SPANS)
def test_in_no_span_of_its_length_is_more_admitted(store: Store, per: Per, length: int) -> None:
    """Of orders at random 10 images at most are admitted in any minute, or hour, and at times all 10."""
    assert fullest_span(store, per, length) == 10


@pytest.mark.parametrize(("per", "length"), SPANS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("part = math.max(part, part_of(had))", "part = part_of(had)"),
        ("if slice > oldest or (", "if slice > oldest or false and ("),
        ("local part = math.ceil(", "local part = math.floor("),
    ],
    ids=["the first charge's part", "no part", "a part rounded down"],
)
def test_a_span_that_is_too_full_is_seen(client: "redis.Redis", per: Per, length: int, old: str, new: str) -> None:
    """The same orders find more than 10 where a slice leaves too early; a 1024th of a minute's is under its clock's
    millisecond, and not missed.
    """
    wrong = Store(client, loaded(client, Mutant("reserve", old, new)), now=NOON)
    assert (fullest_span(wrong, per, length) > 10) == (per is Per.HOUR or "ceil" not in old)


def test_a_slice_of_an_earlier_version_counts_whole(store: Store, client: "redis.Redis") -> None:
    """A value without a part, as it was written before there were any, leaves at the end of its slice's minute."""
    slice_ = NOON // SECOND
    packing = f"redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack({{[{slice_}] = 4}}))"
    client.eval(packing, 1, f"{{{NAMESPACE}}}:counters", MINUTELY.counter)
    assert store.used([MINUTELY]) == [(4, NOON + 61 * SECOND)]
    order(store, "a", MINUTELY, n=3)
    assert store.used([MINUTELY]) == [(7, NOON + 61 * SECOND)]
    store.now = NOON + 61 * SECOND - 1
    assert used(store, MINUTELY) == 7
    store.now += 1
    assert used(store, MINUTELY) == 0


def test_a_refusal_tells_when_enough_will_have_left(store: Store) -> None:
    """Three at 0 s and three at 20 s: five more fit when the first three have left, eight when all have."""
    order(store, "a", MINUTELY, n=3)
    store.now += 20 * SECOND
    order(store, "b", MINUTELY, n=3)
    states = [order(store, "c", MINUTELY, n=n).states[0] for n in (5, 8, 11)]
    assert [state.fit for state in states] == [NOON + 60 * SECOND + 2, NOON + 80 * SECOND + 2, None]
    assert {state.reset for state in states} == {NOON + 80 * SECOND + 2}


def test_what_was_given_back_does_not_hold_up_the_reset(store: Store) -> None:
    """A sliding window is empty again when what still counts has left, not when a refunded charge would have."""
    order(store, "a", MINUTELY)
    store.now += 20 * SECOND
    order(store, "b", MINUTELY)
    store.settle("b", UNSENT)
    assert store.used([MINUTELY]) == [(1, NOON + 60 * SECOND + 2)]


def test_a_clock_that_goes_back_an_hour_opens_no_window_again(store: Store) -> None:
    """After a failover to a server that is behind, a day and a minute that were full stay full."""
    store.now = at("2026-11-18T00:10:00+00:00")
    assert order(store, "a", IMAGES, MINUTELY, n=10).status == 1
    store.now -= HOUR
    answer = order(store, "b", IMAGES, MINUTELY)
    assert answer.status == 0
    assert [state.refused for state in answer.states] == [True, True]
    assert answer.states[0].fit == at("2026-11-19T00:00:00+00:00")


@pytest.mark.parametrize("skew", [-40 * DAY, -3 * DAY, 2 * DAY, 40 * DAY])
def test_stale_windows_decide_nothing(store: Store, skew: int) -> None:
    """Windows that do not hold the store's present get -1 and its time, leave no trace, and are asked for again."""
    rules, booking = [IMAGES, SLOTS], Booking("design", "UTC", "k", "m", "generations", "d", "s", "q", 1, 1)
    before = untouched(store, rules)
    charges = [Charge(rule, 1) for rule in rules]
    ask = scripts.reservation("r", charges, booking, calendar=Calendar(), now=NOON + skew, deadline=1000)
    assert store.call("reserve", ask) == [-1, NOON]
    assert untouched(store, rules) == before
    store.skew = skew
    assert order(store, "r", *rules).status == 1


def test_a_wrong_clock_does_not_lose_the_usage_of_orders_without_a_calendar_rule(store: Store) -> None:
    """Where no rule has a window to be stale, the day an order is booked under still is the store's."""
    store.skew = 2 * DAY
    assert order(store, "r", MINUTELY).status == 1
    store.settle("r", made(1))
    assert booked(store) == {"design:2026-11-17 delivered": 1, "design:2026-11 delivered": 1}


# Refunds


def test_a_refund_goes_into_the_window_of_its_charge(store: Store) -> None:
    """Refunded after midnight, yesterday's charge gives nothing to today; on the same day it does."""
    order(store, "old", IMAGES, MONEY, n=4)
    order(store, "same", IMAGES, n=3)
    store.settle("same", REFUNDED)
    assert used(store, IMAGES) == 4
    store.now += DAY
    order(store, "new", IMAGES, n=5)
    store.settle("old", REFUNDED)
    assert used(store, IMAGES) == 5
    assert used(store, MONEY) == 0, "the month is still the same"


def test_a_refund_leaves_the_slice_of_its_charge(store: Store) -> None:
    """A sliding charge is given back where it was taken: what was taken later still counts as long as it should."""
    order(store, "a", MINUTELY, n=4)
    store.now += 30 * SECOND
    order(store, "b", MINUTELY, n=5)
    store.settle("a", made(1, of=4, cost=160_000))
    assert used(store, MINUTELY) == 6
    store.now = NOON + 61 * SECOND
    assert used(store, MINUTELY) == 5
    store.now = NOON + 91 * SECOND
    assert used(store, MINUTELY) == 0


def test_images_and_money_are_refunded_and_requests_are_not(store: Store) -> None:
    """Three of five images came: two and their price go back, the request stays; unsent, it goes back too."""
    rules = [IMAGES, MONEY, REQUESTS]
    order(store, "a", *rules, n=5, cost=200_000)
    assert store.settle("a", made(3, of=5, cost=200_000)) == (1, "reserved")
    assert [used(store, rule) for rule in rules] == [3, 120_000, 1]
    order(store, "b", *rules)
    store.settle("b", REFUNDED)
    assert [used(store, rule) for rule in rules] == [3, 120_000, 2]
    order(store, "c", *rules)
    store.settle("c", UNSENT)
    assert [used(store, rule) for rule in rules] == [3, 120_000, 2]


# Ends


def test_an_end_is_final_and_says_which_it_was(store: Store) -> None:
    """Every later end of any kind changes nothing."""
    order(store, "r", IMAGES, SLOTS, n=2, cost=80_000)
    assert store.settle("r", made(1, of=2, cost=80_000)) == (1, "reserved")
    before = untouched(store, [IMAGES, SLOTS])
    for end in (REFUNDED, UNSENT, made(2, of=2, cost=80_000), settlement.presumed(ordered=2, cost=80_000)):
        assert store.settle("r", end) == (0, "committed")
    assert order(store, "r", IMAGES).status == -2
    assert store.admit("r", "design", [Charge(SLOTS, 1)], []).status == -2
    assert untouched(store, [IMAGES, SLOTS]) == before


def long_after(store: Store) -> None:
    """The deadline passes in silence, and then the grace in which the ends of an outage are still delivered."""
    store.now += store.deadline
    for _ in range(4):
        assert store.beat([]) == []
        store.now += 9 * SECOND


@pytest.mark.parametrize(
    ("late", "images", "books"),
    [
        (REFUNDED, 0, {}),
        (made(1, of=3, cost=120_000), 1, {"delivered": 1}),
        (made(3, of=3, cost=120_000), 3, {"delivered": 3}),
    ],
)
@pytest.mark.parametrize("by_beat", [True, False])
def test_a_late_outcome_replaces_a_presumption_once(
    store: Store, late: settlement.Settlement, images: int, books: dict[str, int], *, by_beat: bool
) -> None:
    """Presumed by the gateway or past its deadline, a charge is unknown; within 24 h its true end corrects it, once."""
    order(store, "r", IMAGES, n=3, cost=120_000)
    if by_beat:
        long_after(store)
        assert store.beat([]) == [("design", 3, 120_000)]
        assert store.beat([]) == []
    else:
        assert store.settle("r", settlement.presumed(ordered=3, cost=120_000)) == (1, "reserved")
    assert used(store, IMAGES) == 3
    assert booked(store)["design:2026-11-17 unknown"] == 3
    store.now += 11 * HOUR
    store.beat([])
    assert store.settle("r", late) == (1, "presumed")
    assert store.settle("r", REFUNDED)[0] == 0
    assert used(store, IMAGES) == images
    assert {k.split()[1]: v for k, v in booked(store).items() if v and k.startswith("design:2026-11-17")} == books


def test_after_a_day_a_presumption_stays(store: Store) -> None:
    """25 h after the presumption its record is gone; a late outcome is told that nobody knows it."""
    order(store, "r", MONEY)
    store.settle("r", settlement.presumed(ordered=1, cost=40_000))
    store.now += 23 * HOUR
    store.beat([])
    assert store.look()[0]["records"] == {"r": ["presumed", "0"]}
    store.now += 2 * HOUR
    store.beat([])
    assert store.look()[0]["records"] == {}
    assert store.settle("r", made(1)) == (-1, "")
    assert used(store, MONEY) == 40_000


def test_many_overdue_charges_are_presumed_a_part_at_a_time(store: Store) -> None:
    """What 120 lost requests leave is presumed by three beats, each once, so that no beat holds the store up."""
    for i in range(120):
        order(store, f"r{i}", replace(IMAGES, limit=1000))
    long_after(store)
    told = [len(store.beat([])) for _ in range(4)]
    assert told == [50, 50, 20, 0]
    assert booked(store)["design:2026-11-17 unknown"] == 120


def test_settling_an_unknown_id_forbids_it_where_it_was_to_be_refunded(store: Store) -> None:
    """A refund that overtakes its own reservation wins: the reservation comes too late. A charge forbids nothing."""
    assert store.settle("early", UNSENT) == (-1, "")
    assert store.settle("early", UNSENT) == (0, "refunded")
    assert order(store, "early", IMAGES, SLOTS).status == -2
    assert used(store, SLOTS) == 0
    for end in (made(1), settlement.presumed(ordered=1, cost=1)):
        assert store.settle("lost", end) == (-1, "")
    assert order(store, "lost", IMAGES).status == 1


# The same call again


def test_every_call_may_come_twice(store: Store) -> None:
    """Admission, reservation, end and beat, each repeated, leave exactly what one of each leaves."""
    rules = [IMAGES, MINUTELY, REQUESTS, MONEY, SLOTS]
    slots = [Charge(SLOTS, 1)]
    assert [store.admit("r", "design", slots, [[0]]).status for _ in "12"] == [1, 2]
    assert used(store, SLOTS) == 1
    answers = [order(store, "r", *rules, n=2) for _ in "12"]
    assert [answer.status for answer in answers] == [1, 2]
    assert answers[0].states == answers[1].states
    assert [used(store, rule) for rule in rules] == [2, 2, 1, 40_000, 1]
    assert store.admit("r", "design", slots, [[0]]).status == 2
    assert [store.beat(["r"]) for _ in "12"] == [[], []]
    assert [store.settle("r", made(1, of=2)) for _ in "12"] == [(1, "reserved"), (0, "committed")]
    assert [used(store, rule) for rule in rules] == [1, 1, 1, 20_000, 0]
    assert booked(store) == {"design:2026-11-17 delivered": 1, "design:2026-11 delivered": 1}


def test_a_full_counter_does_not_refuse_who_is_already_in_it(store: Store) -> None:
    """The last one that fitted asks again, for its answer was lost, and hears that it is reserved."""
    rules = [replace(IMAGES, limit=1), replace(SLOTS, limit=1)]
    assert order(store, "r", *rules).status == 1
    again = order(store, "r", *rules)
    assert again.status == 2
    assert not any(state.refused for state in again.states)


# Slots


def test_a_slot_outlives_its_lease_only_where_it_is_renewed(store: Store) -> None:
    """Two hold slots, one renews every 10 s: after 30 s the other's is free; its charge is not."""
    for rid in ("alive", "dead"):
        assert order(store, rid, IMAGES, SLOTS).status == 1
    assert order(store, "third", SLOTS).status == 0
    for _ in range(5):
        store.now += 5 * SECOND
        store.beat(["alive"])
    assert used(store, SLOTS) == 2
    store.now += 5 * SECOND
    assert order(store, "third", SLOTS).status == 1, "no beat was needed"
    store.settle("dead", made(1))
    assert used(store, SLOTS) == 2, "its end frees nothing twice"
    assert used(store, IMAGES) == 2


def test_for_30_s_after_the_store_was_away_no_lease_ends(store: Store) -> None:
    """The renewals were away as well: whoever lives renews in time, and who does not is freed 30 s later."""
    for rid in ("alive", "dead"):
        order(store, rid, SLOTS)
    store.now += 2 * MINUTE
    back = store.now
    store.beat([])
    assert used(store, SLOTS) == 2
    while store.now < back + 25 * SECOND:
        store.now += 5 * SECOND
        store.beat(["alive"])
        assert used(store, SLOTS) == 2
    store.now = back + 30 * SECOND
    store.beat([])
    assert used(store, SLOTS) == 1


def test_a_lease_that_ended_before_the_order_is_taken_again_or_refused(store: Store) -> None:
    """An upload that hung for longer than its lease competes for a slot again when its body is complete."""
    one = replace(SLOTS, limit=1)
    assert store.admit("slow", "design", [Charge(one, 1)], [[0]]).status == 1
    for _ in range(LEASE // (5 * SECOND)):
        store.now += 5 * SECOND
        store.beat([])
    assert used(store, one) == 0
    assert order(store, "quick", IMAGES, one).status == 1
    assert order(store, "slow", IMAGES, one).status == 0
    store.settle("quick", REFUNDED)
    assert order(store, "slow", IMAGES, one).status == 1
    assert used(store, one) == 1


def test_teams_are_known_for_400_days_after_their_last_usage(store: Store) -> None:
    """Who orders is found without the config, charged or presumed; what was given back alone leaves no name."""
    order(store, "refunded", IMAGES)
    store.settle("refunded", REFUNDED)
    assert store.booked_teams() == []
    order(store, "made", IMAGES)
    store.settle("made", made(1))
    assert store.booked_teams() == ["design"]
    moved(store, 400 * DAY - 1)
    store.beat([])
    assert store.booked_teams() == ["design"]
    moved(store, 1)
    store.beat([])
    assert store.booked_teams() == []


def test_an_admission_that_nothing_followed_is_forgotten(store: Store) -> None:
    """After its patience an admission whose slot was renewed all the time is gone, with its slot and its record."""
    store.admit("r", "design", [Charge(SLOTS, 1)], [[0]])
    for _ in range(store.patience // (5 * SECOND)):
        assert used(store, SLOTS) == 1
        store.now += 5 * SECOND
        assert store.beat(["r"]) == []
    assert used(store, SLOTS) == 0
    assert store.look()[0]["records"] == {}


def test_an_admission_looks_and_charges_nothing(store: Store) -> None:
    """It is enough that one of the orders that might come fits; if none does no slot is taken."""
    hd = replace(IMAGES, name="hd", limit=0, qualities=frozenset({"hd"}))
    charges = [Charge(IMAGES, 1), Charge(SLOTS, 1), Charge(hd, 1)]
    assert store.admit("a", "design", charges, [[0, 1, 2]]).status == 0
    assert used(store, SLOTS) == 0
    assert store.admit("a", "design", charges, [[0, 1, 2], [0, 1]]).status == 1
    assert (used(store, SLOTS), used(store, IMAGES)) == (1, 0)


# The config changes


def test_a_changed_limit_keeps_what_was_used(store: Store) -> None:
    """Lowered below its use a rule refuses and is not clamped; raised, renamed or back again it goes on from there."""
    order(store, "a", IMAGES, n=6)
    lowered = order(store, "b", replace(IMAGES, limit=5))
    assert (lowered.status, lowered.states[0].used, lowered.states[0].limit) == (0, 6, 5)
    assert order(store, "c", REQUESTS).status == 1, "without the rule nothing refuses"
    assert order(store, "d", replace(IMAGES, limit=8, name="renamed", warn_at=(50,))).states[0].used == 7
    store.settle("a", made(2, of=6, cost=240_000))
    assert used(store, IMAGES) == 3
    store.now += DAY
    assert order(store, "e", replace(IMAGES, limit=5), n=5).status == 1


def test_a_grant_counts_until_its_moment(store: Store) -> None:
    """Two more images until five past twelve, and one for good; the moment itself is past it."""
    rule = replace(IMAGES, limit=1, grants=(Grant(2, (NOON + 5 * MINUTE) / 1000), Grant(1, None)))
    store.now += 5 * MINUTE - 1
    assert order(store, "a", rule, n=4).states[0].limit == 4
    store.now += 1
    refused = order(store, "b", rule)
    assert (refused.status, refused.states[0].limit, refused.states[0].used) == (0, 2, 4)


# Numbers


def test_numbers_stay_exact_up_to_the_largest(store: Store) -> None:
    """At nine thousand million million micro-dollars one more or less still decides, and is booked as it is."""
    rule = replace(MONEY, limit=LARGEST)
    assert order(store, "a", rule, cost=LARGEST - 1).status == 1
    assert order(store, "b", rule, cost=2).status == 0
    assert order(store, "c", rule, cost=1).status == 1
    assert used(store, rule) == LARGEST
    store.settle("a", made(1, cost=LARGEST - 1))
    store.settle("c", REFUNDED)
    assert used(store, rule) == LARGEST - 1
    usage = store.look()[0]["usage"]["design:2026-11"]
    assert [value for name, value in usage.items() if name.endswith("delivered|usd")] == [str(LARGEST - 1)]


# What administrators do by command


def moved(store: Store, ms: int) -> Store:
    store.now += ms
    return store


def test_a_grant_counts_from_the_next_call_on_until_its_moment(store: Store) -> None:
    """Reserve, admit and a look have the limit with it; in its last millisecond too, and then no more."""
    order(store, "full", IMAGES, n=10)
    store.grant("g", IMAGES, 5, NOON + SECOND)
    asked = [Charge(IMAGES, 5)]
    moved(store, SECOND - 1)
    assert store.admit("a", "design", asked, [[0]]).states[0].limit == 15
    assert order(store, "b", IMAGES, n=5).status == 1
    moved(store, 1)
    late = order(store, "c", IMAGES)
    assert (late.status, late.states[0].limit) == (0, 10)


def test_a_grant_goes_with_a_rule_that_is_renamed(store: Store) -> None:
    """A rule keeps what was granted as it keeps what was used: by its counter and its mode, not by its name."""
    store.grant("g", IMAGES, 5, NOON + DAY)
    assert order(store, "a", replace(IMAGES, name="other", limit=20)).states[0].limit == 25
    assert order(store, "b", replace(IMAGES, mode="shadow")).states[0].limit == 10


def test_grants_that_run_are_listed_with_who_and_why(store: Store) -> None:
    """Of several on a rule those that still run, with their amounts; what was changed is listed, the latest first."""
    store.grant("short", IMAGES, 5, NOON + SECOND)
    moved(store, 1)
    store.grant("long", IMAGES, 7, NOON + DAY)
    moved(store, SECOND)
    store.reset("back", MONEY, 1_000_000)
    grants, changes = store.recall([IMAGES, MONEY])
    assert [(g.rule, g.amount, g.until, g.by, g.reason) for g in grants] == [
        (IMAGES, 7, (NOON + DAY) / 1000, "admin@host", "why not")
    ]
    assert [(c.act, c.rule, c.before, c.after, c.difference) for c in changes] == [
        ("reset", "usd-month", 0, 1_000_000, 1_000_000),
        ("grant", "images-day", 15, 22, 7),
        ("grant", "images-day", 10, 15, 5),
    ]


def test_changes_are_kept_for_400_days(store: Store) -> None:
    """In its last millisecond a change is still there, however many came after it."""
    store.reset("first", IMAGES, 1)
    moved(store, 400 * DAY - 1)
    store.reset("second", IMAGES, 2)
    assert [change.id for change in store.recall([])[1]] == ["second", "first"]
    moved(store, 2)
    store.reset("third", IMAGES, 3)
    assert [change.id for change in store.recall([])[1]] == ["third", "second"]


@pytest.mark.parametrize("answered", [True, False])
def test_an_idempotency_key_outlives_the_memory_of_its_reservation(store: Store, answered: bool) -> None:
    """A key that is kept for a day is not free when its ended reservation is forgotten, even if the word of its end was
    lost; only a claim that no reservation followed comes free.
    """

    def remember(act: str, rid: str) -> str:
        key = f"{{{NAMESPACE}}}:i:design:1"
        facts = {"act": act, "key": key, "rid": rid, "print": "p", "keep": DAY, "patience": MINUTE, "status": 200}
        return str(store.call("remember", scripts.dumps(facts))[0])

    assert remember("claim", "first") == "claimed"
    order(store, "first", IMAGES)
    store.settle("first", made(1))
    assert remember("claim", "second") == "running"
    if answered:
        assert remember("conclude", "first") == "done"
    for _ in range(23):
        store.now += HOUR
        store.beat([])
        assert remember("claim", "second") == "done"


def test_a_claim_that_no_reservation_followed_comes_free(store: Store) -> None:
    """Whose worker died between the two does not hold a key for its whole time."""

    def claim(rid: str) -> str:
        facts = {"act": "claim", "key": f"{{{NAMESPACE}}}:i:design:2", "rid": rid, "print": "p"}
        return str(store.call("remember", scripts.dumps({**facts, "keep": DAY, "patience": MINUTE}))[0])

    assert claim("first") == "claimed"
    store.now += MINUTE
    assert claim("second") == "running"
    store.now += SECOND
    assert claim("second") == "claimed"


def test_each_change_is_told_to_one_that_asks(store: Store) -> None:
    """Two gateways ask in turn: the first hears of all that is new, the second of nothing, until there is more."""
    store.grant("a", IMAGES, 5, NOON + DAY)
    store.reset("b", IMAGES, 1)
    assert [change.id for change in store.untold()] == ["a", "b"]
    assert store.untold() == []
    store.reset("c", IMAGES, 1)
    assert [change.id for change in store.untold()] == ["c"]


def test_a_counter_that_was_corrected_over_its_limit_refuses_until_its_window_ends(store: Store) -> None:
    """A correction may say more than the limit; it is refused like any other use, and gone with the window."""
    store.reset("a", IMAGES, 50)
    refused = order(store, "r", IMAGES)
    assert (refused.status, refused.states[0].used, refused.states[0].fit) == (0, 50, at("2026-11-18T00:00+00:00"))
    moved(store, 12 * HOUR)
    assert order(store, "s", IMAGES).states[0].used == 1


# Why something was refused


def test_the_latest_200_refusals_of_a_team_are_kept(store: Store) -> None:
    """Of more the oldest go, and another team's stay."""
    store.keep_refusals({"a": [(store.now / 1000 + i, f"a{i}") for i in range(150)], "b": [(store.now / 1000, "b0")]})
    store.keep_refusals({"a": [(store.now / 1000 + i, f"a{i}") for i in range(150, 300)]})
    assert store.refusals(["a"]) == [f"a{i}" for i in range(299, 99, -1)]
    assert store.refusals(["b"]) == ["b0"]


def test_refusals_are_kept_for_30_days(store: Store) -> None:
    """An older one is not told, whether or not others came since; the key ends with its last one."""
    store.keep_refusals({"a": [(store.now / 1000, "old")]})
    moved(store, 30 * DAY)
    assert store.refusals(["a"]) == ["old"]
    moved(store, 1)
    assert store.refusals(["a"]) == []
    store.keep_refusals({"a": [(store.now / 1000, "new")]})
    assert store.refusals(["a"]) == ["new"]
    assert 0 < store.expires_in("{test}:refused:a") <= 30 * DAY


def test_refusals_are_found_by_their_words_and_time(store: Store) -> None:
    """A glob's signs stand for themselves."""
    now = store.now / 1000
    store.keep_refusals({"a": [(now, '{"id":"req_1"}'), (now + 1, '{"id":"req_2"}')], "b": [(now, "[x]*")]})
    assert store.refusals(["a", "b"], containing='"req_1"') == ['{"id":"req_1"}']
    assert store.refusals(["a", "b"], containing="[x]*") == ["[x]*"]
    assert store.refusals(["a", "b"], containing="req_?") == []
    assert store.refusals(["a"], since=now + 1) == ['{"id":"req_2"}']
