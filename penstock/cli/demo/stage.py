"""What the demo runs on: a server in a temporary folder, and two worker processes. All of it is cleared away."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import click

from penstock.streams.embedded import disconnect_embedded

#: As it would be typed, but for the Python in front of it.
WORKER = "penstock -A penstock.cli.demo.app:app worker --workers 2 --threads 4"
#: Seconds that the workers have to end. They have nothing left to do, unless the demo was interrupted.
_END_WITHIN = 5.0


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for an embedded server, removed when the server has stopped."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    try:
        yield folder
    finally:
        disconnect_embedded(str(folder))
        # The server's guardian holds this lock for its life. Without it the server would write into
        # the folder while it is being removed.
        with open(folder / "guardian", "ab") as guardian:
            fcntl.flock(guardian, fcntl.LOCK_EX)
        shutil.rmtree(folder)


@asynccontextmanager
async def workers(url: str, log: Path) -> AsyncIterator[Process]:
    """Two worker processes and their supervisor, whose process this gives."""
    with open(log, "wb") as output:
        supervisor = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *WORKER.split()),
            # PYTHONWARNINGS: the library's tests have invalid escapes on purpose.
            env={**os.environ, "PENSTOCK_URL": url, "PYTHONWARNINGS": "ignore"},
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            # So that Ctrl-C reaches the demo only, which then stops them in order.
            start_new_session=True,
        )
    try:
        yield supervisor
    finally:
        try:
            with suppress(ProcessLookupError):
                supervisor.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(supervisor.wait(), _END_WITHIN)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(supervisor.pid, signal.SIGKILL)  # the session that was started above


async def workers_lost(supervisor: Process, log: Path) -> None:
    """Wait for an end of the supervisor that nobody asked for; raises what its log says."""
    code = await supervisor.wait()
    tail = log.read_text("utf-8", "replace")[-2000:].strip()
    raise click.ClickException(f"the workers ended with status {code}:\n{tail}")


def pid_of(worker: str) -> int:
    """The process id in a worker's name, ``host:pid:random``."""
    return int(worker.rsplit(":", 2)[1])
