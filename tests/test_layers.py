"""Imports go downwards only, each third-party library has one room, and no two modules import each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import combinations

import pytest

from tests.source import Source, sources

#: The design's section 2: what a module may import lies in a lower layer, or in its own room.
LAYERS = {
    "errors": 0, "events": 0, "settings": 0, "version": 0,
    "streams": 1,
    "tasks": 2,
    "consumers": 3, "metrics": 3, "integrations": 3,
    "app": 4,
    "cli": 5, "testing": 5, "__main__": 5, "penstock": 5,
}  # fmt: skip
#: Rooms of one layer that know nothing of each other.
STRANGERS = {frozenset(pair) for pair in combinations(("consumers", "metrics", "integrations"), 2)}
#: The only room that may import a library.
WALLS = {
    "redis": "streams", "hiredis": "streams", "prometheus_client": "metrics", "click": "cli", "rich": "cli",
    "opentelemetry": "integrations", "sentry_sdk": "integrations",
}  # fmt: skip


#: Who may load what lazily, so that a producer is imported in no time: the composition root the worker; a worker, by
#: an option that few need, its metrics; and these what speaks to Redis by redis-py, which takes longer to import than
#: all else together.
LAZY = {
    "penstock.app": "consumers",
    "penstock.cli.worker": "metrics",
    "penstock.streams.calls": "streams",
    "penstock.streams.clients": "streams",
    "penstock.streams.connector": "streams",
    "penstock.streams.listener": "streams",
}


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    line: int
    in_function: bool = False
    types_only: bool = False

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


class _Imports(ast.NodeVisitor):
    """Collects the imports of one file, with where they stand."""

    def __init__(self, source: Source, modules: set[str]) -> None:
        self._source, self._modules = source, modules
        self._functions = 0
        self._types_only = False
        self.found: list[Import] = []

    def _add(self, name: str, line: int) -> None:
        self.found.append(Import(self._source.module, name, line, self._functions > 0, self._types_only))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self._source.base_of(node.level) if node.level else ""
        package = ".".join(part for part in (base, node.module) if part)
        for alias in node.names:
            submodule = f"{package}.{alias.name}"
            self._add(submodule if submodule in self._modules else package, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        """``import_module("penstock.x")`` and ``__import__``, when the name is written out."""
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self._add(str(node.args[0].value), node.lineno)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        outer = self._types_only
        self._types_only = outer or ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body:
            self.visit(child)
        self._types_only = outer
        for child in node.orelse:
            self.visit(child)

    def _visit_function(self, node: ast.AST) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _visit_function  # noqa: N815 - names of ast


def imports_of(files: Iterable[Source]) -> list[Import]:
    files = list(files)
    modules = {file.module for file in files}
    found: list[Import] = []
    for file in files:
        visitor = _Imports(file, modules)
        visitor.visit(file.tree)
        found += visitor.found
    return found


def room(module: str) -> str:
    """``penstock.streams.keys`` -> ``streams``; ``penstock`` itself is a room, too: the entrance."""
    return module.split(".")[1] if "." in module else module


def own(found: Iterable[Import]) -> Iterator[Import]:
    return (each for each in found if each.imported.split(".")[0] == "penstock")


def wrong_layers(files: Iterable[Source]) -> list[str]:
    found = []
    for each in own(imports_of(files)):
        above, below = room(each.importer), room(each.imported)
        if above == below:
            continue
        if above not in LAYERS or below not in LAYERS:
            found.append(f"{each}: {above if above not in LAYERS else below} has no layer")
        elif LAYERS[below] > LAYERS[above]:
            found.append(f"{each}: upwards")
        elif frozenset({above, below}) in STRANGERS:
            found.append(f"{each}: they know nothing of each other")
    return found


def broken_walls(files: Iterable[Source]) -> list[str]:
    found = []
    for each in imports_of(files):
        home = WALLS.get(each.imported.split(".")[0])
        if home is not None and room(each.importer) != home:
            found.append(f"{each}: only {home}/ may")
    return found


def hidden_imports(files: Iterable[Source]) -> list[str]:
    """Imports of our own inside functions, but for those of `LAZY`."""
    return [
        str(each)
        for each in own(imports_of(files))
        if each.in_function and room(each.imported) != LAZY.get(each.importer)
    ]


def cycle(files: Iterable[Source]) -> list[str]:
    """The modules of one import cycle, or nothing. What is imported for types only does not count."""
    graph: dict[str, set[str]] = {}
    for each in own(imports_of(files)):
        if not each.types_only and not each.in_function:
            graph.setdefault(each.importer, set()).add(each.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_go_downwards() -> None:
    assert wrong_layers(sources()) == []


def test_each_library_has_one_room() -> None:
    assert broken_walls(sources()) == []


def test_no_import_is_hidden_in_a_function() -> None:
    assert hidden_imports(sources()) == []


def test_there_are_no_cycles() -> None:
    assert cycle(sources()) == []


def test_a_producers_import_loads_neither_command_line_nor_worker_nor_exporter() -> None:
    unwanted = [
        "click",
        "rich",
        "prometheus_client",
        "opentelemetry",
        "sentry_sdk",
        "uvloop",
        "penstock.consumers",
        "anyio",
        "redis",
        "hiredis",
    ]
    code = (
        "import sys; from penstock import App; app = App('a', url='redis://localhost')\n"
        "@app.task(name='t')\ndef t(n: int) -> int: return n\n"
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


# The checks themselves: each finds the fault that it is there for.


def bad(text: str, module: str = "penstock.streams.bad") -> list[Source]:
    return [Source(module, text), Source("penstock.app", ""), Source("penstock.settings", "")]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("penstock.streams.bad", "import penstock.app"),
        ("penstock.streams.bad", "from penstock import app"),
        ("penstock.streams.bad", "from penstock import App"),
        ("penstock.streams.bad", "from ..app import App"),
        ("penstock.streams.bad", "def f():\n    from penstock.tasks import task"),
        ("penstock.streams.bad", "if TYPE_CHECKING:\n    from penstock.app import App"),
        ("penstock.settings", "from penstock.streams import keys"),
        ("penstock.consumers.bad", "from penstock.metrics import registry"),
        ("penstock.metrics.bad", "from penstock.consumers import worker"),
        ("penstock.metrics.bad", "import importlib\nimportlib.import_module('penstock.cli')"),
        ("penstock.new_room.bad", "from penstock.errors import PenstockError"),
    ],
)
def test_a_wrong_layer_is_found(module: str, text: str) -> None:
    assert len(wrong_layers(bad(text, module))) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("penstock.streams.good", "from penstock import settings"),
        ("penstock.streams.good", "from ..settings import Settings"),
        ("penstock.streams.good", "from penstock.streams.keys import base"),
        ("penstock.cli.good", "from penstock import App"),
        ("penstock.app", "from penstock.consumers.worker import Worker"),
    ],
)
def test_a_right_layer_is_not(module: str, text: str) -> None:
    assert wrong_layers(bad(text, module)) == []


@pytest.mark.parametrize(
    "text", ["import redis", "from redis.asyncio import Redis", "def f():\n    import click", "from rich import print"]
)
def test_a_broken_wall_is_found(text: str) -> None:
    assert len(broken_walls(bad(text, "penstock.tasks.bad"))) == 1
    assert broken_walls([Source("penstock.streams.good", "import redis")]) == []


def test_a_hidden_import_is_found() -> None:
    assert len(hidden_imports(bad("def f():\n    from penstock.settings import Settings"))) == 1
    assert len(hidden_imports(bad("async def f():\n    __import__('penstock.settings')"))) == 1
    assert hidden_imports(bad("from penstock.settings import Settings\ndef f():\n    import json")) == []
    of_app = "def f():\n    from penstock.consumers.worker import Worker\n    from penstock.settings import Settings"
    assert len(hidden_imports(bad(of_app, "penstock.app"))) == 1


def test_a_cycle_is_found() -> None:
    there = Source("penstock.tasks.a", "from penstock.tasks import b")
    back = Source("penstock.tasks.b", "from .a import name")
    for_types = Source("penstock.tasks.b", "if TYPE_CHECKING:\n    from .a import name")
    assert set(cycle([there, back])) == {"penstock.tasks.a", "penstock.tasks.b"}
    assert cycle([there, for_types]) == []
