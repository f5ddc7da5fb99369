"""`penstock demo`."""

from __future__ import annotations

import asyncio
import platform
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import click

from penstock import App
from penstock.cli import output
from penstock.cli.demo.corpus import Corpus, standard_library
from penstock.cli.demo.report import Ledger, Report
from penstock.cli.demo.screen import Screen
from penstock.cli.demo.stage import COMMAND, WORKERS, Roster, lost, pid_of, scratch_folder, worker_processes
from penstock.cli.demo.story import Story
from penstock.cli.demo.tasks import tasks
from penstock.cli.invocation import Fault

T = TypeVar("T")

#: Modules that the report names.
_TOP = 10


@click.command("demo")
@click.option(
    "--json", is_flag=True, expose_value=False, callback=output.choose, help="Print a report as JSON, and nothing else."
)
@click.option("--limit", type=click.IntRange(10), metavar="N", help="Only N files, evenly picked. Default: all.")
@click.pass_context
def demo(ctx: click.Context, limit: int | None) -> None:
    """Index Python's standard library with two workers, and kill one on the way.

    Starts a server of its own in a temporary folder and two worker processes; sends a task for each
    module; halfway kills a worker by SIGKILL; shows that no file is missing. Files that do not parse
    end as dead letters. Nothing is left behind, also after Ctrl-C. The exit code is 1 if a file is missing.
    """
    screen = Screen(quiet=output.wants_json())
    try:
        with scratch_folder() as folder, open(folder / "workers.log", "wb") as log:
            report = asyncio.run(_run(folder, log, limit or 0, screen))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Fault("stopped; server, workers and folder are gone", exit_code=130) from None
    screen.show(report)
    if output.wants_json():
        output.print_json(report)
    ctx.exit(1 if report.problems else 0)


async def _run(folder: Path, log: BinaryIO, limit: int, screen: Screen) -> Report:
    """Set the stage, have the story told, clear the stage, and report."""
    began = time.monotonic()
    _end_by_signals()
    corpus = standard_library(folder, limit)
    screen.title(f"Indexing the standard library of Python {platform.python_version()}, {corpus.root}")
    if corpus.broken is not None:
        screen.say(f"all of it parses, so one more file was written that does not: {corpus.broken.name}")
    url = f"embedded://{folder}"
    async with App("demo", url=url, namespace="demo") as app, worker_processes(url, log) as supervisor:
        app.include(tasks)
        ledger = await _unless(lost(supervisor, log), _tell(app, corpus, screen))
    return ledger.report(
        library=str(corpus.root),
        broken=corpus.broken.name if corpus.broken is not None else None,
        wall=time.monotonic() - began,
        top=_TOP,
    )


def _end_by_signals() -> None:
    """Have SIGTERM and SIGHUP clear everything away, as asyncio.run does for Ctrl-C."""
    main = asyncio.current_task()
    assert main is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, main.cancel)


async def _tell(app: App, corpus: Corpus, screen: Screen) -> Ledger:
    screen.say(f"a server of its own, {app.connector.display}")
    screen.say(f"$ {COMMAND}")
    async with Roster(app) as roster:
        names = [await roster.newcomer() for _ in range(WORKERS)]
        screen.workers(names)
        screen.say(f"workers {' and '.join(str(pid_of(name)) for name in names)} are ready")
        return await Story(app, roster, screen).tell(corpus)


async def _unless(accident: Coroutine[Any, Any, NoReturn], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; if `accident` raises before, that error."""
    both = (asyncio.create_task(accident), asyncio.create_task(work))
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return await both[0] if both[0].done() else await both[1]
    finally:
        for task in both:
            task.cancel()
        await asyncio.wait(both)
