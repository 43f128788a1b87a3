"""An Idempotency-Key over two workers: its order goes up and is charged once, by the upstream's own record."""

import io
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from PIL import Image

from tests.support.running import Running, base_config, running_gateway
from tests.support.simulated import API_KEY, SimulatorThread, running_simulator
from tests.support.site import wait_until

Site = tuple[Running, SimulatorThread]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_simulator(api_keys=(API_KEY,), latency=0.3) as simulator:
        config = base_config(upstream=simulator.base_url, workers=2)
        config["teams"]["design"]["quotas"] = [{"images": 100, "per": "day"}]
        config["teams"]["research"]["quotas"] = [{"images": 100, "per": "day"}, {"concurrent": 1, "wait": "5s"}]
        with running_gateway(config=config) as gateway:
            yield gateway, simulator


def png(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(out, "PNG")
    return out.getvalue()


def generate(
    site: Site, key: str | None, *, team: str = "design", prompt: str = "a kite", n: int = 1
) -> httpx.Response:
    headers = {**site[0].auth(team), **({"idempotency-key": key} if key is not None else {})}
    body = {"prompt": prompt, "n": n}
    return httpx.post(f"{site[0].url}/v1/images/generations", headers=headers, json=body, timeout=30)


def edit(site: Site, key: str, image: bytes) -> httpx.Response:
    headers = {**site[0].auth("design"), "idempotency-key": key}
    files = {"image": ("a.png", image, "image/png")}
    return httpx.post(
        f"{site[0].url}/v1/images/edits", headers=headers, files=files, data={"prompt": "red"}, timeout=30
    )


def together(call: Callable[[], httpx.Response], times: int) -> list[httpx.Response]:
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(call())) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def made(site: Site) -> int:
    return site[1].record.totals.images_made


def used(site: Site, team: str = "design") -> int:
    answer = httpx.get(f"{site[0].url}/v1/usage", headers=site[0].auth(team))
    return int(answer.json()["rules"][0]["used"])


@pytest.mark.parametrize("kind", ["generation", "edit"])
def test_parallel_callers_share_one_order(site: Site, kind: str) -> None:
    """Six at once with one key: one image is made and charged, all get its answer, five as a replay."""
    before, charged = made(site), used(site)
    image = png((10, 20, 30))
    answers = together(lambda: generate(site, "six") if kind == "generation" else edit(site, "six-edits", image), 6)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.content for answer in answers}) == 1
    assert sorted(answer.headers.get("idempotent-replayed", "false") for answer in answers) == ["false"] + ["true"] * 5
    assert (made(site) - before, used(site) - charged) == (1, 1)


def test_a_later_caller_gets_the_kept_answer(site: Site) -> None:
    """The same order again is answered from what was kept: nothing goes up, nothing is charged, and it says so."""
    first = generate(site, "later")
    before = site[1].record.totals.complete
    again = generate(site, "later")
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-gateway-cost-usd"] == "0.00"
    assert site[1].record.totals.complete == before
    request_id = again.headers["x-request-id"]
    wait_until(
        lambda: {"replayed"} == {x["outcome"] for x in site[0].requests_logged() if x["request_id"] == request_id}
    )


@pytest.mark.parametrize("other", ["prompt", "n"])
def test_another_order_under_the_key_is_refused(site: Site, other: str) -> None:
    """A key stands for one order: another prompt or number of images under it is 422 and makes nothing."""
    assert generate(site, f"one-{other}").status_code == 200
    before = made(site)
    answer = generate(site, f"one-{other}", prompt="a boat") if other == "prompt" else generate(site, "one-n", n=2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert made(site) == before


def test_another_file_under_the_key_is_refused(site: Site) -> None:
    """The files belong to the order: the same form with another picture is 422."""
    assert edit(site, "picture", png((1, 1, 1))).status_code == 200
    assert edit(site, "picture", png((2, 2, 2))).json()["error"]["code"] == "idempotency_key_reused"


def test_teams_do_not_share_keys(site: Site) -> None:
    """A key is a team's own: the same one of another team is another order."""
    before = made(site)
    assert generate(site, "shared").status_code == 200
    answer = generate(site, "shared", team="research", prompt="a boat")
    assert answer.status_code == 200
    assert made(site) - before == 2


def test_an_unknown_outcome_is_repeated_and_not_bought_twice(site: Site) -> None:
    """After a 424 the same key gets the 424 again, with what was charged; the upstream sees one order."""
    before, charged = site[1].record.totals.complete, used(site)
    site[1].script({"fault": "drop"})
    first = generate(site, "dropped")
    again = generate(site, "dropped")
    assert first.status_code == again.status_code == 424
    assert again.json()["error"]["charged"] == first.json()["error"]["charged"]
    assert again.headers["x-should-retry"] == "false"
    assert (site[1].record.totals.complete - before, used(site) - charged) == (1, 1)


def test_a_cut_answer_to_a_keyed_order_stands_in_nobody_elses_way(site: Site) -> None:
    """Whose long answer is cut off repeats its own key; the same order without one is somebody else's, and is made."""
    before, prompt = made(site), "a lighthouse"
    site[1].script({"pad": 300_000, "fault": "cut"})
    with pytest.raises(httpx.RemoteProtocolError):
        generate(site, "cut", prompt=prompt)
    assert generate(site, "cut", prompt=prompt).status_code == 424
    assert generate(site, None, prompt=prompt).status_code == 200
    assert made(site) - before == 2


@pytest.mark.parametrize("status", [500, 400])
def test_a_refunded_end_frees_the_key(site: Site, status: int) -> None:
    """What was refused and refunded may be tried again with the same key, and is then made."""
    site[1].script({"status": status})
    refused = generate(site, f"freed-{status}")
    assert refused.status_code == {500: 502, 400: 400}[status]
    assert generate(site, f"freed-{status}").status_code == 200


def test_an_answer_too_long_to_keep_is_said_to_be_gone(site: Site) -> None:
    """Over `max_answer` the order stays made once: who asks again is told that its answer is not there."""
    before = made(site)
    site[1].script({"pad": 300_000})
    assert generate(site, "long").status_code == 200
    answer = generate(site, "long")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_answer_gone")
    assert made(site) - before == 1


def test_a_joiner_holds_no_slot(site: Site) -> None:
    """With one slot and one key four callers are answered by one order; a fifth order then finds the slot free."""
    before = made(site)
    answers = together(lambda: generate(site, "slot", team="research"), 4)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert generate(site, "slot-2", team="research").status_code == 200
    assert made(site) - before == 2


@pytest.mark.parametrize("key", ["", "with blank", "ä", "x" * 256])
def test_a_key_that_is_none_is_refused(site: Site, key: str) -> None:
    """A key is 1 to 255 visible ASCII characters; anything else is a 400 that names the header, or a broken head."""
    known = site[0].auth("design")["authorization"].encode()
    headers = {b"authorization": known, b"idempotency-key": key.encode()}
    answer = httpx.post(f"{site[0].url}/v1/images/generations", headers=headers, json={"prompt": "a kite"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
