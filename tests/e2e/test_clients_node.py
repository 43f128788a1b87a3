"""Clients of Node against the gateway: fetch, OpenAI's SDK, the Vercel AI SDK."""

import base64
import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.simulator.pictures import decoded, encoded, mask, png
from tests.support import packages
from tests.support.site import Site, documented, picture, running_site

pytestmark = [pytest.mark.slow, pytest.mark.npm, pytest.mark.timeout(300)]

TEAMS: dict[str, dict[str, Any]] = {
    "day": {"quotas": [{"images": 2, "per": "day"}]},
    "spent": {"quotas": [{"images": 1, "per": "day"}]},
    "square": {"sizes": ["1024x1024"]},
}


@pytest.fixture(scope="module")
def one_site() -> Iterator[Site]:
    with running_site(teams=TEAMS) as running:
        yield running


@pytest.fixture
def site(one_site: Site) -> Site:
    one_site.fresh()
    return one_site


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of tests/data/clients with the packages that they need, and two PNGs of one size."""
    path = packages.node_folder(tmp_path_factory.mktemp("node"))
    (path / "photo.png").write_bytes(png((64, 48)))
    (path / "mask.png").write_bytes(mask((64, 48), (0, 0, 64, 24)))
    return path


def node(program: str, calls: list[dict[str, Any]], *, site: Site, folder: Path, team: str = "free") -> list[Any]:
    """What came of each of the calls, which are made one after another."""
    ended = subprocess.run(
        ["node", program],
        input="".join(f"{json.dumps([call])}\n" for call in calls),
        cwd=folder,
        env={**site.environ(team), "OPENAI_BASE_URL": site.base_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return [outcome for line in ended.stdout.splitlines() for outcome in json.loads(line)]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_documented_example_runs(site: Site, tmp_path: Path) -> None:
    """The API document's JavaScript example, with another address and key, prints the URL of a 1024x1024 picture."""
    program = documented("javascript", containing="images/generations")
    path = tmp_path / "example.mjs"
    path.write_text(program.replace("https://api.3xcoder.com/v1", site.base_url), "utf-8")
    ended = subprocess.run(
        ["node", str(path)], env=site.environ(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert picture(ended.stdout.strip()).size == (1024, 1024)
    assert site.only_request().field("prompt") == "A futuristic city skyline at sunset, digital art"


def test_openai_generates(site: Site, folder: Path) -> None:
    """OpenAI's SDK lists the models, and generates two images by URL and one in base64: three are charged."""
    counted = site.count("free", endpoint="generations")
    calls: list[dict[str, Any]] = [
        {"call": "models"},
        {"call": "generate", "order": {"model": "dall-e-3", "prompt": "A lighthouse", "n": 2}},
        {"call": "generate", "order": {"prompt": "A lighthouse", "size": "1024x1792", "response_format": "b64_json"}},
    ]
    models, by_url, in_base64 = node("openai.mjs", calls, site=site, folder=folder)
    assert models["names"] == ["dall-e-3"]
    assert [picture(image["url"]).size for image in by_url["data"]] == [(1024, 1024)] * 2
    assert decoded(base64.b64decode(in_base64["data"][0]["b64_json"])).size == (1024, 1792)
    assert by_url["request_id"].startswith("req_")
    assert [models["statuses"], by_url["statuses"], in_base64["statuses"]] == [[200]] * 3
    assert site.made == 3
    assert counted.is_at_last(requests=2, images=3)


@pytest.mark.parametrize(
    ("upload", "masked"), [("stream", True), ("stream", False), ("buffer", True), ("buffer", False), ("list", False)]
)
def test_openai_edits(site: Site, folder: Path, upload: str, masked: bool) -> None:
    """A stream (chunked, before the texts), a buffer and a list of one: each image and mask arrives byte for byte."""
    call = {"call": "edit", "upload": upload, "image": "photo.png", "order": {"prompt": "A rainbow", "n": 2}}
    if masked:
        call["mask"] = "mask.png"
    counted = site.count("free", endpoint="edits")
    (outcome,) = node("openai.mjs", [call], site=site, folder=folder)
    assert outcome["statuses"] == [200]
    assert [picture(image["url"]).size for image in outcome["data"]] == [(1024, 1024)] * 2
    request = site.only_request()
    sent = {part.name: part.sha256 for part in request.parts if part.filename is not None}
    names = {"image": "photo.png", "mask": "mask.png"} if masked else {"image": "photo.png"}
    assert sent == {name: digest(folder / file) for name, file in names.items()}
    assert (request.field("prompt"), request.field("n")) == ("A rainbow", "2")
    assert counted.is_at_last(requests=1, images=2)


@pytest.fixture(scope="module")
def large(folder: Path) -> Path:
    """A PNG of nearly 4 MB, which is the most that an image may have."""
    noise = random.Random(1).randbytes(1150 * 1150 * 3)
    path = folder / "large.png"
    path.write_bytes(encoded(Image.frombytes("RGB", (1150, 1150), noise)))
    assert 3.7 < path.stat().st_size / 1024**2 < 4
    return path


def test_openai_streams_a_large_image(site: Site, folder: Path, large: Path) -> None:
    """A stream of nearly 4 MB arrives byte for byte."""
    call = {"call": "edit", "upload": "stream", "image": large.name, "order": {"prompt": "A rainbow"}}
    (outcome,) = node("openai.mjs", [call], site=site, folder=folder)
    assert outcome["statuses"] == [200]
    assert site.only_request().part("image").sha256 == digest(large)


def test_openai_sees_a_refusal_in_the_middle_of_its_stream(site: Site, folder: Path, large: Path) -> None:
    """Five uploads that are refused from their head alone are five answers, none a broken pipe; nothing goes up."""
    spend = {"call": "generate", "order": {"prompt": "A lighthouse"}}
    upload = {"call": "edit", "upload": "stream", "image": large.name, "order": {"prompt": "A rainbow"}}
    _, *refusals = node("openai.mjs", [spend, *[upload] * 5], site=site, folder=folder, team="spent")
    told = [(refusal["error"], refusal["code"], refusal["statuses"]) for refusal in refusals]
    assert told == [("RateLimitError", "insufficient_quota", [429])] * 5
    assert site.only_request().endpoint == "generations"


def test_openai_tells_refusals_as_its_own_errors(site: Site, folder: Path) -> None:
    """Refusals are the SDK's own classes with code, type, param, id and the whole sentence, and are sent once each."""
    generate = {"call": "generate"}
    edit = {"call": "edit", "upload": "stream", "image": "photo.png"}
    counted = site.count("day")
    outcomes = node(
        "openai.mjs",
        [
            {**generate, "order": {"prompt": "A lighthouse", "n": 3}},
            {**edit, "order": {"prompt": "A lighthouse", "n": 3}},
            {**generate, "order": {"prompt": "A lighthouse", "size": "640x480"}},
            {**edit, "order": {"prompt": "A lighthouse", "n": 0}},
        ],
        site=site,
        folder=folder,
        team="day",
    )
    beyond, beyond_edit, size, zero = outcomes
    for outcome in (beyond, beyond_edit):
        assert (outcome["error"], outcome["status"], outcome["param"]) == ("RateLimitError", 429, None)
        assert (outcome["code"], outcome["type"]) == ("insufficient_quota", "insufficient_quota")
        assert "Team day has used 0 of 2 images today (rule images-day)" in outcome["message"]
    assert (size["error"], size["code"], size["param"]) == ("BadRequestError", "invalid_value", "size")
    assert (zero["error"], zero["code"], zero["param"]) == ("BadRequestError", "invalid_value", "n")
    for outcome in outcomes:
        assert outcome["request_id"].startswith("req_")
        assert len(outcome["statuses"]) == 1
    assert site.made == 0
    assert counted.is_at_last(requests=4)


def test_openai_never_asks_again_for_an_unknown_outcome(site: Site, folder: Path) -> None:
    """When the upstream falls silent after the order, generate and edit end with one 424 each: two images, two sent."""
    site.simulator.script({"fault": "drop", "times": 2})
    counted = site.count("free")
    calls = [
        {"call": "generate", "order": {"prompt": "A lighthouse"}},
        {"call": "edit", "upload": "buffer", "image": "photo.png", "order": {"prompt": "A rainbow"}},
    ]
    outcomes = node("openai.mjs", calls, site=site, folder=folder)
    assert [(outcome["code"], outcome["statuses"]) for outcome in outcomes] == [("upstream_outcome_unknown", [424])] * 2
    assert site.made == 2
    assert counted.is_at_last(requests=2, images=2)


@pytest.mark.parametrize(("provider", "orders"), [("openai", [1, 1, 1]), ("compatible", [3])])
def test_the_ai_sdk_generates(site: Site, folder: Path, provider: str, orders: list[int]) -> None:
    """`generateImage` with n 3 gives three pictures, in as many orders as the provider makes of it, three charged."""
    counted = site.count("free")
    call = {"provider": provider, "text": "A lighthouse", "n": 3, "size": "1024x1024"}
    (outcome,) = node("ai_sdk.mjs", [call], site=site, folder=folder)
    assert outcome["statuses"] == [200] * len(orders)
    assert [decoded(base64.b64decode(image)).size for image in outcome["images"]] == [(1024, 1024)] * 3
    assert [request.field("n") for request in site.simulator.record.requests] == orders
    assert counted.is_at_last(requests=len(orders), images=3)


@pytest.mark.parametrize(
    ("provider", "options"), [("openai_asking", {}), ("compatible", {"gateway": {"response_format": "b64_json"}})]
)
def test_the_ai_sdk_edits(site: Site, folder: Path, provider: str, options: dict[str, Any]) -> None:
    """`generateImage` with an image and a mask gives a picture, once it is made to ask for base64."""
    call = {
        "provider": provider,
        "text": "A rainbow",
        "image": "photo.png",
        "mask": "mask.png",
        "providerOptions": options,
    }
    (outcome,) = node("ai_sdk.mjs", [call], site=site, folder=folder)
    assert outcome["statuses"] == [200]
    assert [decoded(base64.b64decode(image)).size for image in outcome["images"]] == [(1024, 1024)]
    request = site.only_request()
    assert request.part("image").sha256 == digest(folder / "photo.png")
    assert request.part("mask").sha256 == digest(folder / "mask.png")


def test_the_ai_sdk_shows_the_refusal_and_never_buys_twice(site: Site, folder: Path) -> None:
    """A day's refusal reaches the reader as a sentence, and an unknown outcome is sent once though retries are on."""
    site.simulator.script({"fault": "drop"})
    (unknown,) = node("ai_sdk.mjs", [{"provider": "openai", "text": "A lighthouse"}], site=site, folder=folder)
    assert unknown["statuses"] == [424]
    assert site.made == 1
    beyond = {"provider": "compatible", "text": "A lighthouse", "n": 3, "maxRetries": 0}
    (refused,) = node("ai_sdk.mjs", [beyond], site=site, folder=folder, team="day")
    assert refused["statuses"] == [429]
    assert "Team day has used 0 of 2 images today (rule images-day)" in refused["message"]
