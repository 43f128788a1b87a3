"""Fetches the dashboard's foreign files anew, in pinned versions: ``python -m tests.dashboard.vendor``.

They come from npm's registry as the ordinary client is set up for it, which holds each package against the registry's
hash. LICENSES.txt beside them says of each what it is, its SHA-256 and its licence.
"""

import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STATIC = Path(__file__).parent.parent.parent / "gateway" / "admin" / "static"
LICENSES = STATIC / "LICENSES.txt"

#: Packages and the files of each that are shipped.
PACKAGES = {
    "htmx.org@4.0.1": ("dist/htmx.min.js",),
    "uplot@1.6.32": ("dist/uPlot.iife.min.js", "dist/uPlot.min.css"),
}

_LIMIT = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Vendored:
    """One file. licence: the whole text of its package's."""

    name: str
    package: str
    licence: str
    data: bytes

    @property
    def line(self) -> str:
        return f"{self.name}  {self.package}  sha256:{hashlib.sha256(self.data).hexdigest()}"


def fetched() -> Iterator[Vendored]:
    """The files as the registry has them."""
    for package, files in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, timeout=_LIMIT
            )
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as tar:
                licence = _member(tar, "LICENSE").decode()
                for file in files:
                    yield Vendored(Path(file).name, package, licence, _member(tar, file))


def listing(found: list[Vendored]) -> str:
    """The text of LICENSES.txt."""
    lines = "\n".join(file.line for file in found)
    licences = {file.package: file.licence.strip() for file in found}
    texts = "\n\n\n".join(f"{package}\n\n{text}" for package, text in licences.items())
    return f"{lines}\n\n\n{texts}\n"


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    opened = tar.extractfile(f"package/{name}")
    assert opened is not None
    return opened.read()


if __name__ == "__main__":
    found = list(fetched())
    for file in found:
        (STATIC / file.name).write_bytes(file.data)
        print(file.line)
    LICENSES.write_text(listing(found), "utf-8")
