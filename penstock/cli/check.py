"""`penstock check`: is a worker of this host alive?"""

from __future__ import annotations

import socket

import click
import msgspec

from penstock.cli.invocation import NO_SUCCESS, Fault
from penstock.cli.server import server, server_options
from penstock.errors import BrokerUnavailable
from penstock.streams.client import SyncClient
from penstock.streams.inspect import HOST_PREFIX, LIVING, workers
from penstock.streams.message import UNDECODABLE


@click.command("check")
@server_options
@click.option(
    "--workers",
    "wanted",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many must be alive.",
)
@click.option(
    "--max-age", type=click.FloatRange(0, min_open=True), default=LIVING, show_default=True, metavar="SECONDS",
    help="How old the last heartbeat may be; a worker sends one each 5 s.",
)  # fmt: skip
@click.option("--host", metavar="NAME", help="Whose workers. Default: this host's, which in a container is its own.")
@click.option("--strict", is_flag=True, help="Fail also when the server does not answer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    url: str | None, namespace: str | None, wanted: int, max_age: float, host: str | None, strict: bool, as_json: bool
) -> None:
    """Say whether workers of this host are alive: a probe for Kubernetes, Docker and the like.

    It reads their heartbeats. It loads no code of yours, so a namespace that only your app knows must be named.
    Exit code 0: enough of them are alive. 1: they are not.
    When the server does not answer nothing can be known, and a worker that is killed for that would be no better
    off: the exit code is then 0, unless --strict.
    """
    host = host or socket.gethostname()
    try:
        ages = _ages(url, namespace, host)
    except BrokerUnavailable as error:
        if strict:
            raise
        _tell(as_json, {"host": host, "alive": None, "error": str(error)}, f"cannot tell: {error}")
        return
    alive = sum(age <= max_age for age in ages.values())
    said = ", ".join(f"{name} ({age:.0f} s ago)" for name, age in ages.items()) or "none was heard of"
    if as_json or alive >= wanted:
        _tell(as_json, {"host": host, "alive": alive, "heard": ages}, f"{alive} alive on {host}: {said}")
    if alive < wanted:
        raise Fault(f"{alive} of {wanted} workers on {host} are alive; {said}", NO_SUCCESS)


class _Said(msgspec.Struct):
    """Of what a worker says of itself (`penstock.consumers.heartbeat`), what is asked here."""

    host: str = ""


def _ages(url: str | None, namespace: str | None, host: str) -> dict[str, float]:
    """Seconds since the last heartbeat of each worker of `host`. Their names begin with it, cut off."""
    connector, settings = server(url, namespace)
    client = SyncClient(connector)
    try:
        heard = client.run(workers(settings.namespace, host[:HOST_PREFIX], gone=True))
    finally:
        client.close()
    return {each.consumer: each.ago for each in heard if _host(each.about) == host}


def _host(about: bytes) -> str:
    try:
        return msgspec.msgpack.decode(about, type=_Said).host
    except UNDECODABLE:
        return ""


def _tell(as_json: bool, data: dict[str, object], text: str) -> None:
    # Not by `penstock.cli.output`: its tables take longer to load than all of this.
    click.echo(msgspec.json.format(msgspec.json.encode(data)).decode() if as_json else text)
