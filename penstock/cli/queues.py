"""`penstock queues`, `penstock pause` and `penstock resume`."""

from __future__ import annotations

from typing import Any

import click

from penstock.cli import output
from penstock.cli.broker import Broker, with_broker
from penstock.settings import PRIORITIES, check_name, did_you_mean
from penstock.streams import produce
from penstock.streams.inspect import QueueStats

#: Outcomes that have a column even while there are none.
_ALWAYS = ("succeeded", "failed", "retried")


@click.command("queues")
@click.argument("names", nargs=-1, metavar="[QUEUE]...")
@with_broker
def queues(broker: Broker, names: tuple[str, ...]) -> None:
    """Show what each queue holds, and what became of its tasks.

    ready: waiting for a worker, by priority. running: handed to a worker. scheduled: waiting for
    their time, or for a retry. dead: failed for good, see `penstock dead`. oldest: how long the oldest
    ready task has waited. The other columns count, since the queue began, how tasks ended.
    """
    found = [broker.stats(check_name("a queue's name", name)) for name in names or broker.queues()]
    if output.wants_json():
        output.print_json([_as_json(stats) for stats in found])
        return
    outcomes = sorted({outcome for stats in found for outcome in stats.counters} - set(_ALWAYS))
    columns = ["queue", *PRIORITIES, "ready", "running", "scheduled", "dead", "oldest", *_ALWAYS, *outcomes]
    rows = [_row(stats, (*_ALWAYS, *outcomes)) for stats in found]
    output.print_table(columns, rows, f"no queue in the namespace {broker.settings.namespace!r}")


def _row(stats: QueueStats, outcomes: tuple[str, ...]) -> list[object]:
    lanes = [lane.ready for lane in stats.lanes]
    holds = [stats.ready, stats.running, stats.scheduled, stats.dead, output.ago(stats.oldest)]
    name = stats.queue if stats.paused is None else f"{stats.queue} (paused {output.ago(stats.paused)})"
    return [name, *lanes, *holds, *(stats.total(outcome) for outcome in outcomes)]


def _as_json(stats: QueueStats) -> dict[str, Any]:
    return {
        "queue": stats.queue,
        "ready": {lane.priority: lane.ready for lane in stats.lanes},
        "running": {lane.priority: lane.running for lane in stats.lanes},
        "scheduled": stats.scheduled,
        "dead": stats.dead,
        "oldest_ready_seconds": stats.oldest,
        "next_due_seconds": stats.due_in,
        "paused_seconds": stats.paused,
        "counters": stats.counters,
    }


@click.command("pause")
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@with_broker
def pause(broker: Broker, names: tuple[str, ...]) -> None:
    """Start nothing more of these queues, in no worker, until `penstock resume`.

    What runs goes on. Tasks can be sent, scheduled and cancelled; they wait.
    """
    _set_paused(broker, names, True)


@click.command("resume")
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@with_broker
def resume(broker: Broker, names: tuple[str, ...]) -> None:
    """End a pause; workers go on at once."""
    _set_paused(broker, names, False)


def _set_paused(broker: Broker, names: tuple[str, ...], paused: bool) -> None:
    names = tuple(check_name("a queue's name", name) for name in names)  # all of them, before the first is changed
    changed = [(name, broker.run(produce.pause(broker.base(name), paused))) for name in names]
    if output.wants_json():
        output.print_json([{"queue": name, "paused": paused, "changed": each} for name, each in changed])
        return
    known = broker.queues()
    output.print_fields([(name, _paused_text(paused, each) + _unknown_text(name, known)) for name, each in changed])


def _paused_text(paused: bool, changed: bool) -> str:
    if paused:
        return "paused" if changed else "was paused already"
    return "resumed" if changed else "was not paused"


def _unknown_text(name: str, known: list[str]) -> str:
    return "" if name in known else f"; so far there is no such queue{did_you_mean(name, known)}"
