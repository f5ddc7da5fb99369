"""README and docs: programs run, fragments compile, links lead somewhere, tables are those of the code.

`python -m tests.test_docs` writes the tables anew.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints

import click
import pytest

from benchmarks.summary import read, summary
from penstock import errors
from penstock.cli.root import root
from penstock.metrics.catalogue import all_metrics
from penstock.settings import ENV_OTHERS, ENV_PREFIX, Settings
from penstock.streams import keys
from tests.source import PACKAGE, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]\n]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_PATH = re.compile(r"`((?:penstock|tests|examples|docs|lua)/[\w./]*)`")


class Block(NamedTuple):
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def is_program(self) -> bool:
        return self.language == "python" and "__main__" in self.text


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """The fenced blocks that name a language."""
    text = page.read_text("utf-8") if text is None else text
    return [Block(page, text.count("\n", 0, m.start()) + 1, m[2], textwrap.dedent(m[3])) for m in _BLOCK.finditer(text)]


ALL = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in ALL if block.language == "python"]
PROGRAMS = [block for block in PYTHON if block.is_program]
SHELL = [block for block in ALL if block.language == "sh"]


def by_id(block: Block) -> str:
    return block.id


# Programs


@pytest.mark.parametrize("block", PYTHON, ids=by_id)
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.id, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("block", PROGRAMS, ids=by_id)
def test_a_complete_program_runs(block: Block, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(block.text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "shop.py"], capture_output=True, text=True, timeout=100, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "it prints nothing"
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("block", [b for b in PYTHON if not b.is_program], ids=by_id)
def test_a_fragment_with_an_app_can_be_imported(block: Block, tmp_path: Path) -> None:
    """Decorators and options in it are right: they are checked when they are used."""
    if "App(" not in block.text:
        return
    (tmp_path / "shop.py").write_text(block.text, "utf-8")
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import shop"], stderr=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()


def test_the_example_of_the_readme_is_twelve_lines_and_prints_its_result(tmp_path: Path) -> None:
    first = next(block for block in PROGRAMS if block.page.name == "README.md")
    assert len(first.text.splitlines()) == 12
    (tmp_path / "shop.py").write_text(first.text, "utf-8")
    done = subprocess.run([sys.executable, "shop.py"], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.stdout == "receipt 42 sent\n", done.stderr


# The command line


def commands(text: str) -> Iterator[list[str]]:
    """The words after ``penstock`` of each line that calls it."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "penstock":
            yield words[1:]


def unknown_words(words: list[str]) -> list[str]:
    """Options and commands in a call that the command line has not got."""
    command: click.Command = root
    context = click.Context(root)
    unknown = []
    for i, word in enumerate(words):
        options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
        if word.startswith("-"):
            if word.partition("=")[0] not in options and word not in ("-h", "--help"):
                unknown.append(word)
        elif isinstance(command, click.Group) and not _is_value(words, i):
            found = command.get_command(context, word)
            if found is None:
                return [*unknown, word]
            command = found
    return unknown


def _is_value(words: list[str], i: int) -> bool:
    return i > 0 and words[i - 1] in ("-A", "--app")


CALLS = [(block, words) for block in SHELL for words in commands(block.text)]


@pytest.mark.parametrize(("block", "words"), CALLS, ids=lambda value: value.id if isinstance(value, Block) else None)
def test_commands_in_the_docs_are_those_of_the_command_line(block: Block, words: list[str]) -> None:
    assert unknown_words(words) == []


def test_the_table_of_worker_options_is_complete() -> None:
    text = (ROOT / "docs" / "workers.md").read_text("utf-8")
    worker = root.get_command(click.Context(root), "worker")
    assert worker is not None
    names = [max(option.opts, key=len) for option in worker.params if isinstance(option, click.Option)]
    assert [
        name for name in names if not re.search(rf"`[^`]*{name}\b", text) and name not in ("--app", "--queues")
    ] == []


# Links and names of files


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


def broken(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    found = []
    for link in _LINK.findall(_BLOCK.sub("", text)):
        target, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = [name.rstrip(".") for name in _PATH.findall(page.read_text("utf-8"))]
    places = [PACKAGE / "streams" / name if name.startswith("lua/") else ROOT / name for name in named]
    assert [name for name, place in zip(named, places, strict=True) if not place.exists()] == []


def test_internals_name_every_script_and_every_part_of_the_worker() -> None:
    text = (ROOT / "docs" / "internals.md").read_text("utf-8")
    scripts = [f"lua/{path.name}" for path in (PACKAGE / "streams" / "lua").glob("[!_]*.lua")]
    assert [name for name in scripts if f"`{name}`" not in text] == []


# Tables


def settings_table() -> str:
    """Every setting with type, default, variable and meaning, from the comments in settings.py."""
    meanings = _comments(inspect.getsource(Settings))
    hints = get_type_hints(Settings)
    rows = ["| setting | default | unit | variable | meaning |", "|---|---|---|---|---|"]
    for name, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True):
        variable, meaning = f"{ENV_PREFIX}{name.upper()}", meanings[name].replace("``", "`").replace("|", "\\|")
        shown = f'"{default}"' if isinstance(default, str) else _number(default)
        rows.append(f"| `{name}` | `{shown}` | {_unit(name, hints[name])} | `{variable}` | {meaning} |")
    return "\n".join(rows)


