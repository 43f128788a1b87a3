"""The judge on small histories made by hand: a good one passes, and each that lies in one place is told by its name."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from tests.faults.checker import check
from tests.faults.history import (
    EMPTIED,
    Attempt,
    Charge,
    Descriptors,
    Fault,
    Generation,
    History,
    How,
    Left,
    Limit,
    Record,
    Step,
    Told,
)

KIND = ("generations", "1024x1024", "standard", 2)
LABELS = ("design-0", "main", "dall-e-3", "1024x1024", "standard", "generations")
DAY, SLOTS, MINUTE = "design|images|day", "design|concurrent", "design|requests|minute"


def _booked() -> list[tuple[str, str, int]]:
    return [
        (period, f"{'|'.join(LABELS)}|delivered|{unit}", amount)
        for period in ("design:2026-11-22", "design:2026-11")
        for unit, amount in (("images", 2), ("usd", 80_000))
    ]


def good() -> History:
    """One order of two images: admitted under a limit of two a day, made, answered and committed."""
    charges = (Charge(DAY, "cal", 1000, "images", 2), Charge(MINUTE, "roll", 500, "requests", 1))
    taken = Record("reserved", LABELS, 2, 80_000, (SLOTS,), charges)
    delivered = _booked()
    return History(
        attempts=[
            Attempt("a", "design", "design-0", KIND, 1.0, 2.0, How.ANSWERED, status=200, rid="req_a", images=2),
        ],
        generations=[Generation("a", KIND, 2, 1.2, 1.6)],
        steps=[
            Step([("req_a", taken)], [(DAY, {1000: 2}), (MINUTE, {500: 1})]),
            Step([("req_a", Record("committed"))], [], delivered),
        ],
        left=Left(
            {DAY: {1000: 2}, MINUTE: {500: 1}, SLOTS: 0},
            frozenset(),
            frozenset(),
            {"design:2026-11-22": {name: amount for period, name, amount in delivered if period.count("-") > 1}},
        ),
        limits={
            DAY: Limit("design", "images", "day", 2),
            SLOTS: Limit("design", "concurrent", "now", 1),
            MINUTE: Limit("design", "requests", "minute", 5),
        },
        prices={("1024x1024", "standard"): 40_000},
        descriptors=[Descriptors(1, 30, 35)],
    )


def _second(history: History, **changed: object) -> Attempt:
    other = replace(history.attempts[0], **{"token": "b", "rid": "req_b", **changed})  # type: ignore[arg-type]
    history.attempts.append(other)
    return other


def _ledger_lets_too_much_in(history: History) -> None:
    history.limits = {**history.limits, DAY: Limit("design", "images", "day", 1)}


def _upstream_makes_too_much(history: History) -> None:
    """The ledger has forgotten it, so only the upstream knows."""
    _second(history, status=0, rid="", how=How.CUT)
    history.generations.append(Generation("b", KIND, 2, 3.0, 3.4))


def _two_at_once(history: History) -> None:
    _second(history)
    history.generations.append(Generation("b", KIND, 2, 1.5, 1.9))


def _no_end(history: History) -> None:
    del history.steps[1]


def _a_second_end(history: History) -> None:
    history.steps.append(Step([("req_a", Record("refunded"))]))


def _charged_twice(history: History) -> None:
    rid, record = history.steps[0].records[0]
    assert record is not None
    again = replace(record, charges=record.charges * 2)
    history.steps.insert(1, Step([(rid, again)], [(DAY, {1000: 4})]))


def _nobody_asked(history: History) -> None:
    history.attempts[0] = replace(history.attempts[0], key="another", rid="")
    history.generations.clear()


def _made_and_refunded(history: History) -> None:
    history.steps[1] = Step([("req_a", Record("refunded"))], [(DAY, {1000: 0})])
    history.left = replace(history.left, counters={**history.left.counters, DAY: {1000: 0}}, usage={})


def _made_for_nobody(history: History) -> None:
    """A refusal that the client got, behind which the upstream worked all the same."""
    _second(history, status=502, rid="", images=0)
    history.generations.append(Generation("b", KIND, 2, 3.0, 3.4))


def _charged_and_not_made(history: History) -> None:
    history.generations.clear()


def _an_image_went_missing(history: History) -> None:
    history.attempts[0] = replace(history.attempts[0], images=1)


def _minute(history: History, *, first: float, second: float) -> None:
    """One request a minute, and a second one a minute later; each as far into its slice as that says."""
    rid, later = "req_b", 560
    charge = Charge(MINUTE, "roll", later, "requests", 1)
    taken = Record("reserved", LABELS, 0, 0, (), (charge,))
    history.limits = {**history.limits, MINUTE: Limit("design", "requests", "minute", 1)}
    history.steps[0] = replace(history.steps[0], counters=[(DAY, {1000: 2}), (MINUTE, {500: 1 + first % 1})])
    history.steps.append(Step([(rid, taken)], [(MINUTE, {500: 1 + first % 1, later: 1 + second % 1})]))


def _a_minute_too_early(history: History) -> None:
    _minute(history, first=0.5, second=0.25)


def _a_minute_too_early_for_a_whole_slice(history: History) -> None:
    _minute(history, first=1, second=0.75)


def _counter_off_by_one(history: History) -> None:
    history.left = replace(history.left, counters={**history.left.counters, DAY: {1000: 3}})


def _refund_in_the_wrong_slice(history: History) -> None:
    history.steps[1].counters.append((MINUTE, {500: 1, 501: -1}))


def _usage_lost(history: History) -> None:
    history.left = replace(history.left, usage={})


def _sent_twice(history: History) -> None:
    history.generations.append(Generation("a", KIND, 0, 1.7, 2.1))


def _paid_and_invited_again(history: History) -> None:
    history.attempts[0] = replace(history.attempts[0], status=503, again=True)


def _read_as_hd(history: History) -> None:
    history.generations[0] = replace(history.generations[0], kind=("generations", "1024x1024", "hd", 2))
    history.prices = {**history.prices, ("1024x1024", "hd"): 80_000}


def _a_slot_left(history: History) -> None:
    history.left = replace(history.left, counters={**history.left.counters, SLOTS: 1})


def _descriptors_left(history: History) -> None:
    history.descriptors[0] = Descriptors(1, 30, 90)


def _cut_without_reason(history: History) -> None:
    history.faults.append(Fault("kill worker", 60.0, 60.0))
    _second(history, how=How.CUT, status=0, rid="")


def _emptied(history: History) -> None:
    """The store forgets all while the order is under way; that is noticed, and the order is told in a log."""
    history.steps[1] = Step(lost=True)
    history.left = Left({}, frozenset(), frozenset(), {})
    history.faults.append(Fault(EMPTIED, 1.3, 1.4))
    history.told, history.noticed = {"req_a": Told(2, presumed=False)}, 1


def _emptied_unnoticed(history: History) -> None:
    _emptied(history)
    history.noticed = 0


def _emptied_and_not_told(history: History) -> None:
    _emptied(history)
    history.told = {}


def _emptied_and_told_too_much(history: History) -> None:
    _emptied(history)
    history.told = {"req_a": Told(3, presumed=False)}


def _bought_again_after_a_loss(history: History, *, charged: int) -> None:
    """The same order under its Idempotency-Key, which the store has forgotten with all else: it is made once more."""
    _emptied(history)
    history.attempts[0] = replace(history.attempts[0], keyed=True, status=424, images=0)
    _second(history, token="a", began=2.0, ended=3.0, status=200, images=2)
    history.generations.append(Generation("a", KIND, 2, 2.2, 2.6))
    taken = replace(history.steps[0].records[0][1] or Record(""), images=charged)
    days = [(period, name, charged if name.endswith("images") else amount) for period, name, amount in _booked()]
    history.steps += [
        Step([("req_b", taken)], [(DAY, {1000: 2}), (MINUTE, {500: 1})]),
        Step([("req_b", Record("committed"))], [], days),
    ]
    usage = {name: amount for period, name, amount in days if period.count("-") > 1}
    history.left = replace(
        history.left, counters={DAY: {1000: 2}, MINUTE: {500: 1}}, usage={"design:2026-11-22": usage}
    )


def _hung(history: History) -> None:
    _second(history, how=How.HUNG, status=0, rid="")


WRONG: dict[str, list[Callable[[History], None]]] = {
    "I1": [
        _ledger_lets_too_much_in,
        _upstream_makes_too_much,
        _two_at_once,
        _a_minute_too_early,
        _a_minute_too_early_for_a_whole_slice,
    ],
    "I2": [_no_end, _a_second_end, _charged_twice, _nobody_asked],
    "I3": [
        _made_and_refunded,
        _made_for_nobody,
        _charged_and_not_made,
        _an_image_went_missing,
        _emptied_unnoticed,
        _emptied_and_not_told,
        _emptied_and_told_too_much,
        partial(_bought_again_after_a_loss, charged=1),
        partial(_bought_again_after_a_loss, charged=3),
    ],
    "I4": [_counter_off_by_one, _refund_in_the_wrong_slice, _usage_lost, _charged_twice],
    "I5": [_sent_twice, _paid_and_invited_again],
    "I6": [_read_as_hd],
    "I7": [_a_slot_left],
    "I8": [_descriptors_left],
    "I9": [_cut_without_reason, _hung],
}


def test_a_good_history_passes() -> None:
    """An order that is taken, made, answered and committed violates nothing, and is counted once everywhere."""
    verdict = check(good())
    assert verdict.violations == []
    assert (verdict.reserved, verdict.ended_once, verdict.made, verdict.charged, verdict.presumed) == (1, 1, 2, 2, 0)
    assert verdict.tightest == 1.0


def test_a_loss_that_is_noticed_and_told_passes() -> None:
    """An order that was under way as the store forgot all is charged by what a log says of it."""
    history = good()
    _emptied(history)
    verdict = check(history)
    assert verdict.violations == []
    assert (verdict.reserved, verdict.ended_once, verdict.made, verdict.charged) == (1, 1, 2, 2)


def test_an_order_whose_key_was_forgotten_may_be_bought_again_and_is_charged_again() -> None:
    """Both times are charged, whichever of the two the upstream made when; less than that is a loss."""
    history = good()
    _bought_again_after_a_loss(history, charged=2)
    verdict = check(history)
    assert verdict.violations == []
    assert (verdict.reserved, verdict.made, verdict.charged) == (2, 4, 4)


@pytest.mark.parametrize(("first", "second"), [(0.25, 0.5), (0.75, 1)])
def test_what_is_a_minute_old_counts_no_more(first: float, second: float) -> None:
    """Nothing counts of a sliding window's oldest slice if its last charge was earlier in it than this in its own."""
    history = good()
    _minute(history, first=first, second=second)
    assert "I1" not in check(history).names


@pytest.mark.parametrize(("invariant", "spoil"), [(name, spoil) for name, spoils in WRONG.items() for spoil in spoils])
def test_a_wrong_history_is_told_by_its_name(invariant: str, spoil: Callable[[History], None]) -> None:
    """A history that is wrong in one place violates the invariant that speaks of it."""
    history = good()
    spoil(history)
    assert invariant in check(history).names


def test_a_cut_that_a_kill_explains_is_none_of_the_gateways() -> None:
    """A connection that broke as its worker was killed is allowed, and its charge may be presumed."""
    history = good()
    history.attempts[0] = replace(history.attempts[0], how=How.CUT, status=0, rid="", images=0)
    history.faults.append(Fault("kill worker", 1.5, 1.5))
    assert check(history).violations == []
