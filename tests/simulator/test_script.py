"""Each scripted behaviour as a client meets it on the wire, and what the record counts for it."""

import base64
import json
import time

import httpx
import pytest
from pydantic import ValidationError

from gateway.simulator.script import Behaviour, Script
from tests.simulator.pictures import decoded, png
from tests.simulator.wire import connected, edit_head, form, generation, read_all, read_answer, read_till_failure
from tests.support.simulated import API_KEY, SimulatorThread


def ask(simulator: SimulatorThread, **fields: object) -> httpx.Response:
    return httpx.post(
        f"{simulator.base_url}/images/generations",
        headers={"Authorization": f"Bearer {API_KEY}"},
        json={"prompt": "a cat", "size": "256x256", **fields},
    )


def exchange(simulator: SimulatorThread) -> bytes:
    """All bytes that a generation gets back, till the connection ends."""
    with connected(simulator) as connection:
        connection.sendall(generation())
        return read_all(connection)


@pytest.mark.parametrize("status", [302, 400, 401, 402, 403, 404, 408, 411, 429, 500, 501, 502, 503, 504, 520, 529])
def test_a_scripted_status_is_answered_once(simulator: SimulatorThread, status: int) -> None:
    """The next request gets it with its headers and nothing is made; the one after it is served."""
    simulator.script({"status": status, "headers": {"retry-after": "7"}})
    refused = ask(simulator)
    assert (refused.status_code, refused.headers["retry-after"]) == (status, "7")
    assert simulator.record.totals.images_made == 0
    assert ask(simulator).status_code == 200
    assert simulator.record.totals.images_made == 1


def test_a_failure_may_have_made_images_all_the_same(simulator: SimulatorThread) -> None:
    """`made` counts them for a 504; not for an order that was invalid anyway."""
    simulator.script({"status": 504, "made": 2, "times": 2})
    assert ask(simulator, n=2).status_code == 504
    assert ask(simulator, n=0).status_code == 504
    assert [request.images_made for request in simulator.record.requests] == [2, 0]


@pytest.mark.parametrize(("body", "sent"), [("<html>", b"<html>"), ({"created": 1}, b'{"created": 1}'), ([], b"[]")])
def test_a_garbage_200(simulator: SimulatorThread, body: object, sent: bytes) -> None:
    """The body stands as scripted, and the images nobody can read were made."""
    simulator.script({"status": 200, "body": body})
    assert ask(simulator).content == sent
    assert simulator.record.totals.images_made == 1


@pytest.mark.parametrize("images", [0, 1, 5])
def test_fewer_and_more_images(simulator: SimulatorThread, images: int) -> None:
    """The answer has as many images as scripted, and so many are made."""
    simulator.script({"images": images})
    assert len(ask(simulator, n=3).json()["data"]) == images
    assert simulator.record.totals.images_made == images


def test_a_giant_answer_is_still_a_picture(simulator: SimulatorThread) -> None:
    """Padding lengthens each b64_json by its size and leaves the PNG decodable; a url answer grows as a whole."""
    simulator.script(Behaviour(pad=3_000_000, times=2))
    [image] = ask(simulator, response_format="b64_json").json()["data"]
    assert len(image["b64_json"]) > 4_000_000
    assert decoded(base64.b64decode(image["b64_json"])).size == (256, 256)
    assert len(ask(simulator).content) > 3_000_000


def test_a_chunked_answer(simulator: SimulatorThread) -> None:
    """The same JSON comes without a Content-Length, in several chunks."""
    simulator.script({"chunked": True, "pad": 50_000})
    answer = ask(simulator)
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.headers
    assert len(answer.json()["padding"]) == 50_000


