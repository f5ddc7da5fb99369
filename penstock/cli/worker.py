"""`penstock worker`. The same command line makes the supervisor and, started by it, each worker process."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import click
import msgspec

from penstock.app import App
from penstock.cli import apps, logs
from penstock.cli.invocation import WRONG_USE, Fault, Names, Size, app_option, invocation
from penstock.consumers import supervisor
from penstock.consumers.lifeline import Lifeline
from penstock.consumers.worker import Worker, WorkerOptions, slot_sizes
from penstock.errors import PenstockError
from penstock.settings import Settings, did_you_mean, load_settings

try:
    from uvloop import new_event_loop
except ImportError:  # Windows, PyPy: asyncio's own
    new_event_loop = None  # type: ignore[assignment]

log = logging.getLogger("penstock.worker")

_LEVEL, _FORMAT = "PENSTOCK_LOG_LEVEL", "PENSTOCK_LOG_FORMAT"
#: As Python sets it; and new objects between two looks of the garbage collector.
_GC_DEFAULT, _GC_EVERY = gc.get_threshold(), 10_000
#: Options that are settings of the app.
_SETTINGS = ("concurrency", "threads", "processes", "grace", "lease", "strict", "strict_server")


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """The command's options; None: as the app says."""

    queues: tuple[tuple[str, ...], ...]
    workers: int
    burst: bool
    max_tasks: int
    max_rss: int
    log_level: str
    log_format: logs.LogFormat
    concurrency: int | None
    threads: int | None
    processes: int | None
    grace: float | None
    lease: float | None
    strict: bool | None
    strict_server: bool | None
    metrics_port: int | None
    metrics_host: str

    def options(self) -> WorkerOptions:
        """What one worker does."""
        queues = tuple(dict.fromkeys(name for names in self.queues for name in names))
        burst: Any = "ready" if self.burst else ""
        return WorkerOptions(queues=queues, burst=burst, max_tasks=self.max_tasks, max_rss=self.max_rss)

    def over(self, settings: Settings) -> Settings:
        """The app's settings with those of the command line."""
        given = {name: value for name in _SETTINGS if (value := getattr(self, name)) is not None}
        return load_settings({**msgspec.structs.asdict(settings), **given}, {})


@click.command("worker", short_help="Run tasks.")
@app_option
@click.option(
    "-Q", "--queues", type=Names(), multiple=True, metavar="NAMES", envvar="PENSTOCK_QUEUES", show_envvar=True,
    help="Queues to serve, separated by commas. Default: those of the app's tasks.",
)  # fmt: skip
@click.option(
    "-c", "--concurrency", type=click.IntRange(1), metavar="N", help="Async tasks at the same time. Default: 100."
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads for plain functions. Default: cores + 4.")
@click.option(
    "--processes", type=click.IntRange(1), metavar="N",
    help='Processes for run="process" tasks, started when needed. Default: one for each core.',
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    envvar="PENSTOCK_WORKERS", show_envvar=True,
    help="Worker processes. Each has all the slots above.",
)  # fmt: skip
@click.option("--burst", is_flag=True, help="End when nothing is ready; what is scheduled for later is not waited for.")
@click.option(
    "--grace", type=click.FloatRange(0), metavar="SECONDS",
    help="How long running tasks may go on after SIGTERM; the rest is handed back. Default: 20.",
)  # fmt: skip
@click.option(
    "--lease", type=click.FloatRange(0), metavar="SECONDS",
    help="How long a crashed worker keeps its tasks from others. Default: 15.",
)  # fmt: skip
@click.option(
    "--strict/--no-strict", default=None,
    help="Always empty the higher priority first. Default: weighted, so that none starves.",
)  # fmt: skip
@click.option(
    "--strict-server/--no-strict-server", default=None,
    help="Do not start on a server that deletes keys when its memory is full. Default: warn.",
)  # fmt: skip
@click.option(
    "--max-tasks", type=click.IntRange(0), default=0, metavar="N", envvar="PENSTOCK_MAX_TASKS", show_envvar=True,
    help="Replace a worker process after so many tasks.",
)  # fmt: skip
@click.option(
    "--max-rss", type=Size(), default=0, metavar="SIZE", envvar="PENSTOCK_MAX_RSS", show_envvar=True,
    help="Replace a worker process that uses so much memory: 500M, 2G.",
)  # fmt: skip
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), metavar="PORT",
    envvar="PENSTOCK_METRICS_PORT", show_envvar=True,
    help="Serve /metrics, /livez and /readyz of each worker process: the first at PORT, the next at PORT + 1, ... "
    "Default: not at all; `penstock exporter` needs none of it.",
)  # fmt: skip
@click.option(
    "--metrics-host", default="0.0.0.0", show_default=True, metavar="HOST",
    envvar="PENSTOCK_METRICS_HOST", show_envvar=True,
    help="Address for --metrics-port.",
)  # fmt: skip
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    envvar=_LEVEL,
    show_envvar=True,
)
@click.option(
    "--log-format", type=click.Choice(("text", "json")), default="text", show_default=True,
    envvar=_FORMAT, show_envvar=True,
    help="json: one object per line, with task_id, task_name, attempt and worker.",
)  # fmt: skip
@click.pass_context
def worker(ctx: click.Context, /, **given: Any) -> None:
    """Run tasks: worker processes under a supervisor that restarts what dies.

    SIGTERM or Ctrl-C: running tasks get the grace period to finish, and the rest is handed back to
    the queue at once. A second one: everything is handed back now.

    \b
    Examples:
      penstock -A shop.tasks:app worker
      penstock -A shop.tasks:app worker -Q mail,default -c 200 --workers 2
      penstock -A shop.tasks:app worker --burst             for cron, or a test
      penstock -A shop.tasks:app worker --max-rss 500M --log-format json

    The other options of an app are variables: PENSTOCK_URL, PENSTOCK_NAMESPACE, PENSTOCK_RESULT_TTL, ...
    """
    arguments = Arguments(**given)
    lifeline = Lifeline.from_environment()
    logs.configure(arguments.log_level, arguments.log_format)
    name = apps.app_name(ctx)
    if lifeline.is_supervised:
        ctx.exit(_work(name, arguments, lifeline))
    ctx.exit(supervisor.run(invocation(ctx).argv, arguments.workers, burst=arguments.burst))


