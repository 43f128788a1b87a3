"""One file for each rule: in tests/data/config/bad what is wrong, in tests/data/config/warned what is hardly meant.

The first lines of each say exactly what is expected of it.
"""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.config.file import load
from gateway.config.problems import ConfigErrors

DATA = Path(__file__).parent.parent / "data" / "config"
BAD = sorted((DATA / "bad").glob("*.yaml"))
WARNED = sorted((DATA / "warned").glob("*.yaml"))
NOW = datetime(2030, 6, 15, tzinfo=UTC).timestamp()
MARK = "# expect: "


def expected(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_with_exactly_these_messages(path: Path) -> None:
    """Each wrong file gives its own messages with line, column and place, all of them and no other."""
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    assert [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems] == expected(path)


@pytest.mark.parametrize("path", WARNED, ids=lambda path: path.stem)
def test_a_doubtful_file_gives_exactly_these_warnings(path: Path) -> None:
    """Each file is valid, and gives its own warnings with line, column and place, all of them and no other."""
    found = load(path).warnings(NOW)
    assert [str(problem).removeprefix(f"{path}:") for problem in found] == expected(path) != []


def test_there_is_a_bad_file_for_every_rule() -> None:
    """The collection is found at all, and does not shrink unnoticed."""
    assert len(BAD) >= 192
    assert len(WARNED) >= 13
