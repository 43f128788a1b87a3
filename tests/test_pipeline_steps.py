"""The path of a request as it is built, held against the drawing at the top of app.py."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route, Router

from gateway import app as app_module
from gateway.app import build_app

PIPELINE = Path(app_module.__file__).parent / "pipeline"
DRAWING = app_module.__doc__ or ""
STEPS = sorted(path.stem for path in PIPELINE.glob("*.py") if path.stem != "__init__")


def step(name: str) -> Any:
    """The class of a step: the file's name with a capital."""
    return getattr(import_module(f"gateway.pipeline.{name}"), name.capitalize())


def drawn() -> list[str]:
    """The steps as the drawing has them, from the outside in."""
    return re.findall(r"^ *([A-Z]\w+)  ", DRAWING, re.MULTILINE)


def chain(outermost: object) -> Iterator[object]:
    """An application and all that it wraps."""
    inner: object | None = outermost
    while inner is not None:
        yield inner
        inner = getattr(inner, "app", None)


class Anything:
    """A part that is only handed on while the path is built."""

    def __getattr__(self, name: str) -> "Anything":
        if name.startswith("__"):
            raise AttributeError(name)
        return self


@pytest.fixture(scope="module")
def common() -> list[Any]:
    """The steps of every request, behind the health checks, and the router that they end in."""
    parts: Any = Anything()
    public: Any = build_app(parts)
    return list(chain(public.args[-1]))


@pytest.fixture(scope="module")
def built(common: list[Any]) -> Router:
    """The routes of the public port. They are never asked for anything here."""
    router: Router = common[-1].args[0]
    return router


def names(apps: Iterator[object]) -> list[str]:
    return [type(app).__name__ for app in apps if type(app).__module__.startswith("gateway.pipeline.")]


def test_the_drawing_is_the_order_that_is_built(common: list[Any], built: Router) -> None:
    """An order passes exactly the steps that app.py draws, in that order, and every step there is."""
    images = next(route.app for route in built.routes if isinstance(route, Route) and "generations" in route.path)
    path = names(iter(common)) + names(chain(images))
    assert drawn() == path
    assert sorted(name.lower() for name in path) == STEPS


def test_all_that_is_asked_with_a_key_passes_authenticate(built: Router) -> None:
    """Behind the common steps every route begins with Authenticate, but for the description and the health checks; only
    orders go further.
    """
    for route in built.routes:
        assert isinstance(route, Route)
        inside = names(chain(route.app))
        if "openapi" in route.path or route.path.strip("/") in ("healthz", "livez", "readyz"):
            assert inside == []
            continue
        assert inside[0] == "Authenticate", route.path
        assert (len(inside) > 1) == ("/images/" in route.path), route.path


def test_the_drawing_has_the_routes(built: Router) -> None:
    """The paths in the drawing are the paths that are served."""
    served = {route.path for route in built.routes if isinstance(route, Route)}
    paths = set(re.findall(r"/v1[\w/.]+", DRAWING))
    assert paths == {path for path in served if path.startswith("/v1") and not path.endswith("/") and "{" not in path}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_has_the_shape_of_all_steps(name: str) -> None:
    """A step is a plain ASGI class: what it wraps, its settings by name, one call for one request."""
    found = step(name)
    assert found.__mro__ == (found, object)
    assert inspect.iscoroutinefunction(found.__call__)
    assert list(inspect.signature(found.__call__).parameters) == ["self", "scope", "receive", "send"]
    _, *given = inspect.signature(found.__init__).parameters.values()
    if name != "forward":  # the innermost wraps nothing
        assert given.pop(0).name == "app"
    assert {parameter.kind for parameter in given} <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_says_what_it_does(name: str) -> None:
    """The file's first words are the step's name and what it does, and it is drawn under that name."""
    tree = ast.parse((PIPELINE / f"{name}.py").read_text("utf-8"))
    assert (ast.get_docstring(tree) or "").startswith(f"{name.capitalize()}: ")
    assert name.capitalize() in drawn()
