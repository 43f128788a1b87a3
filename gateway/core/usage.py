"""What the usage ledger has booked, read and summed up. Money is integer micro-dollars to the end.

The store keeps, for each team, its days and months in the team's own time zone: a table of
``key|account|model|size|quality|endpoint|delivered or unknown|images or usd`` to numbers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

#: What usage can be told apart by; `team` and `day` are in the names of the tables, the others in their fields.
LABELS = ("team", "key", "model", "size", "quality", "endpoint", "account", "day")

_FIELDS = ("key", "account", "model", "size", "quality", "endpoint")


@dataclass(frozen=True, slots=True)
class Spent:
    """Images and micro-dollars charged: for what was delivered, and for what nobody can know."""

    delivered: int = 0
    unknown: int = 0
    usd_delivered: int = 0
    usd_unknown: int = 0

    @property
    def images(self) -> int:
        return self.delivered + self.unknown

    @property
    def usd(self) -> int:
        return self.usd_delivered + self.usd_unknown

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.delivered + other.delivered,
            self.unknown + other.unknown,
            self.usd_delivered + other.usd_delivered,
            self.usd_unknown + other.usd_unknown,
        )


Entry = tuple[Mapping[str, str], Spent]

_KINDS = {
    ("delivered", "images"): "delivered",
    ("unknown", "images"): "unknown",
    ("delivered", "usd"): "usd_delivered",
    ("unknown", "usd"): "usd_unknown",
}


def entries(table: Mapping[str, int], **more: str) -> Iterator[Entry]:
    """A table's fields, each with its labels. more: labels that hold for the whole table."""
    for field, amount in table.items():
        *values, kind, unit = field.split("|")
        yield {**dict(zip(_FIELDS, values, strict=True)), **more}, Spent(**{_KINDS[kind, unit]: amount})


def grouped(found: Iterable[Entry], by: Sequence[str]) -> dict[tuple[str, ...], Spent]:
    """Sums by these labels, in the order of their values; what came to nothing is left out."""
    groups: dict[tuple[str, ...], Spent] = {}
    for labels, spent in found:
        group = tuple(labels[name] for name in by)
        groups[group] = groups.get(group, Spent()) + spent
    return {group: groups[group] for group in sorted(groups) if groups[group] != Spent()}


def total(groups: Mapping[tuple[str, ...], Spent]) -> Spent:
    return sum(groups.values(), Spent())


def periods(first: date, last: date, *, daily: bool) -> list[str]:
    """The names of the tables that hold these days, both included: months where they are whole and `daily` is not
    asked for, else days.
    """
    names, day = [], first
    while day <= last:
        following = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        if not daily and day.day == 1 and following - timedelta(days=1) <= last:
            names.append(f"{day:%Y-%m}")
            day = following
        else:
            names.append(f"{day:%Y-%m-%d}")
            day += timedelta(days=1)
    return names