def configure_child() -> None:
    """Logs of a child process that runs process tasks: as its worker's."""
    logs.configure(os.environ.get(_LEVEL, "info"), "json" if os.environ.get(_FORMAT) == "json" else "text")


def _relieve_collector() -> None:
    """What the imports have made stays: the collector need not pass over it. And one run for some hundred tasks in
    place of one for each twenty takes a tenth less of a small task's time. Who has set it otherwise knows better."""
    gc.freeze()
    if gc.get_threshold() == _GC_DEFAULT:
        gc.set_threshold(_GC_EVERY, *_GC_DEFAULT[1:])


def _work(name: str, arguments: Arguments, lifeline: Lifeline) -> int:
    """Be one worker process; the exit code."""
    follows = lifeline.follow()
    os.environ.update({_LEVEL: arguments.log_level, _FORMAT: arguments.log_format})  # for `configure_child`
    app = apps.find_app(name)
    apps.load(app)
    settings = arguments.over(app.settings)
    lifeline.grace(settings.grace)
    worker: Worker | None = None

    async def run() -> None:
        nonlocal worker
        worker = app.worker(
            arguments.options(),
            lifeline=lifeline,
            initializer=(__name__, configure_child.__name__),
            **msgspec.structs.asdict(settings),
        )
        _introduce(app, worker, settings, lifeline.number)
        _listen(worker.stop, None if follows else lifeline.fd)
        if arguments.metrics_port is not None:
            # Loaded by those only who want it: prometheus_client would make each start slower.
            from penstock.metrics.local import LocalEndpoint

            LocalEndpoint(worker.status, arguments.metrics_host, arguments.metrics_port + lifeline.number).start()
        await worker.run()

    _relieve_collector()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(run())
    except Exception as error:
        cause = _innermost(error)
        if isinstance(cause, PenstockError) and (worker is None or not worker.ready.is_set()):
            raise Fault(str(cause), WRONG_USE) from error
        log.critical("the worker failed", exc_info=cause)
        return 1
    return 0


def _listen(stop: Callable[[], object], pipe: int | None) -> None:
    """Call `stop` on SIGTERM and SIGINT, and when the supervisor's end of `pipe` is closed."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    def hung_up(fd: int) -> None:
        loop.remove_reader(fd)
        stop()

    if pipe is not None:
        loop.add_reader(pipe, hung_up, pipe)


def _introduce(app: App, worker: Worker, settings: Settings, number: int) -> None:
    """One line that says what runs here; the first worker speaks for all."""
    sizes = slot_sizes(settings)
    slots = f"{sizes['async']} async, {sizes['thread']} threads, {sizes['process']} processes"
    level = logging.INFO if number == 0 else logging.DEBUG
    queues, names = ", ".join(worker.queues), sorted(app.tasks)
    where = app.connector.display
    log.log(level, "app %s at %s, queues: %s; %d tasks; slots: %s", app.name, where, queues, len(names), slots)
    log.debug("tasks: %s", ", ".join(names))
    if not names:
        log.warning("no task is registered: the app's module imports none (App(imports=[...]), or app.autodiscover())")
    known = {task.config.queue for task in app.tasks.values()}
    for queue in worker.queues:
        if names and queue not in known and number == 0:
            log.warning("no task has the queue %r%s", queue, did_you_mean(queue, known))


def _innermost(error: BaseException) -> BaseException:
    """The one error inside task groups."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
