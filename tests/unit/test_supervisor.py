"""The rules of the supervisor that need no process: pauses, exit codes, the pipe."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from typing import cast

import pytest
from uvloop import new_event_loop

from penstock.cli.worker import _listen
from penstock.consumers.lifeline import NUMBER, VARIABLE, Lifeline
from penstock.consumers.supervisor import FRESH_BEAT, Plan, Supervisor
from penstock.consumers.wards import DEFAULT_GRACE, FIRST_PAUSE, LONGEST_PAUSE, MARGIN, Backoff, Ward, describe_exit


class Process:
    """Stands for a process: remembers its signals."""

    pid = 2**22 + 1  # larger than any: signals to its group go nowhere

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


@pytest.fixture
def pipe():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def ward(pipe: tuple[socket.socket, socket.socket], process: Process) -> Ward:
    return Ward(0, cast("subprocess.Popen[bytes]", process), pipe[0])


def test_pauses_double_up_to_a_limit_and_begin_anew_after_a_good_life() -> None:
    backoff = Backoff()
    pauses = [backoff.pause(lived=1.0) for _ in range(100)]
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE == max(pauses)
    assert backoff.pause(lived=31.0) == FIRST_PAUSE
    assert backoff.pause(lived=29.0) == 2 * FIRST_PAUSE


def test_exit_codes_in_words() -> None:
    assert describe_exit(0) == "has ended"
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert describe_exit(-signal.SIGKILL) == "was killed by SIGKILL; perhaps there was not enough memory"
    assert describe_exit(-63) == "was killed by signal 63"


def test_lines_come_whole(pipe: tuple[socket.socket, socket.socket], ward: Ward) -> None:
    theirs = pipe[1]
    assert ward.lines() == []
    theirs.send(b"ready\nbe")
    assert ward.lines() == ["ready"]
    theirs.send(b"at 12.5\nbeat\n")
    assert (ward.lines(), ward.silent) == (["beat 12.5", "beat"], False)
    theirs.send(b"replace it is old\n")
    theirs.close()
    assert (ward.lines(), ward.silent) == (["replace it is old"], True)
    assert ward.lines() == []


def test_both_ends_understand_each_other(pipe: tuple[socket.socket, socket.socket], ward: Ward) -> None:
    lifeline = Lifeline(pipe[1].fileno())
    lifeline.grace(2.5)
    lifeline.ready()
    lifeline.beat(None)
    lifeline.beat(99.0)
    lifeline.replace("two\nlines")
    assert ward.lines() == ["grace 2.500", "ready", "beat", "beat 99.000", "replace two lines"]


def test_a_worker_is_killed_when_its_time_has_come_and_not_before(ward: Ward) -> None:
    now = time.monotonic()
    assert ward.next_check() is None
    ward.beat_by = now + 5
    ward.check(now + 4.9)
    assert not ward.killed and ward.next_check() == now + 5
    ward.check(now + 5)
    assert "cannot be stopped" in ward.killed and ward.next_check() is None


def test_beats_from_before_the_supervisor_was_stopped_kill_nobody(
    pipe: tuple[socket.socket, socket.socket], ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that was not read is full of old ones, and those after them are lost."""
    lifeline = Lifeline(pipe[1].fileno())
    supervisor = Supervisor(Plan(()))
    supervisor._wards.append(ward)
    now = time.monotonic()
    lifeline.beat(now + 15)
    supervisor._hear()
    assert ward.beat_by is not None

    monkeypatch.setattr("penstock.consumers.supervisor.time.monotonic", lambda: now + 60)
    supervisor._hear()  # it was stopped since
    assert not ward.killed and ward.next_check() == now + 60 + FRESH_BEAT
    lifeline.beat(now + 75)
    supervisor._hear()
    assert ward.next_check() == pytest.approx(now + 75, abs=0.01)

    monkeypatch.setattr("penstock.consumers.supervisor.time.monotonic", lambda: now + 76)
    supervisor._heard_at = now + 75  # it was not, and hears nothing more
    supervisor._hear()
    assert ward.killed


def test_stopping(ward: Ward, process: Process) -> None:
    now = time.monotonic()
    ward.stop(now=False)
    assert process.signals == [signal.SIGTERM]
    assert ward.kill_at == pytest.approx(now + DEFAULT_GRACE + MARGIN, abs=1)
    ward.stop(now=True)
    assert process.signals == [signal.SIGTERM] * 2
    assert ward.kill_at == pytest.approx(now + MARGIN, abs=1)
    ward.check(now + MARGIN + 2)
    assert "grace" in ward.killed


def test_one_that_drains_gets_its_signal_at_the_end_of_the_grace_period(ward: Ward, process: Process) -> None:
    now = time.monotonic()
    ward.draining = True
    ward.grace = 7.0
    ward.stop(now=False)
    ward.check(now + 6)
    assert process.signals == []
    ward.check(now + 8)
    assert process.signals == [signal.SIGTERM] and not ward.killed
    ward.stop(now=True)
    assert process.signals == [signal.SIGTERM] * 2


def test_a_worker_finds_its_pipe_and_hides_it_from_its_children(
    pipe: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not Lifeline.from_environment().is_supervised
    theirs = pipe[1]
    theirs.set_inheritable(True)
    for name, value in Lifeline.variables(theirs.fileno(), 2).items():
        monkeypatch.setenv(name, value)
    lifeline = Lifeline.from_environment()
    assert lifeline.is_supervised and lifeline.number == 2 and not theirs.get_inheritable()
    assert VARIABLE not in os.environ and NUMBER not in os.environ


def test_a_wedged_worker_without_a_supervisor_kills_itself(
    pipe: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    ours, theirs = pipe
    lifeline = Lifeline(theirs.fileno())
    lifeline.beat(time.monotonic() - 1)
    assert killed == []  # the supervisor is there: its decision
    ours.close()
    lifeline.beat(None)
    lifeline.beat(time.monotonic() + 60)
    assert killed == []
    lifeline.beat(time.monotonic() - 1)
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_a_supervisor_that_does_not_read_blocks_nobody(pipe: tuple[socket.socket, socket.socket]) -> None:
    lifeline = Lifeline(pipe[1].fileno())
    for _ in range(1_000):
        lifeline.replace("x" * 1000)  # a megabyte, which no buffer holds


@pytest.mark.parametrize("loop_factory", [None, new_event_loop], ids=["asyncio", "uvloop"])
def test_where_the_kernel_does_not_tell_the_end_of_the_pipe_does(
    loop_factory, pipe: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pipe

    async def wait() -> int:
        stopped = asyncio.Event()
        calls = 0

        def stop() -> None:
            nonlocal calls
            calls += 1
            stopped.set()

        _listen(stop, theirs.fileno())
        ours.close()
        await asyncio.wait_for(stopped.wait(), 10)
        return calls

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(wait()) == 1
