"""One difference between two versions of the config, and how plain values of both are set beside each other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.core.quota import Rule

ALL = "all"  #: what a permission or a rule without a list stands for


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that a version of the config changes.

    about: a team's id, `organization`, or the thing in a word or two (``model dall-e-3``). field: what of it, for
    programs. words: the change, for people. before, after: its value in both versions, where that is one value; never
    a secret. rule: whose use so far belongs beside it. restart: only a restart can bring it about.
    """

    about: str
    field: str
    words: str
    before: str | int | float | None = None
    after: str | int | float | None = None
    rule: Rule | None = None
    restart: bool = False


def compared(about: str, texts: Iterable[tuple[str, str, str]]) -> Iterator[Difference]:
    """A difference for each (name, before, after) whose two texts are not the same."""
    for name, before, after in texts:
        if before != after:
            yield Difference(about, name, f"{name} {before} -> {after}", before, after)


def listed(values: Iterable[str]) -> str:
    """Values whose order means nothing."""
    return ", ".join(sorted(values)) or "none"


def none_or(value: object) -> str:
    return "none" if value is None else str(value)
