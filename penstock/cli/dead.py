"""`penstock dead`: list, show and redrive what has failed for good."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from penstock.cli import output
from penstock.cli.broker import Broker, with_broker
from penstock.cli.invocation import refuse
from penstock.cli.printable import printable
from penstock.settings import check_name
from penstock.tasks.codec import POSITIONAL
from penstock.tasks.deadletters import DeadLetter
from penstock.tasks.results import split_id

#: Sent by one call of the redriving script, which holds the server for as long as it takes.
_BATCH = 1000


@click.group("dead")
def dead() -> None:
    """Look at dead letters (tasks that failed for good), and send them again.

    \b
    Examples:
      penstock dead list -Q mail
      penstock dead show mail:receipt-42
      penstock dead redrive mail:receipt-42 mail:receipt-43
      penstock dead redrive --all -Q mail
    """


@dead.command("list")
@click.option("-Q", "--queue", metavar="NAME", help="Default: all queues.")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="The newest N of each."
)
@with_broker
def list_(broker: Broker, queue: str | None, limit: int) -> None:
    """List dead letters, the newest first."""
    names = broker.queues() if queue is None else [check_name("queue", queue)]
    letters = [letter for name in names for letter in broker.dead_letters(name).list(limit)]
    if output.wants_json():
        output.print_json([_as_json(letter) for letter in letters])
        return
    columns = ["id", "task", "reason", "attempts", "died", "error"]
    output.print_table(columns, [_row(letter) for letter in letters], "no dead letters")


def _row(letter: DeadLetter) -> list[object]:
    died, error = output.clock(letter.died_at, "seconds"), output.shortened(letter.error)
    return [letter.id, letter.name, letter.reason, letter.attempts, died, error]


@dead.command("show")
@click.argument("id", metavar="QUEUE:KEY")
@with_broker
def show(broker: Broker, id: str) -> None:
    """Show one dead letter: why it failed, with its traceback and its arguments."""
    letter = broker.dead_letters(split_id(id)[0]).get(id)
    if output.wants_json():
        output.print_json(_as_json(letter))
        return
    output.print_fields(_fields(letter))
    if letter.traceback:
        click.echo(f"\n{printable(letter.traceback.rstrip())}")


def _fields(letter: DeadLetter) -> list[tuple[str, object]]:
    return [
        ("id", letter.id),
        ("task", letter.name),
        ("reason", letter.reason),
        ("error", letter.error),
        ("attempts", letter.attempts),
        ("died", letter.died_at),
        ("worker", letter.worker),
        ("arguments", "(cannot be decoded)" if letter.args is None else _arguments(letter.args)),
    ]


def _arguments(args: Any) -> str:
    """``42, copy=True``: positional ones are kept together under one name."""
    if not isinstance(args, dict):
        return repr(args)
    positional = args.get(POSITIONAL, [])
    named = [f"{name}={value!r}" for name, value in args.items() if name != POSITIONAL]
    return ", ".join([repr(value) for value in positional] + named)


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    fields = msgspec.structs.asdict(letter)
    del fields["message"]
    return fields


@dead.command("redrive")
@click.argument("ids", nargs=-1, metavar="[QUEUE:KEY]...")
@click.option("--all", "all_", is_flag=True, help="All dead letters of the queue given by -Q.")
@click.option("-Q", "--queue", metavar="NAME", help="With --all: the queue.")
@with_broker
def redrive(broker: Broker, ids: tuple[str, ...], all_: bool, queue: str | None) -> None:
    """Send dead letters again, as new: no attempts spent, no crashes counted."""
    if bool(ids) == all_ or all_ != (queue is not None):
        refuse("name the ids of dead letters, or use --all with -Q QUEUE")
    sent = _redrive_all(broker, check_name("queue", queue)) if queue else _redrive(broker, ids)
    if output.wants_json():
        output.print_json({"redriven": sent})
    else:
        click.echo(f"{sent} sent again")


def _redrive(broker: Broker, ids: tuple[str, ...]) -> int:
    by_queue: dict[str, list[str]] = {}
    for id in dict.fromkeys(ids):
        by_queue.setdefault(split_id(id)[0], []).append(id)
    return sum(broker.dead_letters(name).redrive(*found) for name, found in by_queue.items())


def _redrive_all(broker: Broker, queue: str) -> int:
    """As many as there are now: those that fail again meanwhile are not sent a second time."""
    left = broker.stats(queue).dead
    sent = 0
    while left > 0:
        done = broker.dead_letters(queue).redrive(limit=min(left, _BATCH))
        if not done:
            break
        sent, left = sent + done, left - done
    return sent