def _comments(source: str) -> dict[str, str]:
    """field -> what the ``#:`` comment above it says; fields that share one comment share its meaning."""
    found: dict[str, str] = {}
    comment: list[str] = []
    taken = False
    for line in source.splitlines():
        text = line.strip()
        if text.startswith("#:"):
            comment = [text[2:].strip()] if taken else [*comment, text[2:].strip()]
            taken = False
        elif match := re.match(r"(\w+): [^=]+ = ", text):
            found[match[1]] = " ".join(comment)
            taken = True
    return found


def _number(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _unit(name: str, kind: object) -> str:
    if get_args(kind):
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is float:
        return "s"
    return {"max_payload": "bytes", "namespace": "name"}.get(name, "yes or no" if kind is bool else "number")


def keys_table() -> str:
    """Every key with what it holds, from the docstrings in keys.py."""
    given = {"base": "{ns:q}", "namespace": "ns"}
    rows = ["| key | type, what it holds, how long it lives |", "|---|---|"]
    for name, function in vars(keys).items():
        if not inspect.isfunction(function) or name == "base":
            continue
        arguments = [given.get(each, f"<{each}>") for each in inspect.signature(function).parameters]
        meaning = " ".join((inspect.getdoc(function) or "").split()).replace("``", "`").replace("|", "\\|")
        rows.append(f"| `{function(*arguments)}` | {meaning} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """Every metric with its type, labels and meaning."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in all_metrics():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(rows)


def error_tree() -> str:
    """The tree in the docstring of errors.py."""
    lines = inspect.cleandoc(errors.__doc__ or "").splitlines()
    return "```text\n" + textwrap.dedent("\n".join(lines[1:]).strip("\n")) + "\n```"


TABLES = {
    "settings": (ROOT / "docs" / "configuration.md", settings_table),
    "keys": (ROOT / "docs" / "internals.md", keys_table),
    "tree": (ROOT / "docs" / "errors.md", error_tree),
    "metrics": (ROOT / "docs" / "observability.md", metrics_table),
    "speed": (ROOT / "README.md", lambda: summary(read())),
}


def _between(name: str, text: str) -> re.Match[str]:
    match = re.search(rf"(<!-- {name}: [^\n]*-->\n)(.*?)(<!-- end of {name} -->)", text, re.DOTALL)
    assert match is not None, f"the marks of the table {name!r} are gone"
    return match


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_code(name: str) -> None:
    page, make = TABLES[name]
    assert _between(name, page.read_text("utf-8"))[2].strip() == make(), "run `python -m tests.test_docs`"


def test_every_variable_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert [name for name in sorted(ENV_OTHERS) if f"`{ENV_PREFIX}{name}`" not in text] == []


def test_every_error_and_every_reason_is_documented() -> None:
    text = (ROOT / "docs" / "errors.md").read_text("utf-8")
    own = [
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    reasons = re.findall(r'"(\w+)"', (inspect.getdoc(errors.TaskFailed) or "").partition("reason:")[2])
    assert len(reasons) > 5
    assert [name for name in own if name not in text] == []
    assert [reason for reason in reasons if f"| `{reason}` |" not in text] == []


def test_what_may_run_twice_and_what_may_be_lost_is_said_in_these_words() -> None:
    twice = (
        "A crash or stall past the lease (a C call that holds the GIL stops the lease thread too), "
        "an undead thread after its timeout, a failover that loses an ack."
    )
    lost = "Writes that Redis itself lost (unsynced failover, power loss with everysec, eviction, FLUSHALL)."
    for page in (ROOT / "README.md", ROOT / "docs" / "reliability.md"):
        text = " ".join(page.read_text("utf-8").replace("\n>", "\n").split()).lower()
        assert twice.lower() in text
        assert lost.lower() in text


# The checks themselves.


def test_a_broken_link_is_found() -> None:
    page = ROOT / "README.md"
    assert broken(page, "[a](docs/tasks.md#retries) [b](docs/none.md) [c](docs/tasks.md#none) [d](https://x.org)") == [
        "docs/none.md",
        "docs/tasks.md#none",
    ]


def test_a_wrong_command_is_found() -> None:
    assert unknown_words(["-A", "shop:app", "worker", "-Q", "mail", "--burst"]) == []
    assert unknown_words(["-A", "shop:app", "worker", "--brust"]) == ["--brust"]
    assert unknown_words(["wroker"]) == ["wroker"]


def test_blocks_are_found_with_their_lines() -> None:
    text = "a\n\n```python\nx = 1\n```\n\n1. b\n\n    ```sh\n    make\n    ```\n"
    assert [(b.line, b.language, b.text) for b in blocks(ROOT, text)] == [(3, "python", "x = 1\n"), (9, "sh", "make\n")]


def main() -> None:
    """Write the tables anew."""
    for name, (page, make) in TABLES.items():
        text = page.read_text("utf-8")
        match = _between(name, text)
        page.write_text(text[: match.start(2)] + make() + "\n" + text[match.end(2) :], "utf-8")


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
