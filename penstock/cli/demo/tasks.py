"""The demo's tasks: one indexes a Python file, one adds up what all of these have found.

They belong to no server: `app.py` takes them into the workers' app, and the command into its own.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import msgspec

from penstock import Context, RetryPolicy, TaskFailed, TaskOptions, TaskSet

tasks = TaskSet(defaults=TaskOptions(queue="files"))


class FileIndex(msgspec.Struct, frozen=True):
    """What one file holds. `imports` are top-level modules, as often as they are imported."""

    lines: int
    functions: int
    classes: int
    imports: dict[str, int]


class Summary(msgspec.Struct, frozen=True):
    """What many files hold; `imports` counts the files that import a module, most frequent first."""

    files: int
    lines: int
    functions: int
    classes: int
    imports: list[tuple[str, int]]


# In a process: ast.parse holds the GIL, and two threads at it at the same time can disturb one another (on Python
# 3.11 one file in some thousands failed with "AST constructor recursion depth mismatch"). It costs 1 ms per file.
# An OSError may pass, so it is tried again; a SyntaxError will not, and ends among the dead letters.
@tasks.task(run="process", bind=True, retry=RetryPolicy(max_retries=3, delay=0.2, on=OSError))
def index_file(ctx: Context, path: str, *, stumble: bool = False) -> FileIndex:
    """Parse one file. With `stumble` the first attempt fails, as if a network drive were away."""
    if stumble and ctx.attempt == 1:
        raise OSError(f"made up for the demo: cannot read {path}")
    return index(Path(path))


@tasks.task(queue="summaries")
async def summarise(keys: list[str]) -> Summary:
    """Add up the results of the `index_file` tasks with these keys; those that failed have none."""
    files = lines = functions = classes = 0
    imports: Counter[str] = Counter()
    for key in keys:
        try:
            found = await index_file.handle(key)
        except TaskFailed:
            continue
        files += 1
        lines += found.lines
        functions += found.functions
        classes += found.classes
        imports.update(found.imports.keys())
    return Summary(files, lines, functions, classes, imports.most_common())


def index(path: Path) -> FileIndex:
    """Count what a Python file holds. Raises SyntaxError (ValueError for a NUL byte, before Python 3.12)."""
    source = path.read_bytes()
    functions = classes = 0
    imports: Counter[str] = Counter()
    for node in ast.walk(ast.parse(source, filename=str(path))):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions += 1
            case ast.ClassDef():
                classes += 1
            case ast.Import(names=names):
                imports.update(name.name.partition(".")[0] for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                imports[module.partition(".")[0]] += 1
    return FileIndex(len(source.splitlines()), functions, classes, dict(imports))
