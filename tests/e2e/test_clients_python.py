"""OpenAI's Python SDK against the gateway: only the base URL and the key are changed."""

import asyncio
import base64
import hashlib
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from gateway.simulator.drawing import draw_generation
from gateway.simulator.server import Simulator
from tests.simulator.pictures import decoded, mask, png
from tests.support.running import NO_TLS, SECRETS, base_config, free_port, running_gateway
from tests.support.simulated import API_KEY, SimulatorThread
from tests.support.site import Site, documented, picture, running_site

TEAMS: dict[str, dict[str, Any]] = {
    "day": {"quotas": [{"images": 2, "per": "day"}]},
    "single": {"quotas": [{"concurrent": 1}]},
    "square": {"sizes": ["1024x1024"]},
    "gone": {"suspended": "budget review"},
}


@pytest.fixture(scope="module")
def one_site() -> Iterator[Site]:
    with running_site(teams=TEAMS) as running:
        yield running


@pytest.fixture
def site(one_site: Site) -> Site:
    one_site.fresh()
    return one_site


class Sdk:
    """The SDK in one of its two forms, and how many requests it has sent.

    It loads no certificates (`verify`), for there is no TLS on the way and it costs a tenth of a second each time.
    """

    def __init__(self, form: str) -> None:
        self.form = form
        self.sent = 0
        self.statuses: list[int] = []
        self.answered: Callable[[int], None] = self.statuses.append

    def __call__(self, base_url: str, key: str, use: Callable[[Any], Any]) -> Any:
        """What `use` makes of a client; the synchronous one's methods give answers, the other's give awaitables."""
        if self.form == "sync":
            hooks: Any = {"request": [self._sent], "response": [self._answered]}
            http = openai.DefaultHttpxClient(event_hooks=hooks, verify=False)
            with OpenAI(base_url=base_url, api_key=key, http_client=http) as client:
                return use(client)
        return asyncio.run(self._wait_for(base_url, key, use))

    async def _wait_for(self, base_url: str, key: str, use: Callable[[Any], Any]) -> Any:
        async def sent(request: httpx2.Request) -> None:
            self._sent(request)

        async def answered(response: httpx2.Response) -> None:
            self._answered(response)

        hooks: Any = {"request": [sent], "response": [answered]}
        http = openai.DefaultAsyncHttpxClient(event_hooks=hooks, verify=False)
        async with AsyncOpenAI(base_url=base_url, api_key=key, http_client=http) as client:
            return await use(client)

    def _sent(self, _: httpx2.Request) -> None:
        self.sent += 1

    def _answered(self, response: httpx2.Response) -> None:
        self.answered(response.status_code)


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest) -> Sdk:
    return Sdk(request.param)


def test_the_documented_example_runs(site: Site, tmp_path: Path) -> None:
    """The API document's Python example, with another address and key, prints the URL of a picture of 1024x1024."""
    program = documented("python", containing="images.generate")
    program = program.replace("https://api.3xcoder.com/v1", site.base_url).replace("your-api-key", site.key())
    path = tmp_path / "example.py"
    path.write_text(program, "utf-8")
    ended = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert picture(ended.stdout.strip()).size == (1024, 1024)
    assert site.only_request().field("prompt") == "A futuristic city skyline at sunset, digital art"


def test_generate_answers_urls(site: Site, sdk: Sdk) -> None:
    """Three images by URL are three pictures at the upstream, one request to it, and three charged."""
    counted = site.count("free")
    answer = sdk(site.base_url, site.key(), lambda client: client.images.generate(prompt="A lighthouse", n=3))
    assert [picture(image.url).size for image in answer.data] == [(1024, 1024)] * 3
    assert answer._request_id.startswith("req_")
    assert site.made == 3
    request = site.only_request()
    assert dict(request.fields) == {
        "prompt": "A lighthouse", "model": "dall-e-3", "n": 3, "size": "1024x1024", "quality": "standard",
    }  # fmt: skip
    assert request.header("authorization") == [f"Bearer {API_KEY}"]
    assert counted.is_at_last(requests=1, images=3)


