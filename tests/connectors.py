"""What the tests of connections share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from penstock import errors
from penstock.settings import Settings
from penstock.streams.connector import Connector
from penstock.streams.faults import is_transient
from penstock.streams.urls import resolve_url

QUICK = Settings(connect_timeout=0.5, command_timeout=0.3)


def connector(url: str, settings: Settings | None = None) -> Connector:
    return Connector(resolve_url(url, {}), settings or Settings())


@contextmanager
def raises(kind: type[errors.BrokerError], of: Connector, transient: bool) -> Iterator[list[str]]:
    """The block fails with something of redis-py that `translate` makes a `kind`; yields its text."""
    text: list[str] = []
    with pytest.raises(Exception) as caught:
        yield text
    error = of.translate(caught.value)
    assert type(error) is kind, repr(caught.value)
    assert is_transient(caught.value) is transient
    text.append(str(error))
