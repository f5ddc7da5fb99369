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
from typing import BinaryIO, NoReturn, Self

from penstock import App, PenstockError
from penstock.streams.clients import Clients
from penstock.streams.embedded import disconnect_embedded
from penstock.streams.inspect import workers as all_workers

WORKERS = 2
#: Seconds after which the others take over what a dead worker was at. Short, so that it is seen.
LEASE = 2
#: As one would type it.
COMMAND = f"penstock -A penstock.cli.demo.app:app worker --workers {WORKERS} --processes 2 --lease {LEASE}"
#: Seconds in which a worker starts, on a machine that has much else to do.
_START_WITHIN = 30.0
#: Seconds that the workers have to end. They have nothing left to do, unless the demo was interrupted.
_END_WITHIN = 5.0
#: Seconds between two looks at who is there.
_LOOK = 0.05


class StageError(PenstockError):
    """The workers did not start, or ended, though nobody asked them to."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for an embedded server, removed when the server has stopped."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    try:
        yield folder
    finally:
        disconnect_embedded(str(folder))
        # The server's guardian holds this lock for its life. Else the server would write into the
        # folder while it is being removed.
        with open(folder / "guardian", "ab") as guardian:
            fcntl.flock(guardian, fcntl.LOCK_EX)
        shutil.rmtree(folder)


@asynccontextmanager
async def worker_processes(url: str, log: BinaryIO) -> AsyncIterator[Process]:
    """Two workers and their supervisor, whose process this gives; in the end they are stopped as by Ctrl-C."""
    # The user's own settings are for the user's own app.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *COMMAND.split()),
        # PYTHONWARNINGS: the library's tests have invalid escapes on purpose.
        env={**environment, "PENSTOCK_URL": url, "PYTHONWARNINGS": "ignore"},
        stdin=DEVNULL,
        stdout=log,
        stderr=log,
        # A Ctrl-C in the terminal reaches the demo only, which then stops them in order.
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
                os.killpg(supervisor.pid, signal.SIGKILL)  # whoever is left of the session started above


async def lost(supervisor: Process, log: BinaryIO) -> NoReturn:
    """Wait for an end that nobody asked for, and raise what the log says of it."""
    code = await supervisor.wait()
    raise StageError(f"the workers have ended, with status {code}:\n{_tail(log)}")


def _tail(log: BinaryIO) -> str:
    return Path(log.name).read_text("utf-8", "replace")[-2000:].strip()


class Roster:
    """Which workers there are, by their heartbeats."""

    def __init__(self, app: App) -> None:
        self._clients = Clients(app.connector)
        self._namespace = app.settings.namespace
        #: Names of all workers that were seen.
        self.known: list[str] = []

    async def newcomer(self) -> str:
        """The next worker that is ready and was not known before. Raises `StageError` if none comes."""
        try:
            async with asyncio.timeout(_START_WITHIN):
                while True:
                    for heard in await self._clients.of_loop.run(all_workers(self._namespace)):
                        if heard.consumer not in self.known:
                            self.known.append(heard.consumer)
                            return heard.consumer
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            raise StageError(f"no worker was ready within {_START_WITHIN:g} s") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._clients.aclose()


def pid_of(worker: str) -> int:
    """The process id in a worker's name, ``host:pid:random``."""
    return int(worker.rsplit(":", 2)[1])
