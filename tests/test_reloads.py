"""Reloads: several workers come to the same verdicts, each by itself and in its own time, and each is told once."""

from pathlib import Path

from gateway.reloads import KEPT, MOST_WORDS, Reloads


def tells(worker: Reloads, version: str, result: str = "success") -> bool:
    return worker.tell(1.0, "success" if result == "success" else "failure", version, [f"to {version}"]) is not None


def workers(folder: Path, number: int = 2) -> list[Reloads]:
    made = [Reloads(folder) for _ in range(number)]
    for worker in made:
        worker.begun()
    return made


def test_each_change_is_told_by_the_first_who_knows(tmp_path: Path) -> None:
    """Also where a version comes back, and however far behind another worker is."""
    quick, slow = workers(tmp_path)
    assert [tells(quick, version) for version in "abab"] == [True] * 4
    assert [tells(slow, version) for version in "abab"] == [False] * 4
    assert tells(slow, "c")
    assert not tells(quick, "c")
    assert [reload.version for reload in quick.latest()] == list("cbaba")


def test_a_version_refused_is_another_matter_than_the_same_in_force(tmp_path: Path) -> None:
    """A file that was refused for a secret, say, and is taken up later, is told twice."""
    one, other = workers(tmp_path)
    assert tells(one, "a", "failure")
    assert tells(one, "a")
    assert [tells(other, "a", "failure"), tells(other, "a")] == [False, False]


def test_a_worker_that_skips_a_version_goes_along(tmp_path: Path) -> None:
    """It was busy while two versions were saved, and finds the second told."""
    one, other = workers(tmp_path)
    assert [tells(one, "a"), tells(one, "b")] == [True, True]
    assert not tells(other, "b")
    assert tells(other, "a")
    assert not tells(one, "a")


def test_a_new_worker_repeats_nothing_and_misses_nothing(tmp_path: Path) -> None:
    """What it judges before it has begun was told long ago; afterwards a version that comes back is news."""
    (old,) = workers(tmp_path, 1)
    assert [tells(old, "a"), tells(old, "b"), tells(old, "c", "failure")] == [True] * 3
    new = Reloads(tmp_path)
    assert not tells(new, "c", "failure")
    new.begun()
    assert tells(new, "a")
    assert not tells(old, "a")


def test_only_so_much_is_kept(tmp_path: Path) -> None:
    """The last reloads, and of each so many sentences and the number of all others."""
    (worker,) = workers(tmp_path, 1)
    for number in range(KEPT + 5):
        worker.tell(float(number), "success", f"{number}", ["x"] * (MOST_WORDS + 7))
    latest = worker.latest()
    assert [reload.version for reload in latest] == [f"{KEPT + 4 - number}" for number in range(KEPT)]
    assert {(len(reload.words), reload.more) for reload in latest} == {(MOST_WORDS, 7)}


def test_a_file_that_is_cut_off_is_none(tmp_path: Path) -> None:
    """What a full disk left behind ends no worker."""
    (tmp_path / "reloads.json").write_text('{"number": 3, "ke')
    (worker,) = workers(tmp_path, 1)
    assert worker.latest() == []
    assert tells(worker, "a")
