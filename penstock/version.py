"""Which version of penstock this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """``0.1.0``; "" where the package's metadata is missing, as in a zipapp: nothing depends on it."""
    try:
        return version("penstock")
    except PackageNotFoundError:
        return ""
