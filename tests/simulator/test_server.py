"""The simulator over real sockets: real clients, the record, incomplete requests, connections."""

import asyncio
import base64
import hashlib
import json
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
import uvloop

from gateway.simulator.server import Simulator
from tests.simulator.pictures import decoded, mask, png
from tests.simulator.wire import (
    EDITS,
    GENERATIONS,
    connected,
    edit_head,
    form,
    generation,
    head,
    read_all,
    read_answer,
)
from tests.support.simulated import API_KEY, SimulatorThread, running_simulator


def client_of(simulator: SimulatorThread, *, api_key: str = API_KEY) -> openai.OpenAI:
    return openai.OpenAI(api_key=api_key, base_url=simulator.base_url, max_retries=0)


def test_the_openai_client_generates(simulator: SimulatorThread) -> None:
    """Two images as b64_json and one by URL, which takes no key, decode at the asked size."""
    with client_of(simulator) as client:
        answer = client.images.generate(
            model="dall-e-3", prompt="A city", n=2, size="512x512", response_format="b64_json"
        )
        by_url = client.images.generate(model="dall-e-3", prompt="A city", size="1792x1024", quality="hd")
    pictures = [decoded(base64.b64decode(image.b64_json or "")) for image in answer.data or []]
    assert [picture.size for picture in pictures] == [(512, 512), (512, 512)]
    assert abs(answer.created - time.time()) < 60
    [image] = by_url.data or []
    assert image.b64_json is None
    assert "A city" in (image.revised_prompt or "")
    fetched = httpx.get(image.url or "")
    assert fetched.headers["content-type"] == "image/png"
    assert decoded(fetched.content).size == (1792, 1024)
    assert simulator.record.totals.images_made == 3


def test_the_openai_client_edits(simulator: SimulatorThread) -> None:
    """The edited picture has the asked size and is changed under the mask's hole only."""
    original, hole = png((64, 64)), mask((64, 64), (0, 0, 64, 32))
    with client_of(simulator) as client:
        answer = client.images.edit(
            model="dall-e-3",
            image=("cat.png", original),
            mask=("hole.png", hole),
            prompt="A rainbow",
            size="256x256",
            response_format="b64_json",
        )
    [image] = answer.data or []
    picture = decoded(base64.b64decode(image.b64_json or ""))
    assert picture.size == (256, 256)
    assert picture.crop((0, 128, 256, 256)).getcolors() == [(256 * 128, (200, 30, 30, 255))]
    assert picture.getpixel((0, 0)) != (200, 30, 30, 255)
    [request] = simulator.record.requests
    assert request.part("image").sha256 == hashlib.sha256(original).hexdigest()
    assert request.part("mask").length == len(hole)
    assert request.field("size") == "256x256"


def test_the_openai_client_sees_the_errors_it_knows(simulator: SimulatorThread) -> None:
    """A wrong key is AuthenticationError, a wrong size BadRequestError with its param; nothing is made."""
    with client_of(simulator, api_key="sk-wrong") as client, pytest.raises(openai.AuthenticationError) as denied:
        client.images.generate(prompt="A city")
    assert denied.value.code == "invalid_api_key"
    with client_of(simulator) as client, pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="A city", size="1x1")
    assert (refused.value.code, refused.value.param, refused.value.request_id) == ("invalid_value", "size", "sim-2")
    assert [(r.status, r.error, r.images_made) for r in simulator.record.requests] == [
        (401, "invalid_api_key", 0),
        (400, "invalid_value", 0),
    ]


