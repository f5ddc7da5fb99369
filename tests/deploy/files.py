"""What stands in deploy/, read; and what each part of it has to agree with."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from penstock.cli.invocation import Invocation
from penstock.cli.root import root
from penstock.consumers.supervisor import SPARE
from penstock.consumers.wards import MARGIN
from penstock.settings import Settings, load_settings
from tests.source import ROOT

DEPLOY = ROOT / "deploy"
GRAFANA = ROOT / "grafana"
#: Seconds from SIGTERM to when the supervisor has ended all by itself, beside the grace period.
END = MARGIN + SPARE


def documents(text: str) -> list[Any]:
    """Those of a text in YAML."""
    return [document for document in yaml.safe_load_all(text) if document is not None]


def read(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    return documents(path.read_text("utf-8"))


def read_one(path: Path) -> Any:
    """The only document of a YAML file."""
    [document] = read(path)
    return document


def tool(name: str) -> str:
    """A program that no package of Python's brings; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def module(name: str) -> str:
    """One of the tools that `make test-deploy` installs; without it the test is skipped."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command that ``penstock *words`` would run, and its options; click's error if it would refuse."""
    with root.make_context("penstock", list(words), obj=Invocation(words)) as context:
        name, command, rest = root.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None and name is not None
        with command.make_context(name, rest, parent=context) as made:
            return name, dict(made.params)


def settings(environment: Mapping[str, str]) -> Settings:
    """What penstock makes of these variables; its error if one of them is no setting, or makes no sense."""
    assert all(isinstance(value, str) for value in environment.values())
    return load_settings({}, environment)


def variables(path: Path) -> dict[str, str]:
    """Those of an EnvironmentFile of systemd."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def seconds(text: str) -> float:
    """``45s``, ``1m30s``."""
    total, number = 0.0, ""
    for letter in text:
        if letter.isdigit() or letter == ".":
            number += letter
        else:
            total += float(number) * {"s": 1, "m": 60, "h": 3600}[letter]
            number = ""
    assert not number, f"{text} has no unit"
    return total


def strings(value: Any) -> Iterator[str]:
    """All keys and texts in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from strings(key)
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


# The checks themselves.


def is_refused(words: list[str]) -> bool:
    """Whether the command line does not take these words."""
    try:
        parse(words)
    except click.ClickException:
        return True
    return False
