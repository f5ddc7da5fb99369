"""The table of lessons is complete, and names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

from tests.source import Function, functions, sources

FOLDER = Path(__file__).parent
ROWS = range(1, 36)
#: ``owner/repo#123``, ``#123``, ``PR #123``, or a file of a repository.
_THREAD = re.compile(r"\w[\w.-]*/[\w.-]+ ?(PR )?#\d+|taskiq_redis/redis_broker\.py")


class Row(NamedTuple):
    """A line of the table: the row's number, what went wrong, and the tests or why there is none."""

    number: int
    what: str
    cell: str

    @property
    def tests(self) -> list[str]:
        return re.findall(r"`(test_\w+)`", self.cell)


def rows() -> list[Row]:
    """The table in README.md."""
    found = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)
    return [Row(int(number), what, cell) for number, what, cell in found]


def lessons() -> dict[str, Function]:
    """The tests of this folder, except those of the table itself."""
    files = [file for file in sources(FOLDER) if not file.module.endswith("test_table")]
    return {f.name: f for file in files for f, _ in functions(file.tree) if f.name.startswith("test_")}


def test_each_row_has_its_tests_or_a_reason_why_it_has_none() -> None:
    assert [row.number for row in rows()] == list(ROWS)
    for row in rows():
        assert row.what and (row.tests or row.cell.startswith(("none yet: ", "no delivery: "))), row


def test_each_test_of_the_table_exists_and_each_test_is_in_the_table() -> None:
    named = [test for row in rows() for test in row.tests]
    assert len(named) == len(set(named))
    assert set(named) == set(lessons())


def test_each_lesson_names_a_thread_and_what_went_wrong_there() -> None:
    for name, test in lessons().items():
        text = ast.get_docstring(test) or ""
        assert _THREAD.search(text) and len(text.partition(":")[2]) > 30, f"{name}: {text!r}"
