"""The typed API in both checkers: tests/typing/ holds what they must accept, and what they must refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import ROOT

FOLDER = ROOT / "tests" / "typing"
WRONG = FOLDER / "wrong_uses.py"
EXAMPLES = ROOT / "examples"
PATHS = [str(ROOT), str(EXAMPLES / "library_taskset")]
IGNORE = re.compile(r"# (?:type|pyright): ignore\[[\w, -]+\]")
#: What an ignore that ignores nothing is called; it means that a wrong use is accepted.
UNUSED = {"mypy": "unused-ignore", "pyright": "reportUnnecessaryTypeIgnoreComment"}


def mypy(cache: Path, *files: Path) -> list[tuple[int, str]]:
    """(line, code) of each error that mypy finds, with --strict and nothing of our own configuration."""
    options = ["--strict", "--config-file=", f"--cache-dir={cache}", "--explicit-package-bases"]
    done = _run("mypy", *options, *map(str, files))
    found = re.findall(r"^\S+?:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    assert done.returncode == (1 if found else 0), done.stdout + done.stderr
    return [(int(line), code) for line, code in found]


def pyright(settings: Path, *files: Path) -> list[tuple[int, str]]:
    """(line, rule) of each error that pyright finds in strict mode, with our configuration of it."""
    options = {
        "include": [os.path.relpath(file, settings.parent) for file in files],
        "extraPaths": PATHS,
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    settings.write_text(json.dumps(options))
    done = _run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(settings))
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] > 0, done.stdout
    return [(d["range"]["start"]["line"] + 1, d.get("rule", d["message"])) for d in report["generalDiagnostics"]]


def _run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(PATHS)}
    return subprocess.run([sys.executable, "-m", tool, *arguments], capture_output=True, text=True, env=environment)


def test_mypy_accepts_right_uses_and_refuses_wrong_ones(tmp_path: Path) -> None:
    assert mypy(tmp_path, FOLDER) == []


def test_pyright_accepts_right_uses_and_refuses_wrong_ones(tmp_path: Path) -> None:
    assert pyright(tmp_path / "pyright.json", FOLDER) == []


def test_right_uses_need_no_ignores() -> None:
    files = [path for path in FOLDER.glob("*.py") if path != WRONG]
    assert len(files) > 1
    assert [path.name for path in files if IGNORE.search(path.read_text("utf-8"))] == []


def test_the_examples_pass_both_without_ignores(tmp_path: Path) -> None:
    files = [*EXAMPLES.glob("*.py"), EXAMPLES / "library_taskset" / "main.py"]
    assert mypy(tmp_path, *files) == []
    assert pyright(tmp_path / "pyright.json", *files) == []
    assert [path.name for path in EXAMPLES.rglob("*.py") if IGNORE.search(path.read_text("utf-8"))] == []


def test_each_wrong_use_is_refused_by_both() -> None:
    """Each statement has both ignores, or is there for others (it prints, it defines)."""
    lines = WRONG.read_text("utf-8").splitlines()
    marked = [line for line in lines if IGNORE.search(line)]
    assert len(marked) > 60
    assert [line for line in marked if len(IGNORE.findall(line)) != 2] == []


# The check itself: a wrong use that is accepted is found.


@pytest.fixture
def accepted(tmp_path: Path) -> Path:
    """A folder in which a use is marked as wrong, and is right."""
    folder = tmp_path / "accepted"
    folder.mkdir()
    (folder / "uses.py").write_text(
        "from penstock import App\n"
        "app = App('shop')\n"
        "@app.task\n"
        "def resize(path: str) -> int:\n"
        "    return len(path)\n"
        "resize.delay('a.png')  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]\n"
    )
    return folder


def test_mypy_finds_a_wrong_use_that_is_accepted(accepted: Path, tmp_path: Path) -> None:
    assert mypy(tmp_path / "cache", accepted) == [(6, UNUSED["mypy"])]


def test_pyright_finds_a_wrong_use_that_is_accepted(accepted: Path, tmp_path: Path) -> None:
    assert pyright(tmp_path / "pyright.json", accepted) == [(6, UNUSED["pyright"])]