def test_generate_answers_base64(site: Site, sdk: Sdk) -> None:
    """With every parameter given, b64_json holds a picture of the asked size, and each parameter went up as given."""
    answer = sdk(
        site.base_url,
        site.key(),
        lambda client: client.images.generate(
            model="dall-e-3", prompt="Ünïcödé ☂", n=1, size="1792x1024", quality="hd", style="natural",
            response_format="b64_json", user="somebody",
        ),
    )  # fmt: skip
    assert decoded(base64.b64decode(answer.data[0].b64_json)).size == (1792, 1024)
    fields = dict(site.only_request().fields)
    assert fields == {
        "prompt": "Ünïcödé ☂", "model": "dall-e-3", "n": 1, "size": "1792x1024", "quality": "hd", "style": "natural",
        "response_format": "b64_json", "user": "somebody",
    }  # fmt: skip


def test_a_long_answer_comes_whole(site: Site, sdk: Sdk) -> None:
    """Ten images in base64, padded to 10 MB, arrive byte for byte and are charged as ten."""
    padding = 1024 * 1024
    site.simulator.script({"pad": padding})
    counted = site.count("free")
    answer = sdk(
        site.base_url,
        site.key(),
        lambda client: client.images.generate(prompt="A lighthouse", n=10, response_format="b64_json"),
    )
    pictures = [draw_generation("A lighthouse", (1024, 1024), index) for index in range(10)]
    assert [base64.b64decode(image.b64_json)[:-padding] for image in answer.data] == pictures
    assert counted.is_at_last(requests=1, images=10)


def as_file(image: bytes, folder: Path) -> Any:
    path = folder / "photo.png"
    path.write_bytes(image)
    return path.open("rb")


def as_path(image: bytes, folder: Path) -> Path:
    path = folder / "photo.png"
    path.write_bytes(image)
    return path


UPLOADS: dict[str, Callable[[bytes, Path], Any]] = {
    "file": as_file,
    "path": as_path,
    "bytes": lambda image, folder: image,
    "buffer": lambda image, folder: io.BytesIO(image),
    "tuple": lambda image, folder: ("a photo.png", image, "image/png"),
    "list of one": lambda image, folder: [("a.png", image, "image/png")],
    "list of bytes": lambda image, folder: [image],
}


@pytest.mark.parametrize("upload", UPLOADS)
def test_edit_takes_every_kind_of_upload(site: Site, sdk: Sdk, upload: str, tmp_path: Path) -> None:
    """However the image is given to the SDK, the upstream gets its very bytes once, as a PNG named `image`."""
    image = png((64, 48))
    counted = site.count("free", endpoint="edits")
    given = UPLOADS[upload](image, tmp_path)
    try:
        answer = sdk(site.base_url, site.key(), lambda client: client.images.edit(image=given, prompt="A rainbow"))
    finally:
        if upload == "file":
            given.close()
    assert [picture(made.url).size for made in answer.data] == [(1024, 1024)]
    request = site.only_request()
    part = request.part("image")
    assert (part.sha256, part.content_type) == (hashlib.sha256(image).hexdigest(), "image/png")
    assert [part.name for part in request.parts if part.filename is not None] == ["image"]
    assert (request.field("n"), request.field("size"), request.field("model")) == ("1", "1024x1024", "dall-e-3")
    assert counted.is_at_last(requests=1, images=1)


def test_edit_with_a_mask_paints_only_where_it_is_open(site: Site, sdk: Sdk) -> None:
    """Image and mask arrive byte for byte, and the picture that comes back is changed inside the mask alone."""
    size, color = (1024, 1024), (10, 200, 90, 255)
    image, opening = png(size, color), mask(size, (0, 0, 1024, 512))
    answer = sdk(
        site.base_url,
        site.key(),
        lambda client: client.images.edit(
            model="dall-e-3", image=image, mask=opening, prompt="A rainbow", response_format="b64_json",
            size="1024x1024",
        ),
    )  # fmt: skip
    painted = decoded(base64.b64decode(answer.data[0].b64_json))
    assert painted.getpixel((5, 5)) != color
    assert painted.getpixel((5, 1000)) == color
    request = site.only_request()
    sent = {part.name: part.sha256 for part in request.parts if part.filename is not None}
    assert sent == {name: hashlib.sha256(data).hexdigest() for name, data in (("image", image), ("mask", opening))}


