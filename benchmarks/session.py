"""One run: a new server, a folder for time stamps, producers and workers of one peer. All of it is gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import processes
from benchmarks.errors import BenchError
from benchmarks.servers import RedisServer

Config = dict[str, Any]
Answer = dict[str, Any]

_ADAPTERS = Path(__file__).parent / "adapters"
#: A file there is memory: stamping the time costs about 1 us.
_SHARED_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
#: Seconds that a producer may take, and that a worker has to end by itself.
_CLIENT_WITHIN, _STOP_WITHIN = 300.0, 10.0
#: Seconds that a worker has until its first task runs.
START_WITHIN = 30.0
_STAMP = 8


@dataclass
class Peer:
    """One of those that are measured, penstock too."""

    name: str
    python: Path
    #: `About` of its adapter, and its versions.
    about: Answer = field(default_factory=dict)

    @property
    def clients(self) -> list[str]:
        """Kinds of producer: async, sync."""
        return list(self.about["clients"])

    def learn(self) -> None:
        """Ask its adapter. Raises `BenchError`."""
        self.about = _client(self, {"action": "about"}, _environment(self, "", {}, False))


class Session:
    """A context manager."""

    def __init__(self, peer: Peer, config: Config | None = None, store_results: bool = False) -> None:
        self.peer = peer
        self._config = config or {}
        self._store_results = store_results
        self._stack = ExitStack()
        self._workers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=_SHARED_MEMORY))
            self.server = stack.enter_context(RedisServer())
            self._folder = Path(folder)
            self._env = {
                **_environment(self.peer, self.server.url, self._config, self._store_results),
                "BENCH_FOLDER": folder,
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            for worker in self._workers:
                processes.end(worker)

    def client(self, action: str, **request: Any) -> Answer:
        """Run a producer, and give what it measured. Raises `BenchError`."""
        return _client(self.peer, {"action": action, **request}, self._env)

    def bare(self, action: str, n: int) -> Answer:
        """Run redis-py without a framework."""
        return self.python("bare.py", json.dumps({"action": action, "n": n}))

    def alone(self, action: str, **request: Any) -> Answer:
        """Run a producer that does what is asked of penstock alone."""
        return self.python("alone.py", json.dumps({"action": action, **request}))

    def python(self, *arguments: str) -> Answer:
        """Run the peer's Python; the last line that it prints is JSON. Raises `BenchError`."""
        return _run(self.peer, [self.peer.python, *arguments], self._env)

    def keep_bytecode(self) -> None:
        """Let what is run from now on write what it compiled, as an installer has done for a user."""
        del self._env["PYTHONDONTWRITEBYTECODE"]

    def start_worker(self) -> None:
        """One more."""
        fill = {**self._config, "bin": self.peer.python.parent, "number": len(self._workers)}
        argv = [part.format(**fill) for part in self.peer.about["worker"]] or ["worker.py", self.peer.name]
        with open(self._folder / "worker.log", "a") as log:
            worker = processes.start([self.peer.python, *argv], folder=_ADAPTERS, env=self._env, out=log, err=log)
        self._workers.append(worker)

    def stop_workers(self) -> None:
        """Let them end by themselves; what they hold on the server goes with them."""
        for worker in self._workers:
            processes.end(worker, grace=_STOP_WITHIN)
        self._workers.clear()

    def check_workers(self) -> None:
        """Raises `BenchError` if one has ended."""
        if any(processes.has_ended(worker) for worker in self._workers):
            raise BenchError(f"{self.peer.name}: a worker ended by itself. {self.log()}")

    def pause_workers(self) -> None:
        """Stop their processes, but not the supervisors', so that a queue can be filled before a worker that is up."""
        self._signal(signal.SIGSTOP)

    def resume_workers(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            for pid in processes.descendants(worker.pid):
                os.kill(pid, number)

    def workers_memory(self) -> int | None:
        """Bytes of memory that the workers' children hold: a supervisor itself runs no tasks."""
        return processes.resident([pid for worker in self._workers for pid in processes.descendants(worker.pid)])

    def workers_cpu(self) -> float | None:
        """CPU seconds of all workers and their children."""
        return processes.cpu_seconds([worker.pid for worker in self._workers])

    def hits(self) -> int:
        """Tasks that have run."""
        try:
            return os.path.getsize(self._folder / "hits") // _STAMP
        except OSError:
            return 0

    def hit_times(self) -> list[int]:
        """When they ran, in ns."""
        return [moment for (moment,) in self._stamps("hits", "<Q")]

    def start_times(self) -> list[tuple[int, int]]:
        """Of the tasks `lat`: sent and begun, in ns."""
        return [(sent, begun) for sent, begun in self._stamps("starts", "<QQ") if sent]

    def log(self) -> str:
        """The end of what the workers said."""
        try:
            return "It said: " + (self._folder / "worker.log").read_text(errors="replace")[-1500:].strip()
        except OSError:
            return ""

    def wait_for_first(self, hits: int = 1) -> None:
        """Wait until a worker is up and has run what is queued. Raises `BenchError`."""
        if not self.wait_for(hits, START_WITHIN):
            raise BenchError(f"{self.peer.name}: no task ran within {START_WITHIN:.0f} s. {self.log()}")

    def wait_for(self, tasks: int, within: float, count: Callable[[], int] | None = None) -> bool:
        """Wait until so many tasks have run; False if it takes longer, or if nothing happens for 20 s.

        `count` tells how many have; by default `hits`.
        """
        count = count or self.hits
        begin = changed = time.monotonic()
        seen = count()
        while seen < tasks:
            time.sleep(0.01)
            now, last, seen = time.monotonic(), seen, count()
            if seen != last:
                changed = now
            if now - begin > within or now - changed > 20:
                return False
            self.check_workers()
        return True

    def _stamps(self, name: str, layout: str) -> Iterator[tuple[int, ...]]:
        try:
            return struct.iter_unpack(layout, (self._folder / name).read_bytes())
        except OSError:
            return iter(())


def _environment(peer: Peer, url: str, config: Config, store_results: bool) -> dict[str, str]:
    # The user's own settings are for the user's own app; PYTHON* could change an environment's modules.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "PYTHON", "REDIS_"))}
    return {
        **kept,
        "BENCH_URL": url,
        "BENCH_CONFIG": json.dumps(config),
        "BENCH_RESULTS": "on" if store_results else "",
        "PATH": f"{peer.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        # `-m` puts the working folder on the path, a program of the environment does not.
        "PYTHONPATH": str(_ADAPTERS),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
    }


def _client(peer: Peer, request: Answer, env: dict[str, str]) -> Answer:
    return _run(peer, [peer.python, "client.py", peer.name, json.dumps(request)], env)


def _run(peer: Peer, command: list[str | Path], env: dict[str, str]) -> Answer:
    # The answer is in a file: a pipe that a stray child keeps open would never end.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = processes.start(command, folder=_ADAPTERS, env=env, out=out, err=err)
        try:
            process.wait(_CLIENT_WITHIN)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{peer.name}: {command[-1]} took more than {_CLIENT_WITHIN:.0f} s") from None
        finally:
            processes.end(process)
        out.seek(0), err.seek(0)
        if process.returncode:
            raise BenchError(f"{peer.name}: {command[-1]} failed. It said: {err.read()[-1500:].strip()}")
        answer: Answer = json.loads(out.read().splitlines()[-1])
        return answer


def penstock() -> Peer:
    """The project itself, in the environment that runs the benchmark."""
    return Peer("penstock", Path(sys.executable))
