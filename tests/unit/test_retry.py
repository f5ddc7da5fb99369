"""Retry policies: what they retry, how long they wait, what travels."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigurationError
from penstock.streams.message import RetrySpec
from penstock.tasks.retry import RetryPolicy

UNIT = settings(deadline=None, derandomize=True)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    delay, max_delay = sorted(draw(st.lists(st.floats(0, 1e9), min_size=2, max_size=2)))
    return RetryPolicy(
        max_retries=draw(st.none() | st.integers(0, 2**31 - 1)),
        delay=delay,
        backoff=draw(st.floats(1, 1e300) | st.integers(1, 100)),
        max_delay=max_delay,
        jitter=draw(st.floats(0, 1)),
    )


ATTEMPTS = st.integers(1, 100) | st.integers(1, 10**400)
UNIFORM = st.floats(0, 1, exclude_max=True)


@UNIT
@given(policies(), ATTEMPTS, UNIFORM)
def test_waits_are_bounded(policy: RetryPolicy, attempt: int, chance: float) -> None:
    longest = policy.wait(attempt, lambda: 0.0)
    wait = policy.wait(attempt, lambda: chance)
    assert 0 <= longest * (1 - policy.jitter) * (1 - 1e-9) <= wait <= longest <= float(policy.max_delay)  # type: ignore[arg-type]


@UNIT
@given(policies(), ATTEMPTS)
def test_waits_never_get_shorter(policy: RetryPolicy, attempt: int) -> None:
    assert policy.wait(attempt, lambda: 0.0) <= policy.wait(attempt + 1, lambda: 0.0)


def test_exact_waits_without_jitter() -> None:
    policy = RetryPolicy(delay=2, backoff=3, max_delay=50, jitter=0)
    assert [policy.wait(n) for n in range(1, 6)] == [2, 6, 18, 50, 50]


def test_full_jitter_is_uniform_from_zero() -> None:
    policy = RetryPolicy(delay=10)
    assert policy.wait(1, lambda: 0.25) == pytest.approx(7.5)
    assert policy.wait(1, lambda: 0.999999) < 0.001


def test_attempts_are_counted_from_one() -> None:
    policy = RetryPolicy(max_retries=2)
    assert [policy.wants(ValueError(), n) for n in (1, 2, 3)] == [True, True, False]
    assert not RetryPolicy(max_retries=0).wants(ValueError(), 1)
    assert RetryPolicy(max_retries=None).wants(ValueError(), 10**9)


@pytest.mark.parametrize(
    ("on", "never", "error", "wanted"),
    [
        ((Exception,), (), ValueError(), True),
        ((Exception,), (), asyncio.CancelledError(), False),
        (ValueError, (), UnicodeError(), True),
        (ValueError, UnicodeError, UnicodeError(), False),
        ((OSError, (KeyError, ValueError)), (), ValueError(), True),
        ((OSError, (KeyError,)), (), ValueError(), False),
        (lambda e: "busy" in str(e), (), OSError("busy"), True),
        (lambda e: "busy" in str(e), (), OSError("gone"), False),
        (Exception, (KeyError, lambda e: "gone" in str(e)), OSError("gone"), False),
        ((), (), ValueError(), False),
    ],
)
def test_filters(on: Any, never: Any, error: BaseException, wanted: bool) -> None:
    assert RetryPolicy(on=on, never=never).wants(error, 1) is wanted


def test_a_filter_that_raises_means_no(caplog: pytest.LogCaptureFixture) -> None:
    policy = RetryPolicy(on=lambda error: error.nonsense)  # type: ignore[attr-defined]
    assert policy.wants(ValueError("boom"), 1) is False
    assert "retry filter failed for ValueError('boom')" in caplog.text


def test_a_filter_that_exits_means_no() -> None:
    assert not RetryPolicy(on=lambda error: sys.exit("no")).wants(ValueError(), 1)


def test_a_spec_whose_delays_do_not_fit_is_no_error() -> None:
    assert RetryPolicy.from_spec(RetrySpec(3, delay=9, max_delay=1)) == RetryPolicy(3, delay=9, max_delay=9)


def test_timedeltas_become_seconds() -> None:
    policy = RetryPolicy(delay=timedelta(minutes=1), max_delay=timedelta(hours=2))
    assert (policy.delay, policy.max_delay) == (60.0, 7200.0)
    assert policy == RetryPolicy(delay=60, max_delay=7200)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"max_retries": True}, "max_retries"),
        ({"delay": -1}, "delay must be between"),
        ({"delay": "1"}, "delay must be seconds"),
        ({"delay": float("nan")}, "delay must be between"),
        ({"backoff": 0.5}, "backoff"),
        ({"backoff": float("inf")}, "backoff"),
        ({"backoff": "2"}, "backoff"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": float("nan")}, "jitter"),
        ({"delay": 7200}, r"delay \(7200 s\) is more than max_delay \(3600 s\)"),
        ({"on": "ValueError"}, "on must be exception classes"),
        ({"on": (ValueError, 3)}, "on must be exception classes"),
        ({"never": int}, "never must be exception classes"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RetryPolicy(**options)


def test_frozen() -> None:
    with pytest.raises(AttributeError):
        RetryPolicy().delay = 3  # type: ignore[misc]


@UNIT
@given(policies())
def test_the_numbers_travel(policy: RetryPolicy) -> None:
    raw = msgspec.msgpack.encode(policy.spec())
    assert RetryPolicy.from_spec(msgspec.msgpack.decode(raw, type=RetrySpec)) == policy


def test_filters_come_from_the_tasks_policy() -> None:
    mine = RetryPolicy(max_retries=1, on=OSError, never=ConnectionError)
    sent = RetryPolicy(max_retries=9, delay=0.5)
    assert RetryPolicy.from_spec(sent.spec(), mine) == RetryPolicy(9, 0.5, on=OSError, never=ConnectionError)


def test_knows_whether_it_can_travel_whole() -> None:
    assert not RetryPolicy().has_filters
    assert not RetryPolicy(on=Exception).has_filters
    assert RetryPolicy(on=OSError).has_filters
    assert RetryPolicy(never=OSError).has_filters