def refused(sdk: Sdk, site: Site, team: str, use: Callable[[Any], Any]) -> openai.APIStatusError:
    """The error that the SDK raises on `use`. team: or any text that is no key."""
    with pytest.raises(openai.APIStatusError) as raised:
        sdk(site.base_url, SECRETS.get(team, team), use)
    return raised.value


def test_an_order_beyond_the_day_is_a_rate_limit_error_asked_for_once(site: Site, sdk: Sdk) -> None:
    """What the day can never hold is a RateLimitError that says all, and the SDK does not send it again."""
    counted = site.count("day")
    error = refused(sdk, site, "day", lambda client: client.images.generate(prompt="A lighthouse", n=3))
    assert type(error) is openai.RateLimitError
    assert (error.code, error.type, error.param) == ("insufficient_quota", "insufficient_quota", None)
    assert error.request_id is not None
    assert error.request_id.startswith("req_")
    assert "of 2 images today (rule images-day)" in error.message
    assert error.message.endswith("so it can never fit. Ask image-gateway@example.com")
    assert "retry-after" not in error.response.headers
    assert sdk.sent == 1
    assert site.simulator.record.requests == ()
    assert counted.is_at_last(requests=1)


def test_a_used_up_day_says_when_it_is_free_again(site: Site) -> None:
    """After the day's two images the third is refused in one request, with its seconds and the moment of midnight."""
    sdk = Sdk("sync")
    sdk(site.base_url, site.key("day"), lambda client: client.images.generate(prompt="A lighthouse", n=2))
    assert sdk.sent == 1
    error = refused(sdk, site, "day", lambda client: client.images.generate(prompt="A lighthouse"))
    assert sdk.sent == 2
    assert isinstance(error, openai.RateLimitError)
    assert "has used 2 of 2 images today (rule images-day). Free again " in error.message
    assert " 00:00 UTC. Ask " in error.message
    assert 0 < int(error.response.headers["retry-after"]) <= 86400
    assert error.response.headers["x-should-retry"] == "false"
    body: Any = error.body
    assert (body["quota"][0]["used"], body["quota"][0]["requested"]) == (2, 1)
    edit = refused(sdk, site, "day", lambda client: client.images.edit(image=png(), prompt="A rainbow"))
    assert (type(edit), sdk.sent) == (openai.RateLimitError, 3)
    assert site.made == 2


def test_a_taken_slot_is_ridden_out(site: Site) -> None:
    """While the team's one slot is taken the SDK is refused, waits the seconds it is told, and then has its image."""
    sdk = Sdk("sync")
    site.simulator.script({"latency": 1.0})
    holder = threading.Thread(
        target=httpx.post,
        args=(f"{site.base_url}/images/generations",),
        kwargs={"json": {"prompt": "holds the slot"}, "headers": site.gateway.auth("single"), "timeout": 30},
    )
    holder.start()
    try:
        site.simulator.record.wait_for(lambda totals: totals.in_flight == 1)
        answer = sdk(site.base_url, site.key("single"), lambda client: client.images.generate(prompt="waits"))
    finally:
        holder.join(30)
    assert len(answer.data) == 1
    assert sdk.statuses == [429, 200]
    assert site.made == 2


def test_an_unknown_outcome_is_never_asked_for_again(site: Site, sdk: Sdk) -> None:
    """When the upstream falls silent after the order the SDK raises a 424 at once: one request, one image, charged."""
    site.simulator.script({"fault": "drop"})
    counted = site.count("free")
    error = refused(sdk, site, "free", lambda client: client.images.generate(prompt="A lighthouse"))
    assert (error.status_code, error.code) == (424, "upstream_outcome_unknown")
    body: Any = error.body
    assert body["charged"] == {"images": 1, "usd": 0.04}
    assert (sdk.sent, len(site.simulator.record.requests), site.made) == (1, 1, 1)
    assert counted.is_at_last(requests=1, images=1)


