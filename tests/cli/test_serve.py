"""`gateway serve` before it serves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STORES = {
    "sentinel": 'sentinel: {name: mymaster, nodes: ["127.0.0.1:1"]}',
    "cluster": "url: env:STORE_URL",
}


@pytest.mark.parametrize("kind", sorted(STORES))
def test_a_store_that_cannot_be_served_is_refused_at_the_start(tmp_path: Path, kind: str) -> None:
    """A kind of store that the config knows and the gateway does not have yet ends in a sentence, not in workers."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "upstream: {accounts: [{name: main, api_key: env:UPSTREAM_KEY}]}\n"
        "models: {dall-e-3: {}}\n"
        'listen: {public: "127.0.0.1:0", admin: "127.0.0.1:0"}\n'
        f"store: {{kind: {kind}, {STORES[kind]}}}\n",
        "utf-8",
    )
    served = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "-c", str(config)],
        env={**os.environ, "UPSTREAM_KEY": "x", "STORE_URL": "redis://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert (served.returncode, served.stdout) == (1, "")
    assert served.stderr == f"store.kind {kind} cannot be served yet; embedded and redis can.\n"
