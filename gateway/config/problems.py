"""What is wrong with a config file, where, and how it is told without ever repeating a secret."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

Steps = tuple[str | int, ...]  #: where in the tree: keys of mappings and indexes of lists, from the top

SHOWN = 40  #: characters of a value in a message; names are shorter, and longer texts may be anything

_PLAIN_STEP = re.compile(r"[A-Za-z0-9_-]+")
_SECRET_PREFIX = re.compile(r"(?i)(sk|pk|rk|igw|ghp|xox[a-z])[-_]|bearer |-----begin|eyj")
_LONG_RUN = re.compile(r"[0-9A-Za-z+/=_]{20,}")
_CREDENTIALS = re.compile(r"://[^/@]*@")


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. `line` and `col` count from 1; `path` is empty where the file cannot be read as a tree."""

    file: str
    line: int
    col: int
    path: str
    message: str

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.col}: {path}{self.message}"


class ConfigErrors(Exception):
    """Everything that is wrong, in the order of the file; its text has one problem a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems), key=lambda problem: (problem.line, problem.col, problem.message))
        super().__init__("\n".join(map(str, self.problems)))


class ConfigUnreadable(ConfigErrors):
    """There is no such file, or it cannot be opened: a wrong call more than a wrong config."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A finding before its line is looked up. `steps` leads to the value, or to where it is missing.

    on_key: the finding is about the key itself, not about what stands behind it.
    """

    steps: Steps
    message: str
    on_key: bool = False


class Places:
    """Where each value of a file stands, so that a finding on it can be printed with its line.

    marks, key_marks: (line, column) from 1, of a value and of the key before it.
    """

    def __init__(
        self, file: Path, marks: Mapping[Steps, tuple[int, int]], key_marks: Mapping[Steps, tuple[int, int]]
    ) -> None:
        self._file = str(file)
        self._marks = marks
        self._key_marks = key_marks

    def problem(self, fault: Fault) -> Problem:
        """Give a fault its line: that of its value, else of the nearest thing around it that is in the file."""
        steps = fault.steps
        while steps and steps not in self._marks:
            steps = steps[:-1]
        line, col = (self._key_marks if fault.on_key else self._marks).get(steps) or self._marks.get(steps, (1, 1))
        # An index below a scalar (`size: hd` is read as a list of one) stands nowhere in the file: leave it out.
        shown = fault.steps
        while shown and isinstance(shown[-1], int) and shown not in self._marks:
            shown = shown[:-1]
        return Problem(self._file, line, col, dotted(shown), fault.message)


def dotted(steps: Steps) -> str:
    """Write a place as people do: ``teams.design.quotas[2].per``."""
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_STEP.fullmatch(step) and not looks_secret(step):
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


def looks_secret(text: str) -> bool:
    """Whether a text might be a secret in the wrong place. Errs on the side of silence."""
    words: Sequence[str] = _LONG_RUN.findall(text)
    random = any(any(c.isdigit() for c in word) and any(c.isalpha() for c in word) for word in words)
    return random or _SECRET_PREFIX.search(text) is not None or _CREDENTIALS.search(text) is not None


def shown(value: object) -> str:
    """A value as a message may show it: short, on one line, and never what might be a secret."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case str() if looks_secret(value) or len(value) > SHOWN:
            return f"a text of {len(value)} characters"
        case str():
            return repr(value)
        case _:
            return str(value)


def listed(choices: Iterable[str]) -> str:
    """``a, b or c``; long lists are cut."""
    names = list(choices)
    if len(names) > 8:
        return ", ".join(names[:8]) + ", …"
    return " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)


def or_else(word: str, choices: Iterable[str]) -> str:
    """What to write instead of an unknown name: the nearest one, else all there are."""
    names = list(choices)
    return did_you_mean(word, names) or (f"; expected {listed(names)}" if names else "; there is none")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``; did you mean 'x'?`` if one of the choices is near, else nothing."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6) if len(word) <= SHOWN else []
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""