def test_an_edit_of_unknown_outcome_is_never_asked_for_again(site: Site, sdk: Sdk) -> None:
    """The same holds for an edit whose answer is cut off in the middle."""
    site.simulator.script({"fault": "cut"})
    error = refused(sdk, site, "free", lambda client: client.images.edit(image=png(), prompt="A rainbow"))
    assert (error.status_code, error.code, sdk.sent, site.made) == (424, "upstream_outcome_unknown", 1, 1)


REFUSALS: dict[str, tuple[str, dict[str, Any], type[Exception], str, str | None]] = {
    "no key": ("not-a-key", {}, openai.AuthenticationError, "invalid_api_key", None),
    "suspended": ("gone", {}, openai.PermissionDeniedError, "team_suspended", None),
    "size of others": ("square", {"size": "1792x1024"}, openai.PermissionDeniedError, "size_not_allowed", "size"),
    "size": ("free", {"size": "640x480"}, openai.BadRequestError, "invalid_value", "size"),
    "n": ("free", {"n": 11}, openai.BadRequestError, "invalid_value", "n"),
    "quality": ("free", {"quality": "ultra"}, openai.BadRequestError, "invalid_value", "quality"),
    "unknown": ("free", {"extra_body": {"steps": 3}}, openai.BadRequestError, "unknown_parameter", "steps"),
    "model": ("free", {"model": "gpt-image-2"}, openai.NotFoundError, "model_not_found", "model"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_the_sdks_own_error(site: Site, sdk: Sdk, case: str) -> None:
    """Each refusal is the SDK's class for it, with code, param, request id and a whole sentence, and is sent once."""
    team, order, kind, code, param = REFUSALS[case]
    error = refused(sdk, site, team, lambda client: client.images.generate(prompt="A lighthouse", **order))
    assert (type(error), error.code, error.param) == (kind, code, param)
    assert error.request_id is not None
    assert error.request_id.startswith("req_")
    assert len(error.message.split()) > 4
    assert sdk.sent == 1
    assert site.simulator.record.requests == ()


def test_models_are_listed(site: Site, sdk: Sdk) -> None:
    """`models.list()` names what the team may order, and `models.retrieve()` tells of one."""

    async def listed(client: AsyncOpenAI) -> list[str]:
        return [model.id async for model in client.models.list()]

    if sdk.form == "sync":
        names = sdk(site.base_url, site.key(), lambda client: [model.id for model in client.models.list()])
    else:
        names = sdk(site.base_url, site.key(), listed)
    assert names == ["dall-e-3"]
    model = sdk(site.base_url, site.key("square"), lambda client: client.models.retrieve("dall-e-3"))
    assert (model.id, model.sizes) == ("dall-e-3", ["1024x1024"])
    error = refused(sdk, site, "free", lambda client: client.models.retrieve("dall-e-2"))
    assert isinstance(error, openai.NotFoundError)


def test_the_sdk_succeeds_when_the_upstream_is_back() -> None:
    """With nobody at the upstream's address the SDK tries again as told, and gets its image when somebody is there.

    It is made once, and the first try is neither charged nor counted against the quota.
    """
    port = free_port()
    simulator = SimulatorThread(Simulator(api_keys=(API_KEY,), port=port))
    with running_gateway(config=base_config(upstream=f"http://127.0.0.1:{port}/v1")) as gateway:
        sdk = Sdk("sync")

        def answered(status: int) -> None:
            sdk.statuses.append(status)
            if len(sdk.statuses) == 1:
                simulator.start()

        sdk.answered = answered
        try:
            answer = sdk(
                f"{gateway.url}/v1", SECRETS["design"], lambda client: client.images.generate(prompt="A lighthouse")
            )
        finally:
            if sdk.statuses:
                simulator.stop()
        assert sdk.statuses == [503, 200]
        assert len(answer.data) == simulator.record.totals.images_made == 1
        usage = httpx.get(f"{gateway.url}/v1/usage", headers=gateway.auth("design"), verify=NO_TLS).json()
        assert (usage["rules"][0]["used"], usage["today"]["images"]) == (1, 1)
