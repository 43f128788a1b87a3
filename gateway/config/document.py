"""One configuration file, read and found valid."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.model import Config
from gateway.config.problems import Places, Problem
from gateway.config.warn import warnings


@dataclass(frozen=True)
class Document:
    """A valid file: `config` is its tree, `places` knows the line of each value.

    hash: SHA-256 of the file's bytes, the first 12 hexadecimal digits.
    """

    path: Path
    config: Config
    hash: str
    places: Places = field(repr=False)

    def warnings(self, now: float | None = None) -> list[Problem]:
        """Return what is allowed but hardly meant, in the order of the file. now: unix seconds, else the clock's."""
        faults = warnings(self, time.time() if now is None else now)
        return sorted(map(self.places.problem, faults), key=lambda problem: (problem.line, problem.col))
