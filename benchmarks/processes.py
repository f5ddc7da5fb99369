"""Processes that end with the benchmark; the CPU and memory that they use, read from /proc: on Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PROC = Path("/proc")
#: In /proc/PID/stat, after the program's name: state; parent; user and system time, own and of children that ended.
_STATE, _PARENT, _TIMES = 0, 1, slice(11, 15)


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG = 1: nothing runs on when the benchmark itself was killed with SIGKILL. It fires when the
    # *thread* that forked ends: only the main thread starts processes.
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)


def start(
    command: Sequence[str | Path], *, folder: Path, env: Mapping[str, str], out: IO[Any] | int, err: IO[Any] | int
) -> subprocess.Popen[str]:
    """Start it in a session of its own: a terminal's Ctrl-C reaches the benchmark only, which ends the others."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        text=True,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


def end(process: subprocess.Popen[str], grace: float = 0.0) -> None:
    """End it and its descendants: by SIGTERM to itself, with time to obey, then all by SIGKILL."""
    if process.returncode is not None:
        return  # its id may be somebody else's by now
    if grace:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    # Children in sessions of their own (penstock's workers) are no part of its group. Looked up before the parent is
    # killed: they are nobody's children afterwards.
    family = descendants(process.pid) if process.poll() is None else []
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def has_ended(process: subprocess.Popen[str]) -> bool:
    """True if it is a zombie. Unlike `poll` this leaves it one, so that its id and its group stay its own."""
    with suppress(OSError):
        return _stat(process.pid)[_STATE] == "Z"
    return False


def descendants(root: int) -> list[int]:
    """Process ids of the children, and of theirs."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found, unseen = [], [root]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += below
    return found


def cpu_seconds(roots: Sequence[int]) -> float | None:
    """CPU time of these processes, their descendants, and children that have ended; None where it cannot be known."""
    if not _PROC.is_dir():
        return None
    ticks = 0
    for pid in {each for root in roots for each in (root, *descendants(root))}:
        with suppress(OSError):
            ticks += sum(int(field) for field in _stat(pid)[_TIMES])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pids: Sequence[int]) -> int | None:
    """Bytes of memory that these processes hold, each on its own; None where it cannot be known."""
    if not _PROC.is_dir():
        return None
    pages = 0
    for pid in pids:
        with suppress(OSError):
            pages += int((_PROC / str(pid) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _parents() -> list[tuple[int, int]]:
    if not _PROC.is_dir():
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True).stdout
        return [(int(pid), int(parent)) for pid, parent in map(str.split, listing.splitlines())]
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                found.append((int(entry.name), int(_stat(int(entry.name))[_PARENT])))
    return found


def _stat(pid: int) -> list[str]:
    # The name, in brackets, may itself hold brackets and spaces.
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
