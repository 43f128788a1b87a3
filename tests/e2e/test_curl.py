"""curl against the gateway: the document's own lines, large uploads, and every way to write the address and the key."""

import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.simulator.pictures import encoded, mask, png
from tests.support.site import Site, documented, picture, running_site

pytestmark = pytest.mark.debian("curl")

TEAMS: dict[str, dict[str, Any]] = {
    "spent": {"quotas": [{"images": 1, "per": "day"}]},
    "retrying": {"quotas": [{"images": 1, "per": "day"}]},
}

ORDER = '{"prompt": "A lighthouse"}'


@pytest.fixture(scope="module")
def one_site() -> Iterator[Site]:
    with running_site(teams=TEAMS) as running:
        yield running


@pytest.fixture
def site(one_site: Site) -> Site:
    one_site.fresh()
    return one_site


@dataclass(frozen=True, slots=True)
class Answered:
    """status, body: of the last answer. uploaded: bytes of its request's body. talk: what curl told of both heads."""

    status: int
    body: Any
    uploaded: int
    talk: str


def curl(*words: str, folder: Path | None = None) -> Answered:
    ended = subprocess.run(
        ["curl", "--silent", "--show-error", "--verbose", "--write-out", "\n%{http_code} %{size_upload}", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    bodies, _, told = ended.stdout.rpartition("\n")
    status, uploaded = told.split()
    last = bodies[bodies.rindex('{"error"') :] if '{"error"' in bodies else bodies  # --retry prints every answer
    return Answered(int(status), json.loads(last), int(uploaded), ended.stderr)


def bearer(site: Site, team: str = "free") -> tuple[str, str]:
    return "--header", f"Authorization: Bearer {site.key(team)}"


def as_json(order: str = ORDER) -> tuple[str, ...]:
    return "--header", "Content-Type: application/json", "--data", order


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of 3 MB: over 1 MB curl asks before it sends."""
    path = tmp_path_factory.mktemp("curl") / "large.png"
    path.write_bytes(encoded(Image.frombytes("RGB", (1024, 1024), random.Random(1).randbytes(1024 * 1024 * 3))))
    assert path.stat().st_size > 3 * 1024**2
    return path


@pytest.mark.parametrize("endpoint", ["generations", "edits"])
def test_the_documented_example_runs(site: Site, tmp_path: Path, endpoint: str) -> None:
    """The API document's curl line, with another address and key, answers the URL of a picture of 1024x1024."""
    (tmp_path / "original.png").write_bytes(png((64, 64)))
    (tmp_path / "mask.png").write_bytes(mask((64, 64), (0, 0, 64, 32)))
    line = documented("bash", containing=endpoint).replace("https://api.3xcoder.com/v1", site.base_url)
    ended = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=site.environ(), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert picture(json.loads(ended.stdout)["data"][0]["url"]).size == (1024, 1024)
    request = site.only_request()
    assert (request.endpoint, str(request.field("n")), request.field("size")) == (endpoint, "1", "1024x1024")


def test_a_large_upload_waits_for_the_word_and_arrives(site: Site, large: Path) -> None:
    """Over 1 MB curl sends `Expect: 100-continue`, is told to go on, and the image arrives byte for byte."""
    answered = curl(f"{site.base_url}/images/edits", *bearer(site), "-F", f"image=@{large}", "-F", "prompt=A rainbow")
    assert "> Expect: 100-continue" in answered.talk
    assert "< HTTP/1.1 100 Continue" in answered.talk
    assert answered.status == 200
    assert site.only_request().part("image").sha256 == hashlib.sha256(large.read_bytes()).hexdigest()


def test_a_refused_large_upload_costs_no_bytes(site: Site, large: Path) -> None:
    """With the day used up, or with a wrong key, the upload is refused before curl has sent a byte of it."""
    form = ("-F", f"image=@{large}", "-F", "prompt=A rainbow")
    url = f"{site.base_url}/images/edits"
    assert curl(f"{site.base_url}/images/generations", *bearer(site, "spent"), *as_json()).status == 200
    spent = curl(url, *bearer(site, "spent"), *form)
    wrong = curl(url, "--header", "Authorization: Bearer wrong", *form)
    assert (spent.status, spent.body["error"]["code"], spent.uploaded) == (429, "insufficient_quota", 0)
    assert (wrong.status, wrong.body["error"]["code"], wrong.uploaded) == (401, "invalid_api_key", 0)
    assert "100 Continue" not in spent.talk + wrong.talk
    assert site.made == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/generations",
        "/v1/images/generations/",
        "/images/generations",
        "/images/generations/",
        "/v1/images/generations?api-version=2024-02-01",
        "/images/generations/?api-version=2024-02-01",
    ],
)
@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "authorization: bearer {}", "api-key: {}"])
def test_address_and_key_may_be_written_in_every_usual_way(site: Site, path: str, header: str) -> None:
    """With and without version, slash and query, and with either header, it is one order at one address upstream."""
    answered = curl(f"{site.gateway.url}{path}", "--header", header.format(site.key()), *as_json())
    assert answered.status == 200
    request = site.only_request()
    assert (request.method, request.target) == ("POST", "/v1/images/generations")
    assert request.header("api-key") == []


def test_edits_too_may_be_addressed_in_every_usual_way(site: Site, tmp_path: Path) -> None:
    """An edit without version, with slash, query and `api-key`, is taken as well."""
    (tmp_path / "photo.png").write_bytes(png())
    answered = curl(
        f"{site.gateway.url}/images/edits/?api-version=2024-02-01",
        *("--header", f"api-key: {site.key()}"),
        *("-F", "image=@photo.png", "-F", "prompt=A rainbow"),
        folder=tmp_path,
    )
    assert answered.status == 200
    assert site.only_request().target == "/v1/images/edits"


def test_retry_leaves_an_unknown_outcome_alone(site: Site) -> None:
    """`curl --retry` does not send a 424 again: what may have been made is not bought twice."""
    site.simulator.script({"fault": "drop"})
    counted = site.count("free")
    answered = curl("--retry", "2", f"{site.base_url}/images/generations", *bearer(site), *as_json())
    assert (answered.status, site.made) == (424, 1)
    assert counted.is_at_last(requests=1, images=1)


def test_retry_does_not_wait_for_midnight(site: Site) -> None:
    """With `--retry-max-time`, curl gives up at once on a Retry-After that is longer, as a spent day's is.

    Without that option it would wait till midnight: it reads Retry-After, and knows no `x-should-retry`.
    """
    order = (f"{site.base_url}/images/generations", *bearer(site, "retrying"), *as_json())
    assert curl(*order).status == 200
    counted = site.count("retrying")
    answered = curl("--retry", "3", "--retry-max-time", "60", *order)
    assert (answered.status, answered.body["error"]["code"]) == (429, "insufficient_quota")
    assert counted.is_at_last(requests=1)
    assert site.made == 1


def test_retry_repeats_in_vain_what_can_never_fit(site: Site) -> None:
    """An order larger than its limit has no Retry-After; curl repeats it after a second, and nothing is charged."""
    counted = site.count("retrying")
    order = (f"{site.base_url}/images/generations", *bearer(site, "retrying"), *as_json('{"prompt": "x", "n": 2}'))
    answered = curl("--retry", "1", *order)
    assert (answered.status, answered.body["error"]["code"]) == (429, "insufficient_quota")
    assert counted.is_at_last(requests=2)
    assert site.made == 0
