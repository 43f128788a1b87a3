"""Changes of a configuration file by a program: a key more, an end for a key. All else stays as it was written.

The YAML is read for the places of its values, and text is put in there: comments, order, quotes and blank lines are
not touched. A change is taken only if the file then says exactly what it said before and the change, so a file that is
written in a way that these edits do not know (aliases, merges) is refused and not spoilt.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.config.document import Document
from gateway.config.file import compose, parse, version
from gateway.config.problems import ConfigErrors


class NotEditable(Exception):
    """The file cannot be changed by a program; the words say why and what to do."""


_CHANGED = "was changed by somebody else meanwhile; try again"
_BY_HAND = "it is written in a way that only a person can change; put the entry in by hand"


def with_key(document: Document, data: bytes, team: str, entry: Mapping[str, str], ends: Mapping[str, str]) -> bytes:
    """The file with one more key of the team. data: its bytes now, from which `document` may not have been read.

    entry: the key's fields. ends: ids of keys of the team to the time at which each ends, if it does not before.
    Raises NotEditable.
    """
    if version(data) != document.hash:
        raise NotEditable(f"{document.path} {_CHANGED}")
    mark = b"\xef\xbb\xbf" if data.startswith(b"\xef\xbb\xbf") else b""
    text = data.decode("utf-8-sig")
    try:
        for id_, moment in ends.items():
            text = _ended(text, document.path, team, id_, moment)
        new = mark + _added(text, document.path, team, "{" + _fields(entry) + "}").encode()
        changed = parse(new, document.path)
    except ConfigErrors as error:
        raise NotEditable(f"{document.path}: {_BY_HAND}") from error
    if not _only_that(document, changed, team, entry, ends):
        raise NotEditable(f"{document.path}: {_BY_HAND}")
    return new


def replace_file(path: Path, old: bytes, new: bytes) -> None:
    """Put the new content in the file's place in one step, with its mode. Raises NotEditable, OSError.

    old: what the change was made from; a file that says something else by now is left alone.
    """
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            status = path.stat()
            os.fchmod(handle, status.st_mode & 0o7777)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(handle, status.st_uid, status.st_gid)
            file.write(new)
            file.flush()
            os.fsync(handle)
        with _unchanged(path, old):
            Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _unchanged(path: Path, old: bytes) -> Iterator[None]:
    """For as long as nobody else looks and replaces: of two at once, one would be lost unseen. Raises NotEditable."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.read_bytes() != old:
            raise NotEditable(f"{path} {_CHANGED}")
        yield
    finally:
        os.close(descriptor)


def _only_that(before: Document, after: Document, team: str, entry: Mapping[str, str], ends: Mapping[str, str]) -> bool:
    old, new = before.config.teams[team], after.config.teams[team]
    alike = new.model_copy(update={"keys": old.keys})
    if after.config.model_copy(update={"teams": {**after.config.teams, team: alike}}) != before.config:
        return False
    *kept, added = new.keys
    told = [key if key.id not in ends else key.model_copy(update={"expires": None}) for key in kept]
    was = [key if key.id not in ends else key.model_copy(update={"expires": None}) for key in old.keys]
    return told == was and (added.id, added.sha256) == (entry["id"], entry["sha256"])


def _fields(entry: Mapping[str, str]) -> str:
    """In YAML. Values are quoted: an id like 12 or null would be no text."""
    return ", ".join(f'{name}: "{value}"' for name, value in entry.items())


def _added(text: str, path: Path, team: str, entry: str) -> str:
    section = _team(text, path, team)
    keys = _value(section, "keys")
    line = "\r\n" if "\r\n" in text else "\n"
    if keys is None:
        if not section.value:
            raise NotEditable(f"{path}: {_BY_HAND}")
        first: Node = section.value[0][0]
        at = first.start_mark.index
        if section.flow_style:
            return f"{text[:at]}keys: [{entry}], {text[at:]}"
        indent = " " * first.start_mark.column
        return f"{text[:at]}keys:{line}{indent}  - {entry}{line}{indent}{text[at:]}"
    if not isinstance(keys, SequenceNode):
        raise NotEditable(f"{path}: {_BY_HAND}")
    if not keys.flow_style:
        return _behind(text, _end(keys), " " * keys.start_mark.column + f"- {entry}", line)
    if not keys.value:
        at = keys.end_mark.index - 1
        return f"{text[:at]}{entry}{text[at:]}"
    at = _end(keys.value[-1])
    return f"{text[:at]}, {entry}{text[at:]}"


def _ended(text: str, path: Path, team: str, id_: str, moment: str) -> str:
    keys = _value(_team(text, path, team), "keys")
    for item in keys.value if isinstance(keys, SequenceNode) else ():
        named = _value(item, "id") if isinstance(item, MappingNode) else None
        if named is None or named.value != id_:
            continue
        if (expires := _value(item, "expires")) is not None:
            return f'{text[: expires.start_mark.index]}"{moment}"{text[_end(expires) :]}'
        if item.flow_style:
            at = _end(item.value[-1][1])
            return f'{text[:at]}, expires: "{moment}"{text[at:]}'
        indent = " " * item.value[0][0].start_mark.column
        return _behind(text, _end(item), f'{indent}expires: "{moment}"', "\r\n" if "\r\n" in text else "\n")
    raise NotEditable(f"{path}: {_BY_HAND}")


def _team(text: str, path: Path, team: str) -> MappingNode:
    teams = _value(compose(text, path), "teams")
    section = _value(teams, team) if teams is not None else None
    if not isinstance(section, MappingNode):
        raise NotEditable(f"{path}: {_BY_HAND}")
    return section


def _value(node: Node, key: str) -> Node | None:
    for name, value in node.value if isinstance(node, MappingNode) else ():
        if isinstance(name, ScalarNode) and name.value == key:
            found: Node = value
            return found
    return None


def _end(node: Node) -> int:
    """Where the node's text ends. Of a block the parser says where the next thing begins, comments between them."""
    while isinstance(node, MappingNode | SequenceNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(node, MappingNode) else last
    index: int = node.end_mark.index
    return index


def _behind(text: str, at: int, added: str, line: str) -> str:
    """A line of its own after the one that holds `at`, whose comment stays with it."""
    stop = text.find("\n", at)
    return f"{text}{line}{added}{line}" if stop < 0 else f"{text[: stop + 1]}{added}{line}{text[stop + 1 :]}"
