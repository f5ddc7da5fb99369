"""`penstock workers`."""

from __future__ import annotations

import time

import click
import msgspec

from penstock.cli import output
from penstock.cli.broker import Broker, with_broker
from penstock.consumers.heartbeat import WorkerInfo, read_about
from penstock.streams.inspect import Heard
from penstock.streams.inspect import workers as all_workers


@click.command("workers")
@with_broker
def workers(broker: Broker) -> None:
    """Show the workers that live, and what they do.

    slots: taken and all, of all kinds. memory: resident. heard: how long ago the last heartbeat was; a worker
    sends one every 5 s, and one that was not heard of for 20 s is gone (its tasks run elsewhere after their lease).
    """
    found = [(heard, read_about(heard.about)) for heard in broker.run(all_workers(broker.settings.namespace))]
    if output.wants_json():
        output.print_json([_as_json(heard, info) for heard, info in found])
        return
    columns = ["worker", "host", "pid", "queues", "running", "slots", "done", "memory", "up", "heard"]
    rows = [_row(heard, info) for heard, info in found]
    output.print_table(columns, rows, f"no worker in the namespace {broker.settings.namespace!r}")


def _row(heard: Heard, info: WorkerInfo | None) -> list[object]:
    return [heard.consumer, *_cells(info), f"{output.ago(heard.ago)} ago"]


def _cells(info: WorkerInfo | None) -> list[object]:
    if info is None:
        return [""] * 8
    up = output.ago(time.time() - info.started_at)
    slots, memory = f"{info.all_busy}/{info.all_slots}", f"{info.rss / 2**20:.0f} MiB"
    return [info.host, info.pid, info.queues, info.running, slots, info.done, memory, up]


def _as_json(heard: Heard, info: WorkerInfo | None) -> dict[str, object]:
    said = {} if info is None else msgspec.structs.asdict(info)
    return {"consumer": heard.consumer, "heard_seconds_ago": heard.ago, **said}
