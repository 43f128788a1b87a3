"""The public port describes itself, and holds to what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import wire
from tests.e2e.watching import Watched
from tests.support import packages
from tests.support.running import SECRETS, UPSTREAM_KEY

#: What is asked of every answer; that every plain order is taken is none of it, for keys of idempotency come twice.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "ignored_auth",
)


def described(gateway: Watched) -> wire.Answer:
    return wire.ask(gateway.url, wire.head("/openapi.json", key=None, method="GET", content_type=None))


def test_anyone_may_read_the_description(roomy: Watched) -> None:
    """It needs no key, names both endpoints and each model with its own sizes, and no team, key or upstream."""
    answer = described(roomy)
    assert answer.status == 200
    paths = answer.json()["paths"]
    assert set(paths) == {
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/models",
        "/v1/models/{id}",
        "/v1/usage",
        "/openapi.json",
        "/healthz",
        "/readyz",
    }
    body = paths["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    sizes = [model["properties"]["size"]["anyOf"][0]["enum"] for model in body["anyOf"]]
    assert sizes == [["1024x1024", "1792x1024", "auto"], ["1024x1024", "auto"]]
    told = answer.body.decode()
    for secret in (*SECRETS.values(), UPSTREAM_KEY, roomy.simulator.base_url, "price", "plain"):
        assert secret not in told.replace("price_usd", "")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_it_says_is_so(roomy: Watched) -> None:
    """Requests that Schemathesis makes from it, good and bad, are answered as it says, and none by a fault of ours."""
    faults = len(roomy.lines(event="fault"))
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{roomy.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {roomy.key('plain')}", "--seed", "1", "--max-examples", "20"),
            *("--checks", ",".join(CHECKS), "--suppress-health-check", "all", "--max-time", "40", "--no-color"),
        ],
        cwd=Path(roomy.gateway.folder),
        env={**os.environ, "PYTHONPATH": str(packages.schemathesis())},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    found = re.search(r"(\d+) generated", ended.stdout)
    assert found is not None
    assert int(found[1]) > 20  # of what a slow machine makes in that time
    assert len(roomy.lines(event="fault")) == faults
