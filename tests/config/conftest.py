"""A configuration that is as small as it may be, to be added to."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.document import Document
from gateway.config.file import parse

SMALLEST = """
upstream: {accounts: [{name: main, api_key: env:KEY}]}
store: {kind: embedded}
models: {dall-e-3: {}}
"""

PRICED = """
upstream: {accounts: [{name: main, api_key: env:KEY}]}
store: {kind: embedded}
models:
  dall-e-3:
    price_usd:
      standard: {1024x1024: 0.040, 1792x1024: 0.080, 1024x1792: 0.080}
      hd:       {1024x1024: 0.080, 1792x1024: 0.120, 1024x1792: 0.120}
"""

Read = Callable[[str], Document]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read what is added to the smallest config."""
    return lambda text: parse((SMALLEST + text).encode(), tmp_path / "config.yaml")


@pytest.fixture
def read_priced(tmp_path: Path) -> Read:
    """Read what is added to a config whose model has prices."""
    return lambda text: parse((PRICED + text).encode(), tmp_path / "config.yaml")
