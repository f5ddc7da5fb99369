"""The version: known where the package is installed, and missed by nobody where it is not."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from penstock import version


def test_it_is_that_of_the_package() -> None:
    assert version.installed_version()[0].isdecimal()


def test_without_metadata_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a zipapp, or a folder on the path: a worker starts all the same."""

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(version, "version", missing)
    assert version.installed_version() == ""
