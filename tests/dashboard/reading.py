"""A page as a program reads it: its tables by their names, its tags, its words."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"meta", "link", "rect", "br", "input"})


@dataclass
class Page(HTMLParser):
    """tags: every one, with its attributes. tables: by the label of what frames them, rows of cells of plain words."""

    html: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._label, self._cell, self._open = "", False, list[str]()
        self.feed(self.html)
        assert self._open == [], f"never closed: {self._open}"
        self.words = " ".join(self.words.split())
        for rows in self.tables.values():
            rows[:] = [[" ".join(cell.split()) for cell in row] for row in rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in _VOID and not tag.startswith("!"):
            self._open.append(tag)
        if found.get("role") == "group":
            self._label = found["aria-label"] or ""
            self.tables[self._label] = []
        elif tag == "tr":
            self.tables[self._label].append([])
        elif tag in {"td", "th"}:
            self._cell = True
            self.tables[self._label][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"
        if tag in {"td", "th"}:
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"
        if self._cell:
            self.tables[self._label][-1][-1] += data

    def body(self, label: str) -> list[list[str]]:
        """A table's rows below its head."""
        return self.tables[label][1:]
