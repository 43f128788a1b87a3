"""One wrong file for each rule in tests/data/config/bad; its first lines say exactly what is expected of it."""

from pathlib import Path

import pytest

from gateway.config.file import load
from gateway.config.problems import ConfigErrors

BAD = sorted((Path(__file__).parent.parent / "data" / "config" / "bad").glob("*.yaml"))
MARK = "# expect: "


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_with_exactly_these_messages(path: Path) -> None:
    """Each wrong file gives its own messages with line, column and place, all of them and no other."""
    lines = path.read_text(encoding="utf-8").split("\n")
    expected = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    assert [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems] == expected


def test_there_is_a_bad_file_for_every_rule() -> None:
    """The collection is found at all, and does not shrink unnoticed."""
    assert len(BAD) >= 170
