"""No part grows too long to be read, no test waits by sleeping, and everything public says what it does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.source import PACKAGE, ROOT, Function, Source, functions, sources

MODULE_LINES, CLASS_LINES, FUNCTION_LINES, PARAMETERS = 350, 250, 50, 8
#: A name with ``_`` in front is a fragment that scripts include: it has a comment at its top, but no keys of its own.
SCRIPTS = sorted(PACKAGE.rglob("[!_]*.lua"))
FRAGMENTS = sorted(PACKAGE.rglob("_*.lua"))


def too_long(files: Iterable[Source]) -> list[str]:
    found = []
    for file in files:
        if (lines := len(file.text.splitlines())) > MODULE_LINES:
            found.append(f"{file.module}: {lines} lines, more than {MODULE_LINES}")
        for node in ast.walk(file.tree):
            if not isinstance(node, ast.ClassDef | Function):
                continue
            cap = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
            if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > cap:
                found.append(f"{file.module}:{node.lineno} {node.name}: {lines} lines, more than {cap}")
    return found


def too_many_parameters(files: Iterable[Source]) -> list[str]:
    found = []
    for file in files:
        for function, parent in functions(file.tree):
            names = function.args
            count = len(names.posonlyargs) + len(names.args) + len(names.kwonlyargs)
            count += (names.vararg is not None) + (names.kwarg is not None)
            static = any(ast.unparse(each) == "staticmethod" for each in function.decorator_list)
            count -= isinstance(parent, ast.ClassDef) and not static
            if count > PARAMETERS:
                found.append(f"{file.module}:{function.lineno} {function.name}: {count}, more than {PARAMETERS}")
    return found


def without_docstring(files: Iterable[Source]) -> list[str]:
    """Modules, and the public functions and classes at their top."""
    found = []
    for file in files:
        if file.text.strip() and not ast.get_docstring(file.tree):
            found.append(file.module)
        for node in file.tree.body:
            if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_") or _overload(node):
                continue
            if not ast.get_docstring(node):
                found.append(f"{file.module}:{node.lineno} {node.name}")
    return found


def _overload(node: ast.ClassDef | Function) -> bool:
    return any(ast.unparse(each).endswith("overload") for each in node.decorator_list)


def sleeps(files: Iterable[Source]) -> list[str]:
    """Sleeps in tests that are not the *work* of a task.

    Allowed: inside a function decorated as a task, or in a line marked ``# work``. In helpers (files
    that are no tests) ``# poll`` marks the pause of a poll with a deadline.
    """
    found = []
    for file in files:
        is_test = file.module.rpartition(".")[2].startswith("test_")
        marks = re.compile(r"#.*\bwork\b" if is_test else r"#.*\b(work|poll)\b")
        lines = file.text.splitlines()
        for call in _sleeps_outside_tasks(file.tree):
            if not marks.search(lines[call.lineno - 1]):
                found.append(f"{file.module}:{call.lineno} {lines[call.lineno - 1].strip()}")
    return found


def _sleeps_outside_tasks(node: ast.AST) -> Iterable[ast.Call]:
    if isinstance(node, Function) and any(_is_task(each) for each in node.decorator_list):
        return
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "sleep":
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _sleeps_outside_tasks(child)


def _is_task(decorator: ast.expr) -> bool:
    """``@app.task``, ``@tasks.task(...)``, ``@task``."""
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(function).rpartition(".")[2] == "task"


def header_of(script: str) -> str:
    """The comment at the top of a Lua script."""
    match = re.match(r"(?:[ \t]*--[^\n]*\n|[ \t]*\n)*", script)
    return match[0] if match else ""


def missing_in_header(script: str) -> list[str]:
    """Which of KEYS, ARGV and the reply the comment at the top does not explain."""
    header = header_of(script)
    return [word for word in ("KEYS", "ARGV", "reply") if not re.search(rf"\b{word}\b", header, re.IGNORECASE)]


def test_no_module_class_or_function_is_too_long() -> None:
    assert too_long(sources()) == []


def test_no_function_has_too_many_parameters() -> None:
    assert too_many_parameters(sources()) == []


def test_what_is_public_has_a_docstring() -> None:
    assert without_docstring(sources()) == []


def test_no_test_waits_by_sleeping() -> None:
    assert sleeps(sources(ROOT / "tests")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.name))
def test_a_script_explains_its_keys_arguments_and_reply(path: Path) -> None:
    assert missing_in_header(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: str(path.name))
def test_a_fragment_says_what_it_is(path: Path) -> None:
    assert header_of(path.read_text("utf-8")).strip()


def test_there_are_scripts() -> None:
    assert SCRIPTS, "none found: the test above checks nothing"


# The checks themselves: each finds the fault that it is there for.


def bad(text: str, module: str = "penstock.bad") -> list[Source]:
    return [Source(module, text)]


def test_length_is_found() -> None:
    assert len(too_long(bad("x = 1\n" * 351))) == 1
    assert len(too_long(bad("def f():\n" + "    x = 1\n" * 50))) == 1
    assert len(too_long(bad("class A:\n    async def f(self):\n" + "        x = 1\n" * 50))) == 1
    assert len(too_long(bad("class A:\n" + "    x = 1\n" * 250))) == 1
    assert too_long(bad("x = 1\n" * 300 + "def f():\n" + "    x = 1\n" * 49)) == []


def test_parameters_are_counted() -> None:
    assert len(too_many_parameters(bad("def f(a, b, c, /, d, e, *, g, h, i, j): ..."))) == 1
    assert len(too_many_parameters(bad("def f(a, b, c, d, e, g, h, *args, **kwargs): ..."))) == 1
    assert len(too_many_parameters(bad("class A:\n    def __init__(self, a, b, c, d, e, *, g, h, i, j): ..."))) == 1
    assert (
        len(too_many_parameters(bad("class A:\n    @overload\n    def f(self, a, b, c, d, e, g, h, i, j): ..."))) == 1
    )
    assert len(too_many_parameters(bad("class A:\n    @staticmethod\n    def f(a, b, c, d, e, g, h, i, j): ..."))) == 1
    assert too_many_parameters(bad("class A:\n    def f(self, a, b, c, d, e, g, h, i): ...")) == []


def test_a_missing_docstring_is_found() -> None:
    good = '"""Doc."""\ndef f():\n    """Doc."""\n    def inner(): ...\ndef _private(): ...\n@overload\ndef g(): ...'
    assert without_docstring(bad(good)) == []
    assert without_docstring(bad("x = 1")) == ["penstock.bad"]
    assert without_docstring(bad('"""Doc."""\nasync def f(): ...')) == ["penstock.bad:2 f"]
    assert without_docstring(bad('"""Doc."""\nclass A:\n    x = 1')) == ["penstock.bad:2 A"]


@pytest.mark.parametrize(
    "call", ["time.sleep(1)", "asyncio.sleep(1)", "anyio.sleep(0)", "sleep(1)", "time.sleep(1)  # a moment"]
)
def test_a_sleep_is_found(call: str) -> None:
    assert len(sleeps(bad(f"def test_f():\n    {call}", "tests.unit.test_bad"))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "@app.task\nasync def f():\n    await anyio.sleep(1)",
        "def test_f():\n    @app.task(queue='q')\n    def f():\n        time.sleep(1)",
        "def test_f():\n    body = lambda: time.sleep(1)  # work",
    ],
)
def test_a_tasks_work_may_sleep(text: str) -> None:
    assert sleeps(bad(text, "tests.unit.test_good")) == []


def test_only_a_helper_may_poll() -> None:
    poll = "def wait_until():\n    time.sleep(0.01)  # poll: until the deadline"
    assert sleeps(bad(poll, "tests.waiting")) == []
    assert len(sleeps(bad(poll, "tests.unit.test_bad"))) == 1


def test_a_poor_header_is_found() -> None:
    assert missing_in_header("-- KEYS: 1 stream\n-- ARGV: 1 id\n-- Reply: 1\nreturn 1\n") == []
    assert missing_in_header("-- KEYS: 1 stream\nlocal x = ARGV[1] -- reply\n") == ["ARGV", "reply"]
    assert missing_in_header("return 1\n") == ["KEYS", "ARGV", "reply"]
