"""The guardian of an embedded server: starts it, and stops it when its last user is gone.

Run as a program, ``_guardian.py DIR BINARY SOCKET``, with nothing but the standard library: it
starts in a tenth of the time, and holds on to no version of penstock. See `embedded` for the locks.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

#: How long a server may take until it listens; loading its data comes after that.
START_WITHIN = 30.0
#: How long it may take to end. After SIGTERM it only has to flush the AOF.
STOP_WITHIN = 60.0


class ServerEnded(Exception):
    """Raised out of whatever is going on when the server ends by itself."""


def main(folder: str, binary: str, path: str) -> None:
    """Guard one run of the server, from its start to its end."""
    if os.fork():
        os._exit(0)  # whoever started us waits for this process; the guardian belongs to init
    alone = lock(folder, "guardian")
    fcntl.flock(alone, fcntl.LOCK_EX)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A service manager sends SIGTERM to everybody. The server then ends by itself, and users
        # that are shutting down still need it until then. Not SIG_IGN, which exec passes on.
        signal.signal(name, lambda *_: None)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    server = start(folder, binary, path, libc)
    try:
        signal.signal(signal.SIGCHLD, server_ended)
        wait_for_start(server, path)
        write(folder, {"socket": path, "pid": server.pid})
        say("ready")
        if server.poll() is None:
            wait_for_users(folder)
            stop(server)
    except ServerEnded:
        server.wait()
        say(f"it ended with status {server.returncode}; see {folder}/server.log")
    finally:
        for leftover in (path, os.path.join(folder, "run.json")):
            if os.path.lexists(leftover):
                os.unlink(leftover)


def start(folder: str, binary: str, path: str, libc: ctypes.CDLL | None) -> subprocess.Popen[bytes]:
    """Start the server; it ends when the guardian dies, where the system can do that."""
    options = {
        "port": "0",
        "unixsocket": path,
        "unixsocketperm": "700",
        "dir": folder,
        "logfile": os.path.join(folder, "server.log"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    command = [binary, *(word for name, value in options.items() for word in (f"--{name}", value))]

    def die_with_guardian() -> None:
        # PR_SET_PDEATHSIG = 1. Elsewhere a server that has lost its guardian is replaced by the next.
        if libc is not None:
            libc.prctl(1, signal.SIGTERM)

    end_orphan(path)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Redis 7.0 and later refuse to start under a LANG that is not installed.
        env={**os.environ, "LC_ALL": "C"},
        preexec_fn=die_with_guardian,
    )


def end_orphan(path: str) -> None:
    """End a server whose guardian was killed: two servers on one AOF would spoil it."""
    deadline = time.monotonic() + STOP_WITHIN
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(5.0)
            try:
                client.connect(path)
                client.sendall(b"SHUTDOWN NOSAVE\r\n")  # flushes the AOF, and writes no RDB file
                client.recv(100)
            except OSError:
                return  # none, or none any more
        time.sleep(0.05)


def wait_for_start(server: subprocess.Popen[bytes], path: str) -> None:
    """Return when the server answers, be it that it is loading; ServerEnded if it never does."""
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerEnded
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(START_WITHIN)
            if client.connect_ex(path) == 0:
                client.sendall(b"PING\r\n")
                if client.recv(100):  # +PONG, or -LOADING: clients wait by themselves
                    return
        time.sleep(0.005)
    server.kill()
    raise ServerEnded


def wait_for_users(folder: str) -> None:
    """Return, holding ``lock`` and ``users`` exclusively, once nobody uses the server."""
    users, gate = lock(folder, "users"), lock(folder, "lock")
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)  # no polling: the kernel wakes us
        # A newcomer takes "lock" and then "users". Waiting for them the other way round would be a
        # deadlock, so: let go, take them in that order, and see whether somebody was quicker.
        fcntl.flock(users, fcntl.LOCK_UN)
        fcntl.flock(gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            fcntl.flock(gate, fcntl.LOCK_UN)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server, with everything on disk, and wait for that."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server.terminate()
    server.send_signal(signal.SIGCONT)
    try:
        server.wait(timeout=STOP_WITHIN)
    except subprocess.TimeoutExpired:  # a script that runs for ever; what was written stays written
        server.kill()
        server.wait()


def server_ended(*_: object) -> None:
    """SIGCHLD: the server is gone though nobody stopped it."""
    raise ServerEnded


def lock(folder: str, name: str) -> int:
    """A descriptor to lock by flock."""
    return os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def write(folder: str, run: dict[str, object]) -> None:
    """Let newcomers know where the server is."""
    new = os.path.join(folder, "run.new")
    with open(new, "w", encoding="utf-8") as file:
        json.dump(run, file)
    os.replace(new, os.path.join(folder, "run.json"))


said = False


def say(word: str) -> None:
    """Tell whoever started us, once, and let them go on."""
    global said
    if not said:
        said = True
        os.write(1, word.encode())
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


if __name__ == "__main__":
    main(*sys.argv[1:])
