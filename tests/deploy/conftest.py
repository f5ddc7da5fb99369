"""Fixtures of the deployment's tests: the command line as processes, and a service manager's socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import app, folder, penstock, send, worker
from tests.deploy.manager import Manager

__all__ = ["app", "folder", "penstock", "send", "worker"]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """The end of NOTIFY_SOCKET that systemd would hold."""
    with Manager(str(tmp_path / "notify")) as manager:
        yield manager
