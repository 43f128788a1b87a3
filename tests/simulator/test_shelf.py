"""What is kept is bounded by count and by bytes."""

from gateway.simulator.shelf import Shelf


def test_the_oldest_goes_when_there_are_too_many() -> None:
    """Of three with room for two, the latest two stay."""
    shelf = Shelf(max_items=2, max_bytes=100)
    for key in "abc":
        shelf.put(key, b"x")
    assert [shelf.get(key) for key in "abc"] == [None, b"x", b"x"]


def test_the_oldest_go_when_they_are_too_large() -> None:
    """The sizes count, and what alone is too large is not kept either."""
    shelf = Shelf(max_items=10, max_bytes=10)
    shelf.put("a", bytes(6))
    shelf.put("b", bytes(6))
    assert (shelf.get("a"), shelf.get("b")) == (None, bytes(6))
    shelf.put("c", bytes(11))
    assert (shelf.get("b"), shelf.get("c")) == (None, None)


def test_a_cleared_shelf_has_all_its_room() -> None:
    """After clear nothing of before is kept or counted."""
    shelf = Shelf(max_items=10, max_bytes=10)
    shelf.put("a", bytes(10))
    shelf.clear()
    shelf.put("b", bytes(10))
    assert (shelf.get("a"), shelf.get("b")) == (None, bytes(10))