def test_the_record_says_what_was_sent(simulator: SimulatorThread) -> None:
    """Header names as sent, body hash and length, framing, order of parts, connection and place on it."""
    body = form({"mask": png(), "image": png()}, {"prompt": "a dog", "n": "2", "size": "256x256"})
    with connected(simulator) as connection:
        connection.sendall(generation(n=1))
        assert read_answer(connection)[0] == 200
        connection.sendall(edit_head("Transfer-Encoding: chunked", "X-Mixed-Case: Kept"))
        connection.sendall(b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:100], body[100:])))
        connection.sendall(b"0\r\n\r\n")
        assert read_answer(connection)[0] == 200
    first, second = simulator.record.requests
    assert (first.endpoint, first.framing, first.connection, first.ordinal) == ("generations", "content-length", 1, 1)
    assert first.fields == (("prompt", "a cat"), ("size", "256x256"), ("n", 1))
    assert (second.endpoint, second.framing, second.connection, second.ordinal) == ("edits", "chunked", 1, 2)
    assert [part.name for part in second.parts] == ["mask", "image", "prompt", "n", "size"]
    assert second.fields == (("prompt", "a dog"), ("n", "2"), ("size", "256x256"))
    assert ("X-Mixed-Case", "Kept") in second.headers
    assert (second.body_length, second.body_sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert simulator.record.raw(second.number) == body
    assert second.images_made == 2
    totals = simulator.record.totals
    assert (totals.images_made, totals.complete, totals.incomplete, totals.connections_opened) == (3, 2, 0, 1)


def test_the_record_over_http_hides_the_key(simulator: SimulatorThread) -> None:
    """Of the key only the last four characters stand in GET /_simulator/record; DELETE empties it."""
    with connected(simulator) as connection:
        connection.sendall(generation())
        read_answer(connection)
    answer = httpx.get(f"{simulator.origin}/_simulator/record")
    assert API_KEY not in answer.text
    [request] = answer.json()["requests"]
    assert ["Authorization", f"…{API_KEY[-4:]}"] in request["headers"]
    assert simulator.record.requests[0].header("authorization") == [f"Bearer {API_KEY}"]
    assert answer.json()["totals"]["images_made"] == 1
    httpx.delete(f"{simulator.origin}/_simulator/record")
    assert simulator.record.requests == ()
    assert simulator.record.totals.images_made == 0


def test_a_form_without_its_closing_delimiter_is_incomplete(simulator: SimulatorThread) -> None:
    """Framed completely by HTTP and cut short in its own grammar: 400, nothing made, recorded as incomplete."""
    body = form({"image": png()}, {"prompt": "a dog"}).removesuffix(b"--\r\n")
    with connected(simulator) as connection:
        connection.sendall(edit_head(f"Content-Length: {len(body)}") + body)
        assert read_answer(connection)[0] == 400
    totals = simulator.record.totals
    assert (totals.images_made, totals.complete, totals.incomplete) == (0, 0, 1)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/images/edits HTTP/1.1\r\nHost: x\r\n",
        edit_head("Content-Length: 9999"),
        edit_head("Content-Length: 9999") + form({"image": png()}, {"prompt": "a dog"}),
        edit_head("Transfer-Encoding: chunked") + b"5\r\nhello\r\n",
        edit_head("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n",
    ],
)
def test_a_request_whose_framing_never_ends_is_incomplete(simulator: SimulatorThread, sent: bytes) -> None:
    """Left in the head, in the body, before the last chunk or in it: never executed, recorded as incomplete."""
    with connected(simulator) as connection:
        connection.sendall(sent)
        time.sleep(0.05)
    totals = simulator.record.wait_for(lambda totals: totals.incomplete == 1)
    assert (totals.complete, totals.images_made) == (0, 0)
    [request] = simulator.record.requests
    assert (request.endpoint, request.complete, request.status) == ("edits", False, None)


def test_a_complete_request_is_made_though_its_client_left(simulator: SimulatorThread) -> None:
    """Like the real one, it does not take an order back: the image is made and counted."""
    simulator.script({"latency": 30})
    with connected(simulator) as connection:
        connection.sendall(generation())
    totals = simulator.record.wait_for(lambda totals: totals.complete == 1 and totals.in_flight == 0)
    assert totals.images_made == 1


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", head(GENERATIONS, "Content-Length: x")])
def test_what_is_not_http_is_400(simulator: SimulatorThread, sent: bytes) -> None:
    """Answered and closed."""
    with connected(simulator) as connection:
        connection.sendall(sent)
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")


