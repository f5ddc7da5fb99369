"""Options of commands that need a server and no code: they load neither the user's app nor what shows tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from penstock.settings import Settings, load_settings
from penstock.streams.connector import Connector
from penstock.streams.urls import resolve_url

F = TypeVar("F", bound=Callable[..., Any])


def server_options(function: F) -> F:
    """Options ``--url`` and ``--namespace``; whatever PENSTOCK_APP says."""
    for option in (
        click.option("--namespace", metavar="NAME", help="Default: PENSTOCK_NAMESPACE, or penstock."),
        click.option("--url", metavar="URL", help="The server. Default: PENSTOCK_URL, REDIS_URL, ..., or localhost."),
    ):
        function = option(function)
    return function


def server(url: str | None, namespace: str | None) -> tuple[Connector, Settings]:
    """What these options mean."""
    settings = load_settings({} if namespace is None else {"namespace": namespace})
    return Connector(resolve_url(url), settings), settings
