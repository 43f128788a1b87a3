"""Clients that are no package of this environment: npm's, and OpenAI's SDK for Python in its other major version.

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

_INSTALL_LIMIT = 240.0  # seconds

_NPM = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")
_PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", ".")


def node_folder(folder: Path) -> Path:
    """`folder`, with the programs of PROGRAMS and all packages that they import."""
    packages = PROGRAMS / "package.json"
    kept = _installed("npm", _NPM, packages.read_text("utf-8"), copied=packages)
    shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True)
    (folder / "node_modules").symlink_to(kept / "node_modules")
    return folder


def openai_2() -> Path:
    """A folder for PYTHONPATH in which `import openai` finds version 2."""
    return _installed("pip", (*_PIP, OPENAI_2), f"{OPENAI_2} {sys.version}")


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
        ended = subprocess.run(command, cwd=new, capture_output=True, text=True, timeout=_INSTALL_LIMIT, check=False)
        if ended.returncode != 0:
            pytest.skip(f"needs what {name} could not install ({what.strip()}): {ended.stderr.strip()[-500:]}")
        if not kept.exists():
            new.rename(kept)
    return kept
