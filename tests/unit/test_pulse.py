"""Pulse: how late an event loop is, by a clock of the test's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from penstock.consumers import state
from penstock.consumers.state import Pulse


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(state, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_a_loop_that_turns_is_as_late_as_its_latest_beat(clock: Clock) -> None:
    pulse = Pulse()
    for late in (0.0, 0.3, 0.1):
        asked_at = pulse.ask()
        clock.now += late
        pulse.beat(asked_at)
        clock.now += 1
    assert pulse.take_lag() == pytest.approx(0.3) and pulse.take_lag() == 0.0
    assert pulse.blocked == 0.0


def test_who_is_not_asked_is_not_late(clock: Clock) -> None:
    """The lease thread asks. When it is held up itself, by a server that is away, nothing is known of the loop."""
    pulse = Pulse()
    clock.now += 100
    assert pulse.unanswered == 0.0
    pulse.beat(pulse.ask())
    clock.now += 100
    assert pulse.unanswered == 0.0


def test_what_stands_still_is_told_once_however_often_it_was_asked(clock: Clock) -> None:
    pulse = Pulse()
    asked = []
    for _ in range(4):  # at 0, 1, 2, 3 s
        asked.append(pulse.ask())
        clock.now += 1
    assert pulse.unanswered == 4.0
    for asked_at in asked:  # now the loop turns: all of them come at once
        pulse.beat(asked_at)
    assert (pulse.blocked, pulse.unanswered, pulse.take_lag()) == (4.0, 0.0, 4.0)


def test_a_pause_of_a_second_is_none(clock: Clock) -> None:
    pulse = Pulse()
    asked_at = pulse.ask()
    clock.now += state.BLOCKED_AFTER
    pulse.beat(asked_at)
    assert pulse.blocked == 0.0
    asked_at = pulse.ask()
    clock.now += state.BLOCKED_AFTER + 0.5
    pulse.beat(asked_at)
    assert pulse.blocked == 1.5
