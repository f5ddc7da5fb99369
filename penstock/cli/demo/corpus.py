"""The demo's input: every module of the standard library of the Python that runs."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from penstock.cli.demo.tasks import index

#: Other people's code that is installed inside the library's folder.
_INSTALLED = {"site-packages", "dist-packages", "__pycache__"}
_BROKEN = "this line does not parse\n"


class Corpus(msgspec.Struct, frozen=True):
    """Files to index."""

    root: Path
    #: The key of each file's task, which says where it is in the library, and its path.
    files: dict[str, Path]
    #: The file that was broken on purpose; None if the library has broken ones of its own.
    broken: Path | None


def standard_library(scratch: Path, limit: int = 0) -> Corpus:
    """All modules, or about `limit` of them, evenly picked. One broken file is written to `scratch`, if need be."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(_modules(root))
    if limit and limit < len(paths):
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    # Quoted, because the id of a task has no spaces.
    files = {quote(str(path.relative_to(root))): path for path in paths}
    broken = None
    if not any(_is_broken(path) for path in paths if _may_be_broken(path)):
        broken = scratch / "broken_on_purpose.py"
        broken.write_text(_BROKEN, "utf-8")
        files[broken.name] = broken
    return Corpus(root, files, broken)


def _modules(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _INSTALLED]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _may_be_broken(path: Path) -> bool:
    """The library's tests bring some: ``bad_coding.py``, and Python 2 in ``lib2to3/tests/data``."""
    return path.name.startswith("bad") or path.parent.name == "data"


def _is_broken(path: Path) -> bool:
    try:
        index(path)
    except (SyntaxError, ValueError):  # ValueError: a NUL byte, before Python 3.12
        return True
    return False
