"""`penstock check`: is a worker of this host alive?"""

from __future__ import annotations

import socket

import click

from penstock.cli import output
from penstock.cli.broker import Broker, with_server
from penstock.cli.invocation import NO_SUCCESS, Fault
from penstock.errors import BrokerUnavailable
from penstock.streams.inspect import fleet


@click.command("check")
@with_server
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="How many must be alive."
)
@click.option(
    "--max-age", type=click.FloatRange(0, min_open=True), default=20.0, show_default=True, metavar="SECONDS",
    help="How old the last heartbeat may be; a worker sends one each 5 s.",
)  # fmt: skip
@click.option("--host", metavar="NAME", help="Whose workers. Default: this host's, which in a container is its own.")
@click.option("--strict", is_flag=True, help="Fail also when the server does not answer.")
def check(broker: Broker, workers: int, max_age: float, host: str | None, strict: bool) -> None:
    """Say whether workers of this host are alive: a probe for Kubernetes, Docker and the like.

    It reads their heartbeats. It loads no code of yours, so a namespace that only your app knows must be named.
    Exit code 0: enough of them are alive. 1: they are not.
    When the server does not answer nothing can be known, and a worker that is killed for that would be no better
    off: the exit code is then 0, unless --strict.
    """
    host = host or socket.gethostname()
    try:
        found = broker.run(fleet(broker.settings.namespace, max_age))
    except BrokerUnavailable as error:
        if strict:
            raise
        _tell({"host": host, "alive": None, "error": str(error)}, f"cannot tell: {error}")
        return
    ages = {each.consumer: found.age(each) for each in found.workers if each.host == host}
    alive = [name for name, age in ages.items() if age <= max_age]
    said = ", ".join(f"{name} ({age:.0f} s ago)" for name, age in ages.items()) or "none was heard of"
    if len(alive) < workers:
        if output.wants_json():
            output.print_json({"host": host, "alive": len(alive), "heard": ages})
        raise Fault(f"{len(alive)} of {workers} workers on {host} are alive; {said}", NO_SUCCESS)
    _tell({"host": host, "alive": len(alive), "heard": ages}, f"{len(alive)} alive on {host}: {said}")


def _tell(data: dict[str, object], text: str) -> None:
    if output.wants_json():
        output.print_json(data)
    else:
        click.echo(text)