def test_a_body_beyond_every_bound_is_413(simulator: SimulatorThread) -> None:
    """More than 16 MB are not kept: 413 before the end, and the connection closes."""
    with connected(simulator) as connection:
        connection.sendall(edit_head("Content-Length: 99999999"))
        for _ in range(17):
            connection.sendall(bytes(1024 * 1024))
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
    assert simulator.record.totals.incomplete == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", GENERATIONS, 405), ("PUT", EDITS, 405), ("POST", "/v1/images/variations", 404), ("GET", "/", 404)],
)
def test_other_urls_and_methods_are_refused(simulator: SimulatorThread, method: str, path: str, status: int) -> None:
    """404 and 405 in the API's error shape, and recorded."""
    answer = httpx.request(method, simulator.origin + path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert [request.status for request in simulator.record.requests] == [status]


def test_a_file_that_is_gone_is_404(simulator: SimulatorThread) -> None:
    """An unknown file is an error object, and no entry of the record."""
    assert httpx.get(f"{simulator.origin}/files/none.png").status_code == 404
    assert simulator.record.requests == ()


def test_a_png_whose_pixels_are_broken_is_refused(simulator: SimulatorThread) -> None:
    """Its chunks are sound and its compressed data is not: 400 invalid_image, nothing made."""
    start = png()
    header, rest = start[:33], b"not a zlib stream"
    chunk = b"IDAT" + rest
    broken = header + len(rest).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) + start[-12:]
    body = form({"image": broken}, {"prompt": "a dog"})
    with connected(simulator) as connection:
        connection.sendall(edit_head(f"Content-Length: {len(body)}") + body)
        status, answer = read_answer(connection)
    assert (status, json.loads(answer)["error"]["code"]) == (400, "invalid_image")
    assert simulator.record.totals.images_made == 0


def test_expect_100_continue_is_answered(simulator: SimulatorThread) -> None:
    """The interim answer comes before any byte of the body, the final one after it."""
    body = form({"image": png()}, {"prompt": "a dog", "size": "256x256"})
    with connected(simulator) as connection:
        connection.sendall(edit_head(f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection)[0] == 200


def test_pipelined_requests_are_answered_in_order(simulator: SimulatorThread) -> None:
    """Two requests in one write get two answers, the first one first."""
    with connected(simulator) as connection:
        connection.sendall(generation(n=2, response_format="b64_json") + generation(n=0))
        assert read_answer(connection)[0] == 200
        assert read_answer(connection)[0] == 400


def test_idle_connections_are_closed() -> None:
    """After keep_alive_timeout without a request, also on a connection that never had one."""
    with running_simulator(keep_alive_timeout=0.2) as simulator, connected(simulator) as fresh:
        started = time.monotonic()
        with connected(simulator) as used:
            used.sendall(generation())
            assert read_answer(used)[0] == 200
            assert used.recv(1) == b""
        assert fresh.recv(1) == b""
        assert 0.15 < time.monotonic() - started < 3


def test_latency_holds_no_other_request_up() -> None:
    """Ten requests of half a second each take together little more than one, and are seen in flight at once."""
    with running_simulator(latency=0.5) as simulator:
        started = time.monotonic()

        def ask(_: int) -> int:
            with connected(simulator) as connection:
                connection.sendall(generation())
                return read_answer(connection)[0]

        with ThreadPoolExecutor(10) as pool:
            assert list(pool.map(ask, range(10))) == [200] * 10
        assert 0.5 <= time.monotonic() - started < 2.5
        assert simulator.record.totals.peak_in_flight == 10


def test_a_taken_port_is_said_so(simulator: SimulatorThread) -> None:
    """Starting on a port in use raises OSError in the thread that asked."""
    with pytest.raises(OSError, match="in use"):
        SimulatorThread(Simulator(api_keys=[API_KEY], port=simulator.port)).start()


def test_it_runs_on_uvloop_too() -> None:
    """A served, a half sent, a reset and an early answered request go the same way on uvloop's transports."""

    def ask(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(generation().replace(b"Host: x", b"Host: x\r\nConnection: close"))
            return read_all(connection)

    async def serve() -> None:
        simulator = Simulator(api_keys=[API_KEY])
        await simulator.start()
        try:
            assert (await asyncio.to_thread(ask, simulator.port)).endswith(b"}]}")
            simulator.script({"fault": "cut"}, {"fault": "reset"}, {"fault": "refuse_body"})
            assert not (await asyncio.to_thread(ask, simulator.port)).endswith(b"}]}")
            with pytest.raises(ConnectionResetError):
                await asyncio.to_thread(ask, simulator.port)
            assert (await asyncio.to_thread(ask, simulator.port)).startswith(b"HTTP/1.1 413 ")
        finally:
            await simulator.close()

    uvloop.run(serve())


def test_closing_ends_what_hangs() -> None:
    """A stop with a request in a hang and one half read closes both and returns."""
    with running_simulator() as simulator:
        simulator.script({"fault": "hang"})
        hanging = socket.create_connection(("127.0.0.1", simulator.port), timeout=5)
        hanging.sendall(generation())
        simulator.record.wait_for(lambda totals: totals.in_flight == 1)
    with hanging:
        assert hanging.recv(1) == b""
