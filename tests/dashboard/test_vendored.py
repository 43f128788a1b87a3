"""The foreign files that the dashboard ships are those that their makers published, with their licences."""

import hashlib
import subprocess

import pytest

from tests.dashboard import vendor

OWN = {"dashboard.css", "dashboard.js", "icon.svg", "LICENSES.txt"}


def test_every_foreign_file_is_listed_with_its_hash() -> None:
    """Each file that is not ours stands in LICENSES.txt with the package it is of and the hash that it has."""
    text = vendor.LICENSES.read_text("utf-8")
    lines = [line.split("  ") for line in text.partition("\n\n")[0].splitlines()]
    assert {name for name, _, _ in lines} == {path.name for path in vendor.STATIC.iterdir()} - OWN
    for name, package, digest in lines:
        assert digest == "sha256:" + hashlib.sha256((vendor.STATIC / name).read_bytes()).hexdigest()
        assert package in vendor.PACKAGES
        assert f"\n{package}\n" in text
    for words in ("Zero-Clause BSD", "The MIT License", "Leon Sorokin"):
        assert words in text


@pytest.mark.slow
@pytest.mark.npm
def test_the_registry_has_the_same() -> None:
    """Fetched anew, every file is byte by byte the one that is shipped."""
    try:
        found = list(vendor.fetched())
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs npm's registry: {error.stderr.decode()[-300:]}")
    assert len(found) == 3
    for file in found:
        assert (vendor.STATIC / file.name).read_bytes() == file.data
    assert vendor.LICENSES.read_text("utf-8") == vendor.listing(found)
