"""Reads a configuration file: bytes to YAML to a tree of plain values to a checked `Document`.

The YAML is composed, not constructed: numbers keep their spelling, every value its line, aliases are followed within
a budget, and no tag makes an object. What is wrong comes out as `ConfigErrors`, all of it at once as far as the file
can be read as a tree at all; no message repeats what might be a secret.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.config.checks import check
from gateway.config.document import Document
from gateway.config.problems import ConfigErrors, ConfigUnreadable, Places, Problem, Steps, dotted, shown
from gateway.config.quantities import Number
from gateway.config.validate import validate
from gateway.core.keys import looks_like_key

LARGEST = 1024 * 1024  #: bytes; thousands of teams fit, and the parser needs seconds for more
DEEPEST = 20  #: levels; the deepest legal place has 6
MOST_NODES = 200_000  #: after aliases are followed: a few lines of aliases of aliases can stand for billions

_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_.]*)?)([eE][-+]?[0-9]+)?|0[xob][0-9A-Fa-f_]+")
#: Tags that the parser itself gives to plain values; any other was written down.
_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "map", "seq")
)
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_KEY = re.compile(r"igw_[0-9A-Za-z]+")


def load(path: Path) -> Document:
    """Read and check a file. Raises `ConfigUnreadable` if it cannot be opened, else `ConfigErrors`."""
    try:
        data = content(path)
    except OSError as exc:
        directory = isinstance(exc, IsADirectoryError)
        reason = "this is a directory" if directory else (exc.strerror or "it cannot be read").lower()
        raise ConfigUnreadable([Problem(str(path), 1, 1, "", f"expected a configuration file: {reason}")]) from exc
    return parse(data, path)


def content(path: Path) -> bytes:
    """A file's bytes, of one that is too large one more than may be. A pipe that nobody writes into reads as empty.

    Raises OSError.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        os.set_blocking(file.fileno(), True)
        return file.read(LARGEST + 1)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def parse(data: bytes, path: Path) -> Document:
    """Check a file's content; `path` is where it stands, for messages and for what is relative to it."""
    text = _decode(data, path)
    leaks = list(_leaked_keys(text, path))
    try:
        reader = _Reader(path)
        tree = reader.read(compose(text, path))
    except ConfigErrors as exc:
        raise ConfigErrors([*exc.problems, *leaks]) from exc
    result = validate(tree)
    faults = list(result.faults)
    if result.config is not None:
        faults += check(result.config, result.broken)
    # A key pasted where its hash belongs is told once, as what it is.
    told = {(leak.line, leak.col) for leak in leaks}
    found = [*reader.problems, *map(reader.places.problem, faults)]
    problems = [*leaks, *(problem for problem in found if (problem.line, problem.col) not in told)]
    if problems or result.config is None:
        raise ConfigErrors(problems)
    return Document(path, result.config, version(data), reader.places)


def version(data: bytes) -> str:
    """The name of a file's content, as `Settings.hash` has it."""
    return hashlib.sha256(data).hexdigest()[:12]


