"""`penstock info`, `penstock result` and `penstock cancel`: single tasks by their ids."""

from __future__ import annotations

import click

from penstock.cli import output
from penstock.cli.broker import Broker, with_broker
from penstock.cli.invocation import NO_SUCCESS
from penstock.errors import TaskNotFound
from penstock.streams.record import TaskInfo
from penstock.tasks.codec import UntypedCodec
from penstock.tasks.handle import Handle

_ID = "QUEUE:KEY"


@click.command("info")
@click.argument("id", metavar=_ID)
@with_broker
def info(broker: Broker, id: str) -> None:
    """Show where a task is: state, times, attempts, worker, error.

    Exit code 1 if there is no such task: it was never sent, or its record has expired.
    """
    found = broker.results.record(id).info()
    if output.wants_json():
        output.print_json(found)
    else:
        output.print_fields(_fields(found))


def _fields(found: TaskInfo) -> list[tuple[str, object]]:
    return [
        ("id", found.id),
        ("task", found.name),
        ("state", found.state),
        ("queue", f"{found.queue} ({found.priority})"),
        ("attempt", found.attempt),
        # 1 is the delivery that runs: worth a line only after a crash.
        ("deliveries", found.deliveries if found.deliveries > 1 else None),
        ("enqueued", found.enqueued_at),
        ("due", found.due_at),
        ("started", found.started_at),
        ("finished", found.finished_at),
        ("worker", found.worker),
        ("error", found.error),
    ]


@click.command("result")
@click.argument("id", metavar=_ID)
@click.option(
    "--wait", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help="Wait for the task's end. Default: do not."
)
@with_broker
def result(broker: Broker, id: str, wait: float) -> None:
    """Print a task's result, as JSON.

    Exit code 1 if there is none: the task failed (its error is shown), has not ended, or kept none.
    """
    handle = Handle(id, broker.results, UntypedCodec("?").decode_result)
    output.print_json(handle.get(timeout=wait))


@click.command("cancel")
@click.argument("ids", nargs=-1, required=True, metavar=f"{_ID}...")
@with_broker
def cancel(broker: Broker, ids: tuple[str, ...]) -> None:
    """Cancel tasks, wherever they are.

    What is scheduled or queued ends at once, what runs is stopped by its worker. A task that has
    ended stays as it is. Exit code 1 if one of them is not known.
    """
    outcomes = [(id, _cancel(broker, id)) for id in ids]
    if output.wants_json():
        output.print_json([{"id": id, "outcome": outcome} for id, outcome in outcomes])
    else:
        output.print_fields(outcomes)
    if any(outcome == "not found" for _, outcome in outcomes):
        click.get_current_context().exit(NO_SUCCESS)


def _cancel(broker: Broker, id: str) -> str:
    try:
        answer = broker.results.cancel(id)
    except TaskNotFound:
        return "not found"
    if answer.ended:
        return "cancelled"
    return "cancelling" if answer.requested else "had ended already"
