"""What others have collected of pictures and of JSON, sent to a real gateway: good ones are taken, bad ones refused."""

from hashlib import sha256
from pathlib import Path

import pytest

from tests.differential import suites
from tests.e2e import wire
from tests.e2e.watching import Watched
from tests.support import packages

pytestmark = [pytest.mark.slow, pytest.mark.npm]


def edited(roomy: Watched, picture: bytes) -> wire.Answer:
    return wire.ask(roomy.url, wire.edit(roomy.key("plain"), wire.image(picture), wire.text("prompt", "x")))


def test_every_good_picture_goes_up_as_it_came(roomy: Watched) -> None:
    """Each of PngSuite is taken, and the upstream gets the same bytes."""
    for name, picture in suites.pictures().items():
        roomy.simulator.record.clear()
        assert edited(roomy, picture).status == 200, name
        (up,) = roomy.simulator.record.requests
        assert up.part("image").sha256 == sha256(picture).hexdigest(), name


def test_no_damaged_head_of_a_picture_goes_up(roomy: Watched) -> None:
    """Each of PngSuite without its end from within its head on, and with any byte of that changed, is no image."""
    tried = 0
    for number, (name, picture) in enumerate(suites.pictures().items()):
        cut, changed = bytearray(picture[: number % 33]), bytearray(picture)
        changed[number % 33] ^= 0x20
        for damaged in (cut, changed):
            answer = edited(roomy, bytes(damaged))
            assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_image", "image"), name
            tried += 1
    assert tried == 2 * len(suites.pictures()) > 2 * 33  # so that each byte of a head had its turn
    roomy.counters()
    assert roomy.simulator.record.totals.complete == 0


def test_what_is_no_json_is_refused(roomy: Watched, tmp_path: Path) -> None:
    """All of JSONTestSuite that must be refused is, for what it is: before anybody asks what type a user has."""
    node = packages.node_folder(tmp_path, packages.READERS)
    documents = {name: raw for name, raw in suites.json_documents(node).items() if name.startswith("n_")}
    assert len(documents) >= 188
    for name, raw in documents.items():
        error = of_body(roomy, b'{"prompt": "x", "user": %b}' % raw).error
        assert (error["code"], error["param"]) == ("invalid_value", None), (name, error)


def test_what_is_json_is_read(roomy: Watched, tmp_path: Path) -> None:
    """All of JSONTestSuite that must be taken is, or is told to be of another type; but no name twice."""
    node = packages.node_folder(tmp_path, packages.READERS)
    documents = {name: raw for name, raw in suites.json_documents(node).items() if name.startswith("y_")}
    assert len(documents) >= 95
    refused = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}
    for name, raw in documents.items():
        answer = of_body(roomy, b'{"prompt": "x", "user": %b}' % raw)
        wrong = {"user", "a"} if name in refused else {"user"}
        assert answer.status == 200 or answer.error["param"] in wrong, (name, answer.body)


def of_body(roomy: Watched, body: bytes) -> wire.Answer:
    return wire.ask(roomy.url, wire.generation_of(body, roomy.key("plain")))
