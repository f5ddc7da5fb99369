"""The `penstock` command itself: global options, and the list of commands."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from typing import Any, NamedTuple

import click

from penstock.cli.invocation import NO_SUCCESS, WRONG_USE, Fault, Invocation, app_option, invocation
from penstock.errors import ConfigurationError, PenstockError
from penstock.settings import did_you_mean


class Lazy(NamedTuple):
    """A command: the module that holds it under its own name, and its short help."""

    module: str
    help: str


#: In the order of the help. The short help stands here so that ``--help`` need not import them all.
COMMANDS = {
    "worker": Lazy("penstock.cli.worker", "Run tasks."),
    "demo": Lazy("penstock.cli.demo", "Index Python's standard library with two workers, and kill one on the way."),
    "queues": Lazy("penstock.cli.queues", "Show what each queue holds, and what became of its tasks."),
    "pause": Lazy("penstock.cli.queues", "Start nothing more of a queue, in no worker."),
    "resume": Lazy("penstock.cli.queues", "End a pause."),
    "workers": Lazy("penstock.cli.workers", "Show the workers that live, and what they do."),
    "exporter": Lazy("penstock.cli.exporter", "Serve the metrics of a namespace to Prometheus."),
    "metrics": Lazy("penstock.cli.exporter", "Print what the exporter would answer now."),
    "check": Lazy("penstock.cli.check", "Say whether workers of this host are alive: a probe."),
    "doctor": Lazy("penstock.cli.doctor", "Check the server, the user's rights and the queues."),
    "info": Lazy("penstock.cli.tasks", "Show where a task is: state, times, attempts, worker, error."),
    "result": Lazy("penstock.cli.tasks", "Print a task's result."),
    "cancel": Lazy("penstock.cli.tasks", "Cancel tasks, wherever they are."),
    "dead": Lazy("penstock.cli.dead", "Look at dead letters (tasks that failed for good), and send them again."),
}


class LazyGroup(click.Group):
    """Imports a command's module when it is used, and turns errors of penstock into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands of this installation."""
        return [name for name in COMMANDS if self._is_there(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is no such one."""
        if cmd_name not in COMMANDS or not self._is_there(cmd_name):
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name].module), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; an unknown name is answered with the one that was meant."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            known = self.list_commands(ctx)
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise Fault(f"no such command: {name!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].help) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PenstockError as error:
            code = WRONG_USE if isinstance(error, ConfigurationError) else NO_SUCCESS
            raise Fault(str(error), code) from error

    @staticmethod
    def _is_there(name: str) -> bool:
        return find_spec(COMMANDS[name].module) is not None


@click.group(
    "penstock",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=True,
)
@app_option
@click.version_option(package_name="penstock", message="penstock %(version)s")
@click.pass_context
def root(ctx: click.Context) -> None:
    """penstock: a task framework for Python on Redis Streams.

    \b
    Examples:
      penstock -A shop.tasks:app worker                     run all queues of an app's tasks
      penstock -A shop.tasks:app worker -Q mail -c 50 --workers 4
      penstock queues                                       what is waiting, running, dead
      penstock doctor                                       what is wrong with server, rights, queues
      penstock info mail:receipt-42                         one task
      penstock dead list -Q mail                            what has failed, and why
      penstock dead redrive mail:receipt-42                 send it again

    Commands other than `worker` need no code: without -A they look at --url (or PENSTOCK_URL,
    REDIS_URL, ...; else redis://localhost:6379/0) and --namespace (or PENSTOCK_NAMESPACE). All print
    JSON with --json. Every setting of an app has a variable, as PENSTOCK_LEASE=5.
    """
    invocation(ctx)


def main() -> None:
    """Run the command line of this process."""
    argv = sys.argv[1:]
    root.main(args=argv, prog_name="penstock", obj=Invocation(argv))
