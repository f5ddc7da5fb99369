"""Asks the server and the queues, and shows the verdicts."""

from __future__ import annotations

import click
import msgspec

from penstock.cli import output
from penstock.cli.broker import Broker, with_broker
from penstock.cli.doctor.verdicts import STUCK_LEASES, Check, QueueFacts, judge_queues, judge_server, worst
from penstock.consumers.heartbeat import GONE_AFTER, WorkerInfo
from penstock.errors import BrokerError, PermissionDenied
from penstock.streams import inspect
from penstock.streams.examine import examine
from penstock.streams.rights import PRODUCER, ROLES, WORKER

_decode = msgspec.msgpack.Decoder(WorkerInfo).decode


@click.command("doctor")
@click.option(
    "--role", "roles", multiple=True, type=click.Choice(tuple(ROLES)), metavar="ROLE",
    help=f"Which rights the user must have: {', '.join(ROLES)}; may be repeated. Default: producer and worker.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Warnings, too, end with exit code 1.")
@with_broker
@click.pass_context
def doctor(ctx: click.Context, broker: Broker, roles: tuple[str, ...], strict: bool) -> None:
    """Check the server, the user's rights and the queues, and say what to do.

    ok: as it should be. warn: tasks wait, or could be lost in a crash, or a check could not be made.
    fail: tasks will be lost or cannot be run. Nothing is changed.

    \b
    Exit code: 0 if nothing failed, 1 if something did (with --strict: or was warned of), 2 wrong use.

    \b
    Examples:
      penstock doctor
      penstock doctor --url redis://localhost --strict && deploy
      penstock doctor --role producer --json        run it as the user that the producers have
    """
    wanted = [ROLES[name] for name in roles] or [PRODUCER, WORKER]
    try:
        names, checks = _queues(broker)
        servers = examine(broker.connector, broker.settings.namespace, names, wanted)
        checks = [check for server in servers for check in judge_server(server, len(servers) > 1)] + checks
        checks += _queue_checks(broker, names)
    except BrokerError as error:
        checks = [Check("connection", "fail", str(error), "start the server, or name another one by --url")]
    verdict = worst(checks)
    if output.wants_json():
        said = {"verdict": verdict, "server": broker.connector.display, "namespace": broker.settings.namespace}
        output.print_json({**said, "checks": [msgspec.structs.asdict(check) for check in checks]})
    else:
        rows = [[check.verdict, check.name, check.where, check.seen, check.advice] for check in checks]
        output.print_table(["", "check", "where", "seen", "what to do"], rows, "")
    ctx.exit(1 if verdict == "fail" or (strict and verdict == "warn") else 0)


def _queues(broker: Broker) -> tuple[list[str], list[Check]]:
    try:
        return broker.queues(), []
    except PermissionDenied as error:
        return [], [Check("queues", "warn", f"their names are unknown: {error}", "give this user +smembers")]


def _queue_checks(broker: Broker, names: list[str]) -> list[Check]:
    try:
        return judge_queues(_facts(broker, names))
    except PermissionDenied as error:
        return [Check("queues", "warn", f"they cannot be looked at: {error}", "see inspector in docs/security.md")]


def _facts(broker: Broker, names: list[str]) -> list[QueueFacts]:
    """What each queue holds, and who serves it."""
    served: set[str] = set()
    lease = broker.settings.lease
    for heard in broker.run(inspect.workers(broker.settings.namespace)):
        try:
            info = _decode(heard.about)
        except msgspec.DecodeError:  # its own key has expired, or it is of another version
            continue
        lease = max(lease, info.lease)
        if heard.ago < GONE_AFTER:
            served.update(info.queues)
    return [
        QueueFacts(
            stats=broker.stats(name),
            stuck=broker.run(inspect.stuck(broker.base(name), STUCK_LEASES * lease)),
            lease=lease,
            served=name in served,
        )
        for name in names
    ]
