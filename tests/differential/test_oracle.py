"""The oracle on a fixed sample, and proof that it would see a disagreement."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.core.multipart import Event, FormReader
from tests.differential import bodies, places, suites
from tests.differential.__main__ import bodies_of_a_run, try_all
from tests.differential.bodies import ORDERS, image, text
from tests.differential.oracle import Charge, wrong
from tests.differential.readings import JSON, plain_files, read_in_python
from tests.support import packages

CHARGED = Charge("dall-e-3", "1024x1024", "standard", n=1)
WHOLE = b'{"model": "dall-e-3", "n": 1, "size": "1024x1024", "quality": "standard"%b}'
FORM = (text(b"model", b"dall-e-3"), text(b"n", b"1"), text(b"size", b"1024x1024"), *ORDERS[0].parts)


@pytest.mark.slow
@pytest.mark.npm
@pytest.mark.timeout(300)
# Readers leave their files open where a form breaks off.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_readers_see_what_was_charged(tmp_path: Path) -> None:
    """Of thousands of bodies each is refused with a 4xx, or read by every reader just as it was charged."""
    node = packages.node_folder(tmp_path, packages.READERS)
    further = (*suites.png_suite(), *suites.busboy(node))
    report = try_all(bodies_of_a_run(cases=300, seed=1, further=further), node=node)
    assert report.disagreements == []
    assert report.faults == []
    assert len(report.readers) == 18
    assert report.tried == report.forwarded + report.refused.total()
    assert report.forwarded > 500
    # Without the gateway the same bodies are read in several ways: it is not the readers that agree.
    assert report.control > 100
    assert report.control_n > 50


def test_no_place_to_cut_a_form_changes_it() -> None:
    """The plain orders in two pieces, cut wherever they can be, are read as they are whole."""
    forms = [body for body in bodies.plain() if body.content_type != JSON]
    cuts, changed = places.cut_everywhere(forms)
    assert cuts == sum(len(body.data) - 1 for body in forms) > 1000
    assert changed == []


class _Forgetful(FormReader):
    """Loses a carriage return on which a piece ends."""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        return super().feed(chunk.removesuffix(b"\r"))


def test_a_place_that_changes_a_form_is_told() -> None:
    """A reader that is wrong at one place of a line's end alone does not pass for one that is right."""
    forms = [body for body in bodies.plain() if body.content_type != JSON]
    _, changed = places.cut_everywhere(forms, _Forgetful)
    assert len(changed) == len(forms)


def test_a_plain_order_is_read_alike() -> None:
    """What holds nothing but the order passes the oracle, which so has no objection to everything."""
    form = ORDERS[0].body("form")
    whole = type(ORDERS[0])(FORM).body("form")
    for content_type, data in ((JSON, WHOLE % b""), (whole.content_type, whole.data)):
        files = plain_files(content_type, data) if content_type != JSON else {}
        assert wrong(CHARGED, content_type, read_in_python(content_type, data), files) == []
    assert plain_files(form.content_type, form.data).keys() == {"image"}


@pytest.mark.parametrize(
    "member", [b', "n": 10', b', "N": 10', b', "n": 1.5', b', "quality": "hd"', b', "Size": "1792x1024"']
)
def test_another_order_in_json_is_seen(member: bytes) -> None:
    """A second value of what decides the price, under any spelling of its name, is a disagreement."""
    assert wrong(CHARGED, JSON, read_in_python(JSON, WHOLE % member), {})


@pytest.mark.parametrize("name", [b"n", b"N", b"quality", b"model"])
def test_another_order_in_a_form_is_seen(name: bytes) -> None:
    """A second text of what decides the price, under any spelling of its name, is a disagreement."""
    body = type(ORDERS[0])((*FORM, text(name, b"10"))).body("form")
    files = plain_files(body.content_type, body.data)
    assert wrong(CHARGED, body.content_type, read_in_python(body.content_type, body.data), files)


def test_the_clients_own_files_are_cut_where_every_reader_cuts_them() -> None:
    """The oracle's own reading of what a client sent takes nearly a delimiter for data, under any spelling."""
    data = b"picture\r\n--frontie"
    form = type(ORDERS[0])((image(data=data),)).body("form")
    digest = sha256(data).hexdigest()
    for content_type in (form.content_type, form.content_type.replace("boundary", "BOUNDARY")):
        assert plain_files(content_type, form.data) == {"image": (digest,)}


def test_another_file_is_seen() -> None:
    """An upstream's file whose digest is not the client's is a disagreement."""
    body = type(ORDERS[0])(FORM).body("form")
    readings = read_in_python(body.content_type, body.data)
    assert wrong(CHARGED, body.content_type, readings, {"image": ("0" * 64,)})