def _decode(data: bytes, path: Path) -> str:
    if len(data) > LARGEST:
        raise ConfigErrors([Problem(str(path), 1, 1, "", f"the file is larger than {LARGEST // 1024}KB")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = data[: exc.start].decode("utf-8-sig", "replace")
        line, col = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigErrors(
            [Problem(str(path), line, col, "", "this is not UTF-8 text; save the file as UTF-8")]
        ) from exc


def _leaked_keys(text: str, path: Path) -> Iterator[Problem]:
    """Find this gateway's own keys anywhere in the file, comments included."""
    for number, line in enumerate(text.split("\n"), 1):
        for match in _KEY.finditer(line):
            if looks_like_key(match[0]):
                message = (
                    "a key itself stands here: put its hash there (`gateway keys hash`) and revoke the key, "
                    "for whoever read this file has it"
                )
                yield Problem(str(path), number, match.start() + 1, "", message)


def compose(text: str, path: Path) -> Node:
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as exc:
        # Where something is never closed, its beginning is what one looks for.
        ends = "stream" in str(exc.problem) and "document" not in str(exc.problem)
        mark = (exc.context_mark if ends else None) or exc.problem_mark or exc.context_mark
        line, col = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ConfigErrors([Problem(str(path), line, col, "", _syntax(exc))]) from exc
    except YAMLError as exc:
        found = re.search(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
        before = text[: found.start()] if found else ""
        line, col = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigErrors([Problem(str(path), line, col, "", "a control character stands here")]) from exc
    except RecursionError as exc:
        raise ConfigErrors([Problem(str(path), 1, 1, "", "the file is nested too deeply")]) from exc
    except (
        ArithmeticError,
        AttributeError,
        AssertionError,
        LookupError,
        NotImplementedError,
        TypeError,
        ValueError,
    ) as exc:
        # The parser's own stumbles over odd directives and escapes.
        raise ConfigErrors([Problem(str(path), 1, 1, "", "this cannot be read as YAML")]) from exc
    if not isinstance(node, Node):
        raise ConfigErrors([Problem(str(path), 1, 1, "", "the file is empty; config.example.yaml shows what it holds")])
    return node


def _syntax(error: MarkedYAMLError) -> str:
    """Say in plain words why a file is no YAML; the parser's own words only where they cannot hold a value."""
    problem = str(error.problem or "")
    if "'\\t'" in problem:
        return "a tab stands here; YAML is indented with spaces"
    if "undefined alias" in problem:
        return "an alias to an anchor that is not defined; text that begins with * needs quotes"
    if "another document" in problem:
        return "a second document begins here; the file holds one"
    plain = problem if re.fullmatch(r"[a-z ,<>'\"\[\]{}:?-]*", problem) and len(problem) < 100 else "unexpected text"
    context = str(error.context or "")
    return f"this cannot be read as YAML: {plain}" + (f" {context}" if re.fullmatch(r"[a-z -]{1,80}", context) else "")


class _Reader:
    """Turns composed nodes into plain values and notes where each one stands."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks: dict[Steps, tuple[int, int]] = {}
        self._key_marks: dict[Steps, tuple[int, int]] = {}
        self._nodes = 0
        self._open: list[Node] = []
        self.problems: list[Problem] = []
        self.places = Places(path, self._marks, self._key_marks)

    def read(self, root: Node) -> dict[str, Any]:
        tree = self._value(root, ())
        if not isinstance(tree, dict):
            raise self._stop(root, f"expected a mapping of sections (upstream:, store:, …), got {shown(tree)}")
        return tree

    def _stop(self, node: Node, message: str) -> ConfigErrors:
        return ConfigErrors([Problem(str(self._path), *_mark(node), "", message)])

    def _complain(self, node: Node, steps: Steps, message: str) -> None:
        self.problems.append(Problem(str(self._path), *_mark(node), dotted(steps), message))

    def _value(self, node: Node, steps: Steps) -> Any:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise self._stop(node, f"the file stands for more than {MOST_NODES} values; use fewer aliases")
        if len(steps) > DEEPEST or any(node is outer for outer in self._open):
            raise self._stop(node, "the file is nested too deeply, or an alias stands inside its own anchor")
        if str(node.tag) not in _TAGS:
            self._complain(node, steps, "a YAML tag stands here; tags have no meaning in this file")
        # Block mappings and lists begin on the line below their key: the key is where one looks.
        self._marks[steps] = _mark(node)
        if isinstance(node, ScalarNode):
            return _scalar(node)
        assert isinstance(node, MappingNode | SequenceNode)
        if steps in self._key_marks and not node.flow_style:
            self._marks[steps] = self._key_marks[steps]
        self._open.append(node)
        try:
            if isinstance(node, SequenceNode):
                return [self._value(item, (*steps, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, steps)
        finally:
            self._open.pop()

    def _mapping(self, node: MappingNode, steps: Steps) -> dict[str, Any]:
        """Read a mapping. Merged ones (``<<``) are read first, so that its own keys take their place."""
        values: dict[str, Any] = {}
        for key, value in node.value:
            if _merges(key):
                for merged in value.value if isinstance(value, SequenceNode) else [value]:
                    # Of several merged mappings the first one counts (YAML's type repository on merge).
                    values = {**self._merged(merged, steps), **values}
        own: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._complain(key, steps, "a key is plain text, not a list or mapping")
            elif not _merges(key):
                name = str(key.value)
                inner = (*steps, name)
                if name in own:
                    self._complain(key, inner, f"this key stands twice, first in line {own[name]}")
                    continue
                own[name] = _mark(key)[0]
                self._key_marks[inner] = _mark(key)
                values[name] = self._value(value, inner)
        return values

    def _merged(self, node: Node, steps: Steps) -> dict[str, Any]:
        if not isinstance(node, MappingNode):
            self._complain(node, steps, "expected a mapping, or a list of mappings, behind <<")
            return {}
        place = self._marks[steps]
        merged: dict[str, Any] = self._value(node, steps)
        self._marks[steps] = place
        return merged


def _merges(key: Node) -> bool:
    return isinstance(key, ScalarNode) and key.value == "<<" and key.style is None


def _mark(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _scalar(node: ScalarNode) -> str | bool | None:
    """Read a scalar by its spelling, the same in every version of YAML: ``yes``, ``on`` and ``12:30`` are text."""
    text = str(node.value)
    if node.style is not None:
        return text
    if text in _NOTHING:
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    return Number(text) if _NUMBER.fullmatch(text) else text