def test_latency_delays_one_answer(simulator: SimulatorThread) -> None:
    """The scripted seconds pass before the first byte."""
    simulator.script({"latency": 0.3})
    started = time.monotonic()
    assert ask(simulator).status_code == 200
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(("after", "expected"), [(0, 0), (10, 10), (None, None)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_answer(simulator: SimulatorThread, after: int | None, expected: int | None, *, chunked: bool) -> None:
    """The head and so many bytes of the body come, half of it by default, then the end; the image was made."""
    simulator.script({"fault": "cut", "after": after, "chunked": chunked})
    head, _, body = exchange(simulator).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert not body.endswith(b"0\r\n\r\n")
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|Extra"):
        json.loads(body)
    if expected is None:
        assert len(body) > 20
    else:
        assert len(body) == expected
    assert simulator.record.totals.images_made == 1


def test_a_dropped_answer(simulator: SimulatorThread) -> None:
    """The whole request is read, the connection ends without a byte, and the image was made."""
    simulator.script({"fault": "drop"})
    assert exchange(simulator) == b""
    [request] = simulator.record.requests
    assert (request.status, request.fault, request.complete, request.images_made) == (None, "drop", True, 1)


def test_a_reset_connection(simulator: SimulatorThread) -> None:
    """An RST instead of an answer; with `after`, behind so many bytes of its body."""
    simulator.script({"fault": "reset"}, {"fault": "reset", "after": 5})
    with pytest.raises(ConnectionResetError):
        exchange(simulator)
    with connected(simulator) as connection:
        connection.sendall(generation())
        received, failure = read_till_failure(connection)
    assert isinstance(failure, ConnectionResetError)
    assert len(received.partition(b"\r\n\r\n")[2]) == 5
    assert [request.status for request in simulator.record.requests] == [None, 200]


@pytest.mark.parametrize("after", [None, 5])
def test_a_hanging_answer(simulator: SimulatorThread, after: int | None) -> None:
    """Nothing comes, or nothing behind the scripted bytes, and the connection stays open."""
    simulator.script({"fault": "hang", "after": after})
    with connected(simulator) as connection:
        connection.settimeout(0.3)
        connection.sendall(generation())
        received, failure = read_till_failure(connection)
        assert isinstance(failure, TimeoutError)
        assert len(received.partition(b"\r\n\r\n")[2]) == (after or 0)
        assert simulator.record.totals.in_flight == 1
    simulator.record.wait_for(lambda totals: totals.in_flight == 0)


@pytest.mark.parametrize(("status", "answered"), [(None, 413), (411, 411)])
def test_a_refused_body(simulator: SimulatorThread, status: int | None, answered: int) -> None:
    """The answer comes on the head alone, then the end; a client that goes on sending still reads it."""
    simulator.script({"endpoint": "edits", "fault": "refuse_body", "status": status})
    with connected(simulator) as connection:
        connection.sendall(edit_head("Content-Length: 2000000"))
        simulator.record.wait_for(lambda totals: totals.incomplete == 1)
        connection.sendall(bytes(1_000_000))
        received = read_all(connection)
    assert received.startswith(f"HTTP/1.1 {answered} ".encode())
    assert b"connection: close" in received
    [request] = simulator.record.requests
    assert (request.fault, request.status, request.images_made) == ("refuse_body", answered, 0)


@pytest.mark.parametrize("after", [None, 1000, 10_000_000])
def test_a_close_before_the_bodys_end(simulator: SimulatorThread, after: int | None) -> None:
    """The connection ends inside the body, at its last byte at the latest, without an answer; nothing is made."""
    simulator.script({"fault": "close_before_body_end", "after": after})
    body = form({"image": png()}, {"prompt": "a dog" * 300})
    with connected(simulator) as connection:
        connection.sendall(edit_head(f"Content-Length: {len(body)}") + body)
        assert connection.recv(1) == b""
    [request] = simulator.record.requests
    assert (request.complete, request.status, request.images_made) == (False, None, 0)


def test_a_lying_content_length(simulator: SimulatorThread) -> None:
    """A scripted Content-Length stands instead of the true one, whatever its case."""
    simulator.script({"status": 200, "body": "{}", "headers": {"Content-Length": "100"}, "fault": "cut", "after": 2})
    head, _, body = exchange(simulator).partition(b"\r\n\r\n")
    assert head.lower().count(b"content-length") == 1
    assert b"Content-Length: 100" in head
    assert body == b"{}"


def test_behaviours_wait_for_their_endpoint_and_count_down(simulator: SimulatorThread) -> None:
    """One for edits is passed over by generations; `times` applies it to as many; the order is the queue's."""
    simulator.script({"endpoint": "edits", "status": 500}, {"status": 503, "times": 2}, {"status": 404})
    assert [ask(simulator).status_code for _ in range(4)] == [503, 503, 404, 200]
    body = form({"image": png()}, {"prompt": "a dog"})
    with connected(simulator) as connection:
        connection.sendall(edit_head(f"Content-Length: {len(body)}") + body)
        assert read_answer(connection)[0] == 500


def test_behaviours_wait_for_the_words_they_are_about(simulator: SimulatorThread) -> None:
    """One that names text goes to the bodies that have it, of either endpoint; the others pass it over."""
    simulator.script({"containing": "harbour", "status": 500, "times": 2}, {"containing": "a cat", "status": 503})
    assert [ask(simulator).status_code for _ in range(2)] == [503, 200]
    assert ask(simulator, prompt="a harbour").status_code == 500
    body = form({"image": png()}, {"prompt": "the harbour at night"})
    with connected(simulator) as connection:
        connection.sendall(edit_head(f"Content-Length: {len(body)}") + body)
        assert read_answer(connection)[0] == 500


def test_an_aborted_request_uses_up_no_behaviour(simulator: SimulatorThread) -> None:
    """What waits for a complete request still waits after one that never was."""
    simulator.script({"status": 503})
    with connected(simulator) as connection:
        connection.sendall(edit_head("Content-Length: 10"))
        time.sleep(0.05)
    simulator.record.wait_for(lambda totals: totals.incomplete == 1)
    assert ask(simulator).status_code == 503


def test_early_behaviours_wait_their_turn() -> None:
    """A head takes an early behaviour only if it is next for its endpoint; a complete request passes it over."""
    script = Script()
    script.add({"status": 500, "endpoint": "edits"}, {"fault": "refuse_body", "times": None})
    assert script.take("edits", early=True) is None
    assert script.take("generations", early=False) is None
    assert (first := script.take("edits", early=False)) is not None
    assert first.status == 500
    for _ in range(3):
        assert (second := script.take("edits", early=True)) is not None
        assert second.fault == "refuse_body"
    assert len(script) == 1


def test_the_control_api_queues_and_clears(simulator: SimulatorThread) -> None:
    """A list posted is queued, DELETE forgets it."""
    url = f"{simulator.origin}/_simulator/script"
    assert httpx.post(url, json=[{"status": 500}, {"status": 503}]).json() == {"waiting": 2}
    assert ask(simulator).status_code == 500
    assert httpx.delete(url).json() == {"waiting": 0}
    assert ask(simulator).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"[1]",
        b'[{"fault": "explode"}]',
        b'[{"statsu": 500}]',
        b'[{"times": 0}]',
        b'[{"fault": "refuse_body", "containing": "a cat"}]',
    ],
)
def test_an_invalid_script_is_refused_whole(simulator: SimulatorThread, sent: bytes) -> None:
    """Anything but known names with values in range is 400, in process ValidationError, and queues nothing."""
    behind_a_valid_one = b'[{"status": 500}, ' + sent[1:]
    assert httpx.post(f"{simulator.origin}/_simulator/script", content=behind_a_valid_one).status_code == 400
    assert ask(simulator).status_code == 200


def test_an_invalid_behaviour_in_process_raises(simulator: SimulatorThread) -> None:
    """A misspelt name is an error where it was written, not a test that proves nothing."""
    with pytest.raises(ValidationError, match="faultt"):
        simulator.script({"faultt": "drop"})
