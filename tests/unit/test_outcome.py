"""From an exception to an outcome, and an exception as text."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from penstock.consumers.outcome import (
    MESSAGE_MAX,
    TRACEBACK_MAX,
    Cancelled,
    Failed,
    Outcome,
    Released,
    Retrying,
    Snoozed,
    Succeeded,
    Unknown,
    decide,
    decode_outcome,
    describe,
    encode_outcome,
)
from penstock.consumers.threads import ThreadStuck
from penstock.errors import HardTimeout, Reject, Retry, Snooze, SoftTimeout, UnencodableResult
from penstock.streams.message import Failure
from penstock.tasks.retry import RetryPolicy

POLICY = RetryPolicy(max_retries=2, delay=10, backoff=2, jitter=0)
FAILURE = Failure("ValueError", "message", "traceback", "timeout")


def reason(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed)
    return outcome.failure.reason


def delay(outcome: Outcome) -> float:
    assert isinstance(outcome, Retrying)
    return outcome.delay


class TestDecide:
    def test_an_error_without_a_policy_is_final(self) -> None:
        outcome = decide(ValueError("no"), None, 1)
        assert isinstance(outcome, Failed)
        assert (outcome.failure.type, outcome.failure.message, outcome.failure.reason) == ("ValueError", "no", "error")

    def test_an_error_is_retried_by_the_policy_until_it_has_no_attempts_left(self) -> None:
        assert delay(decide(ValueError(), POLICY, 1)) == 10
        assert delay(decide(ValueError(), POLICY, 2)) == 20
        assert reason(decide(ValueError(), POLICY, 3)) == "error"

    def test_an_error_that_the_policy_does_not_want_is_final(self) -> None:
        policy = RetryPolicy(on=(OSError,), never=(FileNotFoundError,), jitter=0)
        assert delay(decide(ConnectionError(), policy, 1)) == 1
        assert reason(decide(ValueError(), policy, 1)) == "error"
        assert reason(decide(FileNotFoundError(), policy, 1)) == "error"

    def test_jitter_comes_from_the_given_source(self) -> None:
        policy = RetryPolicy(delay=10, jitter=1)
        assert delay(decide(ValueError(), policy, 1, lambda: 0.25)) == 7.5
        assert delay(decide(Retry(), policy, 1, lambda: 0.25)) == 7.5

    def test_a_retry_takes_its_own_delay_else_that_of_the_policy(self) -> None:
        assert delay(decide(Retry(delay=3), POLICY, 1)) == 3
        assert delay(decide(Retry(delay=0), POLICY, 1)) == 0
        assert delay(decide(Retry(delay=timedelta(minutes=1)), POLICY, 1)) == 60
        assert delay(decide(Retry(), POLICY, 2)) == 20

    def test_a_retry_without_a_policy_uses_the_default_one(self) -> None:
        assert [delay(decide(Retry(), None, attempt, lambda: 0.0)) for attempt in (1, 2, 3)] == [1, 2, 4]
        assert reason(decide(Retry(), None, 4)) == "error"

    def test_a_retry_does_not_ask_which_errors_the_policy_wants(self) -> None:
        assert delay(decide(Retry(), RetryPolicy(on=OSError, jitter=0), 1)) == 1

    def test_a_retry_out_of_attempts_fails_with_its_message(self) -> None:
        outcome = decide(Retry("rate limited"), POLICY, 3)
        assert isinstance(outcome, Failed)
        assert (outcome.failure.message, outcome.failure.reason) == ("rate limited", "error")

    def test_a_retry_for_ever_never_runs_out(self) -> None:
        assert delay(decide(Retry(delay=1), RetryPolicy(max_retries=None), 10**6)) == 1

    def test_snooze_spends_nothing(self) -> None:
        assert decide(Snooze(60), None, 99) == Snoozed(60)

    def test_reject_is_final_whatever_the_policy(self) -> None:
        outcome = decide(Reject("why"), RetryPolicy(on=BaseException), 1)
        assert isinstance(outcome, Failed)
        assert (outcome.failure.message, outcome.failure.reason) == ("why", "rejected")

    def test_a_result_that_cannot_be_encoded_is_not_retried(self) -> None:
        assert reason(decide(UnencodableResult("set"), RetryPolicy(), 1)) == "unencodable_result"

    @pytest.mark.parametrize("error", [HardTimeout("x"), SoftTimeout("x"), ThreadStuck(2.0)])
    def test_timeouts_go_by_the_policy(self, error: BaseException) -> None:
        assert reason(decide(error, None, 1)) == "timeout"
        retrying = decide(error, POLICY, 1)
        assert isinstance(retrying, Retrying)
        assert retrying.failure.reason == "timeout"
        assert reason(decide(error, RetryPolicy(never=(HardTimeout, SoftTimeout)), 1)) == "timeout"

    def test_a_task_group_does_not_hide_a_retry_or_a_timeout(self) -> None:
        def group(error: BaseException) -> BaseException:
            return BaseExceptionGroup("unhandled", [BaseExceptionGroup("unhandled", [error])])

        assert decide(group(Snooze(60)), None, 1) == Snoozed(60)
        assert delay(decide(group(Retry(delay=3)), None, 1)) == 3
        assert reason(decide(group(SoftTimeout()), None, 1)) == "timeout"
        outcome = decide(group(ValueError()), None, 1)
        assert isinstance(outcome, Failed)
        assert outcome.failure.type == "ExceptionGroup"
        assert reason(decide(ExceptionGroup("two", [Snooze(1), ValueError()]), None, 1)) == "error"

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
    def test_what_is_no_exception_is_a_failure_of_the_task(self, error: BaseException) -> None:
        assert reason(decide(error, POLICY, 1)) == "error"
        assert delay(decide(error, RetryPolicy(on=BaseException, jitter=0), 1)) == 1


@pytest.mark.parametrize(
    "outcome",
    [
        Succeeded(b"\x01"),
        Succeeded(None),
        Retrying(1.5, FAILURE),
        Snoozed(2.0),
        Failed(FAILURE),
        Cancelled(),
        Released(),
        Unknown("no such task"),
    ],
)
def test_an_outcome_comes_back_from_its_bytes(outcome: Outcome) -> None:
    assert decode_outcome(encode_outcome(outcome)) == outcome


class Broken(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


def caught(function: Any, *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def inner() -> None:
    raise KeyError("the key")


def outer(cause: bool = False) -> None:
    try:
        inner()
    except KeyError as error:
        if cause:
            raise ValueError("because") from error
        raise ValueError("meanwhile")  # noqa: B904


class TestDescribe:
    def test_names_the_type_with_its_module_unless_it_is_built_in(self) -> None:
        class Local(Exception):
            pass

        assert describe(ValueError("x")).type == "ValueError"
        assert describe(Retry("x")).type == "penstock.errors.Retry"
        assert describe(Local()).type.endswith("test_outcome.TestDescribe.test_names_the_type_with_its_module_unless_it_is_built_in.<locals>.Local")  # fmt: skip  # noqa: E501

    @pytest.mark.parametrize("raised", [ValueError("x"), SystemExit(1), KeyboardInterrupt(), RecursionError()])
    def test_a_broken_str_does_not_break_it(self, raised: BaseException) -> None:
        failure = describe(Broken(raised))
        assert failure.message == f"<str() of the exception raised {type(raised).__name__}>"

    def test_long_messages_are_cut(self) -> None:
        assert describe(ValueError("x" * 100_000)).message == "x" * MESSAGE_MAX
        wide = describe(ValueError("\N{EURO SIGN}" * 100_000)).message
        assert MESSAGE_MAX - 3 < len(wide.encode()) <= MESSAGE_MAX

    def test_text_that_is_no_unicode_can_be_sent(self) -> None:
        failure = describe(ValueError("file \udcff"))
        assert failure.message == "file \\udcff"
        assert decode_outcome(encode_outcome(Failed(failure))) == Failed(failure)

    def test_a_subclass_of_str_is_sent_as_str(self) -> None:
        class Text(str):
            def __str__(self) -> str:
                return self

        assert type(describe(ValueError(Text("x"))).message) is str

    def test_the_end_of_a_long_traceback_is_kept(self) -> None:
        def down(depth: int) -> None:
            if depth:
                up(depth - 1)
            raise ValueError("the bottom" + "!" * 30_000)

        def up(depth: int) -> None:
            down(depth)

        failure = describe(caught(down, 400))
        assert TRACEBACK_MAX <= len(failure.traceback.encode()) < TRACEBACK_MAX + 10
        assert failure.traceback.startswith("...")
        assert failure.traceback.endswith("!!!\n")

    def test_endless_recursion_is_no_problem(self) -> None:
        def endless() -> None:
            endless()

        failure = describe(caught(endless))
        assert failure.type == "RecursionError"
        assert len(failure.traceback.encode()) < TRACEBACK_MAX + 10

    @pytest.mark.parametrize(
        ("cause", "sentence"), [(True, "direct cause of the following"), (False, "During handling of the above")]
    )
    def test_what_led_to_the_error_is_in_the_traceback(self, cause: bool, sentence: str) -> None:
        text = describe(caught(outer, cause)).traceback
        assert sentence in text
        assert text.index("KeyError: 'the key'") < text.index("ValueError: ")
        assert "in inner" in text

    def test_groups_show_their_parts(self) -> None:
        group = BaseExceptionGroup("several", [ValueError("one"), SystemExit(2), caught(inner)])
        failure = describe(group)
        assert failure.type == "BaseExceptionGroup"
        assert "ValueError: one" in failure.traceback
        assert "in inner" in failure.traceback

    def test_our_own_frames_at_the_top_are_removed(self) -> None:
        def users() -> float:
            raise ValueError

        error = caught(POLICY.wait, 1, users)  # stands for a worker that calls a task
        assert error.__traceback__ is not None
        error.__traceback__ = error.__traceback__.tb_next  # `caught` is not penstock's
        text = describe(error).traceback
        assert "in users" in text
        assert "in wait" not in text

    def test_a_call_back_into_penstock_stays_in_the_traceback(self) -> None:
        text = describe(caught(lambda: RetryPolicy(max_retries=-1))).traceback
        assert "in <lambda>" in text
        assert "in __post_init__" in text

    def test_an_error_of_the_worker_itself_has_no_traceback_worth_keeping(self) -> None:
        failure = describe(HardTimeout("not done within 3 s"))
        assert failure.traceback == "penstock.errors.HardTimeout: not done within 3 s\n"

    def test_cycles_and_notes_are_no_problem(self) -> None:
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        first.add_note("a note")
        assert "a note" in describe(first).traceback
