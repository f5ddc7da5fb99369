"""What the commands that need no code talk to: the app's server, or one named by URL and namespace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from types import TracebackType
from typing import Any, TypeVar

import click
import msgspec

from penstock.cli import apps, output
from penstock.cli.invocation import app_option
from penstock.cli.server import server
from penstock.settings import Settings, load_settings
from penstock.streams import keys, produce
from penstock.streams.calls import Call
from penstock.streams.clients import Clients
from penstock.streams.connector import Connector
from penstock.streams.inspect import QueueStats, queue_stats
from penstock.streams.listener import Listener
from penstock.tasks.deadletters import DeadLetters
from penstock.tasks.results import Results

T = TypeVar("T")

_JSON = click.option("--json", is_flag=True, expose_value=False, callback=output.choose, help="Print JSON.")


class Broker(AbstractContextManager["Broker"]):
    """A namespace on a server. Each request is tried once: whoever types a command sees what is wrong. Only an
    embedded server, which the command itself may have started, has time to load its data."""

    def __init__(self, connector: Connector, settings: Settings) -> None:
        patience = settings.retry_for if connector.address.is_embedded else 0.0
        self.settings = msgspec.structs.replace(settings, retry_for=patience)
        self.connector = connector
        self._clients = Clients(connector)
        self.results = Results(self._clients, Listener(connector, settings.namespace), self.settings)

    def run(self, call: Call[T]) -> T:
        """The reply to one call. Raises `BrokerError`."""
        return self._clients.sync.run(call, self.settings.retry_for)

    def base(self, queue: str) -> str:
        """What a queue's keys begin with."""
        return keys.base(self.settings.namespace, queue)

    def queues(self) -> list[str]:
        """All queues of the namespace."""
        return self.run(produce.queue_names(self.settings.namespace))

    def stats(self, queue: str) -> QueueStats:
        """What a queue holds."""
        return self.run(queue_stats(self.base(queue), queue))

    def dead_letters(self, queue: str) -> DeadLetters:
        """A queue's dead letters."""
        return DeadLetters(self._clients, self.settings, queue)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clients.close()


def with_broker(function: Callable[..., None]) -> Callable[..., None]:
    """Options ``-A``, ``--url``, ``--namespace`` and ``--json``; the function's first argument becomes the `Broker`."""

    @click.pass_context
    @wraps(function)
    def command(ctx: click.Context, /, *, url: str | None, namespace: str | None, **rest: Any) -> None:
        with _connect(ctx, url, namespace) as broker:
            function(broker, **rest)

    for option in (
        _JSON,
        click.option("--namespace", metavar="NAME", help="Default: the app's, PENSTOCK_NAMESPACE, or penstock."),
        click.option(
            "--url", metavar="URL", help="The server. Default: the app's, PENSTOCK_URL, REDIS_URL, or localhost."
        ),
        app_option,
    ):
        command = option(command)
    return command


def _connect(ctx: click.Context, url: str | None, namespace: str | None) -> Broker:
    name = apps.app_name_or_none(ctx)
    if name is None or url is not None:
        return Broker(*server(url, namespace))
    app = apps.find_app(name)
    given = {} if namespace is None else {"namespace": namespace}
    return Broker(app.connector, load_settings({**msgspec.structs.asdict(app.settings), **given}, {}))
