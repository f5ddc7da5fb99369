"""Fixtures: apps as in the behaviour tests, and the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from penstock.cli.root import root
from tests.integration.conftest import app, make_app, seen

__all__ = ["app", "cli", "make_app", "seen"]


@pytest.fixture
def cli(url: str, namespace: str) -> Callable[..., Any]:
    """Runs a command in this process, and reads what it prints if it is JSON; a traceback is a failure."""

    def run(*args: str, code: int = 0) -> Any:
        done = CliRunner().invoke(root, [*args, "--url", url, "--namespace", namespace], color=True)
        assert done.exit_code == code, (done.output, done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return json.loads(done.stdout) if "--json" in args else done.output

    return run
