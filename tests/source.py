"""The package's source as syntax trees, for the tests of layers and of caps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "penstock"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file. `module` is its dotted name, a package's own for its ``__init__``."""

    module: str
    text: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.module)

    def base_of(self, level: int) -> str:
        """The package that a relative import with `level` dots starts from."""
        parts = self.module.split(".")
        return ".".join(parts[: len(parts) - level + self.is_package])


def sources(folder: Path = PACKAGE) -> list[Source]:
    """Every Python file below `folder`."""
    return [_read(path) for path in sorted(folder.rglob("*.py"))]


def _read(path: Path) -> Source:
    parts = path.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    return Source(".".join(parts[:-1] if is_package else parts), path.read_text("utf-8"), is_package)


def functions(tree: ast.AST) -> Iterator[tuple[Function, ast.AST]]:
    """Every function, nested ones and methods too, with the node that it stands in."""
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            if isinstance(child, Function):
                yield child, parent
