"""The kill storm: thousands of tasks of all kinds, and workers that are killed while they run.

    python -m tests.chaos.storm                                    about a minute on two cores
    python -m tests.chaos.storm --tasks 1000000 --seconds 1800     the long run: about 0.5 GB in the server

Exit code 1 if anything was lost, ended twice or was left over, or if a kind of fault did not take place.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from penstock import App
from penstock.tasks.task import Signature
from tests.chaos import storm_tasks
from tests.chaos.storm_check import Runs, check, ended, summary
from tests.chaos.storm_faults import MAX_CLIENTS, Faults
from tests.chaos.storm_report import Report
from tests.chaos.storm_tasks import FOLDER, LEASE, Plan, plan, plans
from tests.servers import DEFAULT, SERVERS, Server, die_with_parent

#: Supervisors, and worker processes of each.
SUPERVISORS, WORKERS = 2, 2
#: Seconds between two faults: at random, from .. to.
PAUSE = (0.4, 1.6)
#: Seconds without any task ending after which something hangs.
PATIENCE = 60.0
#: Tasks sent at once.
BULK = 200
#: Of the seconds of faults, the share in which tasks are sent.
SENDING = 0.85


class Producer(threading.Thread):
    """Sends all tasks, evenly over time, and cancels those that are to be cancelled."""

    def __init__(self, app: App, seed: int, total: int, seconds: float) -> None:
        super().__init__(name="producer", daemon=True)
        self._app = app
        self._seed = seed
        self._total = total
        self._seconds = seconds
        self._doomed: list[tuple[float, Plan]] = []
        self._chance = random.Random(seed)
        self.sent = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            since = time.monotonic()
            while self.sent < self._total or self._doomed:
                due = min(self._total, int((time.monotonic() - since) / self._seconds * self._total) + 1)
                while self.sent < due:
                    self._send(min(self._total, self.sent + BULK))
                self._cancel()
                time.sleep(0.02)  # poll: until more is due
        except BaseException as error:
            self.failure = error

    def _send(self, until: int) -> None:
        batch = [plan(self._seed, n) for n in range(self.sent, until)]
        self._app.bulk([self._signature(each) for each in batch])
        self._doomed += [(time.monotonic() + self._chance.uniform(0, 2), each) for each in batch if each.ends == "c"]
        self.sent = until

    def _signature(self, each: Plan) -> Signature[object]:
        task = self._app.tasks[each.name].options(
            id=each.key, priority=each.priority, delay=each.delay or None  # type: ignore[arg-type]
        )  # fmt: skip
        return task.s(each.n, *each.args)

    def _cancel(self) -> None:
        now = time.monotonic()
        for at, each in [d for d in self._doomed if d[0] <= now]:
            if not self._app.tasks["doomed"].handle(each.key).cancel():
                raise AssertionError(f"task {each.n} does not end by itself, and could not be cancelled")
            self._doomed.remove((at, each))


@contextmanager
def supervisors(url: str, namespace: str, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Workers as users start them. At the end they are stopped in order."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "REDIS_"))}
    variables |= {"PENSTOCK_URL": url, "PENSTOCK_NAMESPACE": namespace, FOLDER: str(folder)}
    command = [sys.executable, "-m", "penstock", "-A", "tests.chaos.storm_app:app", "worker"]
    command += ["--workers", str(WORKERS), "-c", "40", "--threads", "4", "--processes", "1", "--log-level", "warning"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(SUPERVISORS):
            with (folder / f"supervisor-{number}.log").open("wb") as log:
                process = subprocess.Popen(
                    command,
                    env=variables,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).parents[2],
                    preexec_fn=die_with_parent,
                )
            started.append(process)
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(40)
            process.kill()
            process.wait()


class Storm:
    """One storm on a server of its own."""

    def __init__(self, options: argparse.Namespace, folder: Path, console: Console) -> None:
        self._options = options
        self._folder = folder
        self._console = console
        self._namespace = f"storm-{secrets.token_hex(4)}"
        binary = SERVERS.get(options.server)
        if binary is None:
            raise SystemExit(
                f"{options.server} is not installed; there are {', '.join(n for n in SERVERS if SERVERS[n])}"
            )
        self._server = Server(binary, folder / "server", "--maxclients", str(MAX_CLIENTS)).start()

    def run(self) -> Report:
        try:
            with self._server.client(socket_timeout=60) as raw:
                return self._run(raw)
        finally:
            self._server.kill()

    def _run(self, raw: redis.Redis) -> Report:
        o, since = self._options, time.monotonic()
        app = App("storm", url=self._server.url, namespace=self._namespace, **storm_tasks.SETTINGS)
        app.include(storm_tasks.tasks)
        faults = Faults(raw, self._namespace, o.seed)
        with supervisors(self._server.url, self._namespace, self._folder):
            producer = Producer(app, o.seed, o.tasks, o.seconds * SENDING)
            producer.start()
            stormed = self._blow(raw, faults, producer, since)
            took = time.monotonic() - since
        app.close()
        verdict = check(raw, self._namespace, plans(o.seed, o.tasks), Runs(self._folder, o.tasks), faults.struck)
        if producer.failure is not None:
            verdict.violations.append(f"producer: {type(producer.failure).__name__}: {producer.failure}")
        version = raw.info("server")
        return Report(
            seed=o.seed,
            tasks=o.tasks,
            server=f"{o.server} ({version.get('valkey_version') or version['redis_version']})",
            python=platform.python_version(),
            cores=os.cpu_count() or 1,
            workers=SUPERVISORS * WORKERS,
            lease=LEASE,
            stormed=stormed,
            took=took,
            memory=int(raw.info("memory")["used_memory_peak"]),
            faults=faults.struck,
            verdict=verdict,
        )

    def _blow(self, raw: redis.Redis, faults: Faults, producer: Producer, since: float) -> float:
        """Strike until the time is over, then wait for the end of all tasks; seconds of faults."""
        chance = random.Random(self._options.seed + 1)
        total, stormed, done, moved = self._options.tasks, 0.0, 0, time.monotonic()
        strike_at = time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}/{task.total:,}")
        with Progress(
            *columns, TimeElapsedColumn(), TextColumn("{task.fields[faults]}"), console=self._console
        ) as bars:
            bar = bars.add_task("ended", total=total, faults="")
            while done < total and producer.failure is None:
                if time.monotonic() - since < self._options.seconds:
                    if time.monotonic() >= strike_at and len(faults.workers()) > 1:
                        faults.strike()
                        strike_at = time.monotonic() + chance.uniform(*PAUSE)
                elif not stormed:
                    stormed = time.monotonic() - since
                faults.wake(now=bool(stormed))
                now_done = ended(raw, self._namespace)
                moved = time.monotonic() if now_done != done else moved
                done = now_done
                if time.monotonic() - moved > PATIENCE:
                    break  # the check says what hangs
                counts, _ = summary(faults.struck)
                bars.update(bar, completed=done, faults=" ".join(f"{k} {n}" for k, n in sorted(counts.items())))
                time.sleep(0.05)  # poll
            faults.wake(now=True)
        producer.join(10)
        return stormed or time.monotonic() - since


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.storm", description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=20_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=45.0, metavar="S", help="of faults; default: %(default)s")
    parser.add_argument("--seed", type=int, default=None, metavar="K", help="default: a new one, which is printed")
    parser.add_argument("--server", default=DEFAULT, choices=sorted(SERVERS), help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--report", metavar="FILE", help="write the report as Markdown")
    options = parser.parse_args(arguments)
    options.seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    console = Console(stderr=True)
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    report = Storm(options, folder, console).run()
    if options.json:
        Path(options.json).write_bytes(report.json())
    if options.report:
        Path(options.report).write_text(report.markdown())
    print(report.markdown())
    if report.passed:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    console.print(f"logs and lines of the runs: {folder}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
