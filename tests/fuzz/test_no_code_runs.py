"""Nothing that is read from Redis is ever run: no unpickling, no eval, and no import by a name in a message."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable

import msgspec
import pytest
import redis

from penstock import App
from penstock.streams import keys
from tests.integration.support import PATIENCE
from tests.servers import await_until
from tests.source import Source, sources

#: Modules that make objects or code of bytes.
MODULES = {
    "pickle", "cPickle", "_pickle", "marshal", "shelve", "dbm", "yaml", "dill", "cloudpickle", "jsonpickle", "joblib",
    "code", "codeop", "runpy", "imp", "pty", "copyreg",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "execfile", "import_module", "system", "popen", "loads"}
HOOKS = {"__reduce__", "__reduce_ex__", "__setstate__", "__getstate__"}
#: Who may, and what it is that they run or import: never what came from Redis.
ALLOWED = {
    ("penstock.tasks.binder", "exec"): "a task's binder, of its own signature",
    ("penstock.app", "import_module"): "App(imports=...) and autodiscover()",
    ("penstock.cli.apps", "import_module"): "-A",
    ("penstock.cli.root", "import_module"): "a command of COMMANDS",
    ("penstock.consumers.child", "import_module"): "the registered task's own module, as the worker says",
    ("penstock.consumers.worker", "import_module"): "uvloop",
}


def dangers(files: Iterable[Source]) -> set[tuple[str, str]]:
    """(module, what it does) for each such thing in the source."""
    found = set()
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
                found |= {(file.module, name) for name in names if name in MODULES}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
                found.add((file.module, str(node.module)))
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func).rpartition(".")[2]
                if called in CALLS and ast.unparse(node.func) != "re.compile":
                    found.add((file.module, called))
                if any(word.arg == "shell" for word in node.keywords):
                    found.add((file.module, "shell"))
            elif isinstance(node, ast.FunctionDef) and node.name in HOOKS:
                found.add((file.module, node.name))
    return found


def test_no_module_makes_code_of_bytes() -> None:
    found = dangers(sources())
    assert found <= set(ALLOWED), found - set(ALLOWED)
    assert ("penstock.tasks.binder", "exec") in found  # it does look


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from pickle import loads", "import yaml.loader", "eval('1')", "__builtins__.exec(x)",
     "os.system(x)", "importlib.import_module(name)", "subprocess.run(x, shell=True)",
     "class A:\n def __reduce__(self): ..."],
)  # fmt: skip
def test_each_of_them_is_found(text: str) -> None:
    assert len(dangers([Source("penstock.tasks.bad", text)])) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["tests.fuzz.trap.spring", "tests.fuzz.trap", "os.system", "builtins.eval"])
async def test_a_task_is_looked_up_in_the_registry_only(app: App, raw: redis.Redis, namespace: str, name: str) -> None:
    @app.task(name="in_process", run="process")
    def in_process() -> None: ...

    message = msgspec.msgpack.encode({"n": name, "a": {"*": ["x"]}, "module": "tests.fuzz.trap"})
    base = keys.base(namespace, "default")
    raw.xadd(keys.stream(base, "default"), {"k": "hostile", "m": message})
    async with app.running():
        await await_until(lambda: raw.hget(keys.record(base, "hostile"), "g") is not None, PATIENCE)
    assert "tests.fuzz.trap" not in sys.modules
    app.handle("default:hostile").cancel()


def test_the_trap_is_one() -> None:
    with pytest.raises(AssertionError):
        __import__("tests.fuzz.trap")
    assert "tests.fuzz.trap" not in sys.modules
