"""Options of tasks and calls: what is accepted, how they are combined."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigurationError
from penstock.tasks.options import CallOptions, CallOptionsDict, TaskOptions, TaskOptionsDict
from penstock.tasks.retry import RetryPolicy

UNIT = settings(deadline=None, derandomize=True)
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_defaults_of_a_task() -> None:
    options = TaskOptions()
    assert (options.queue, options.priority, options.bind) == ("default", "default", False)
    others = ("run", "retry", "timeout", "soft_timeout", "expires", "result_ttl", "max_deliveries")
    assert [getattr(options, name) for name in others] == [None] * 7
    assert options.given == frozenset()


def test_durations_are_kept_as_seconds() -> None:
    task = TaskOptions(timeout=timedelta(minutes=1), expires=60, result_ttl=0)  # type: ignore[arg-type]
    assert (task.timeout, task.expires, task.result_ttl) == (60.0, 60.0, 0.0)
    call = CallOptions.from_keywords({"delay": timedelta(seconds=5), "expires": timedelta(hours=1), "timeout": 0})
    assert (call.delay, call.expires, call.timeout) == (5.0, 3600.0, 0.0)


def test_zero_means_no_limit() -> None:
    task = TaskOptions(timeout=0, soft_timeout=5, expires=0)
    assert (task.timeout, task.soft_timeout, task.expires) == (None, 5.0, None)


def test_what_is_not_given_comes_from_the_defaults() -> None:
    policy = RetryPolicy(max_retries=9)
    defaults = TaskOptions(queue="mail", priority="low", retry=policy, timeout=30, bind=True)
    options = TaskOptions(priority="default", timeout=None).over(defaults)
    assert (options.queue, options.priority, options.retry, options.timeout) == ("mail", "default", policy, None)
    assert options.bind is False  # the function's own matter


def test_layers_of_defaults_add_up() -> None:
    app, library = TaskOptions(queue="app", timeout=1), TaskOptions(queue="library", max_deliveries=2)
    task = TaskOptions(run="process")
    for options in (task.over(library).over(app), task.over(library.over(app))):
        assert (options.queue, options.timeout, options.max_deliveries, options.run) == ("library", 1.0, 2, "process")


def test_a_soft_timeout_must_fit_below_the_apps_timeout() -> None:
    with pytest.raises(ConfigurationError, match=r"soft_timeout \(30 s\) must be less than timeout \(10 s\)"):
        TaskOptions(soft_timeout=30).over(TaskOptions(timeout=10))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"que": "mail"}, "no such option: 'que'; did you mean 'queue'"),
        ({"given": {"queue"}}, "no such option: 'given'"),
        ({"queue": "a b"}, "queue must be"),
        ({"queue": None}, "queue must be"),
        ({"queue": ""}, "queue must be"),
        ({"priority": "hihg"}, "did you mean 'high'"),
        ({"run": "fiber"}, "run must be one of async, thread, process"),
        ({"retry": 3}, r"did you mean RetryPolicy\(max_retries=3\)"),
        ({"retry": True}, "retry must be a RetryPolicy"),
        ({"timeout": -1}, "timeout must be between"),
        ({"timeout": "30"}, "timeout must be seconds"),
        ({"timeout": True}, "timeout must be seconds"),
        ({"timeout": 5, "soft_timeout": 5}, "soft_timeout"),
        ({"expires": NOON}, "expires must be seconds"),
        ({"result_ttl": -1}, "result_ttl"),
        ({"max_deliveries": 0}, "max_deliveries"),
        ({"max_deliveries": 1.0}, "max_deliveries"),
        ({"bind": 1}, "bind must be True or False"),
    ],
)
def test_nonsense_in_a_decorator(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TaskOptions.from_keywords(options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"countdwn": 5}, "did you mean 'countdown'"),
        ({"run": "thread"}, "no such option: 'run'"),
        ({"delay": 1, "eta": NOON}, "give one of delay, eta, countdown, not delay and eta"),
        ({"delay": 1, "countdown": 1}, "not delay and countdown"),
        ({"delay": -1}, "delay must be between"),
        ({"countdown": "5"}, "countdown must be seconds"),
        ({"eta": datetime(2030, 1, 1)}, "eta has no time zone"),
        ({"eta": 5}, "eta must be a datetime"),
        ({"expires": datetime(2030, 1, 1)}, "expires has no time zone"),
        ({"delay": 60, "expires": 60}, r"expires \(60.0\) is not after delay \(60.0\)"),
        ({"eta": NOON, "expires": NOON}, "is not after eta"),
        ({"queue": "a:b"}, "queue must be"),
        ({"priority": "urgent"}, "priority must be"),
        ({"retry": RetryPolicy(on=OSError)}, "`on` and `never` cannot be sent"),
        ({"meta": {1: 2}}, "meta must be a dict with str keys"),
        ({"meta": {"a": object()}}, "meta must be plain data"),
        ({"meta": "text"}, "meta must be a dict"),
    ],
)
def test_nonsense_in_a_call(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        CallOptions.from_keywords(options)


@pytest.mark.parametrize("id", ["a", "receipt-42", "mail:7/8", "ключ", "x" * 200])
def test_good_ids(id: str) -> None:
    assert CallOptions(id=id).id == id


@pytest.mark.parametrize("id", ["", "x" * 201, "a b", "a\n", "a\tb", "\x00", "a\u00a0b", "{a", "a}", "a\u200b", 5])
def test_bad_ids(id: Any) -> None:
    with pytest.raises(ConfigurationError, match="id must be 1 to 200 printable characters"):
        CallOptions(id=id)


@UNIT
@given(st.text(max_size=300))
def test_any_accepted_id_is_safe_in_a_key(id: str) -> None:
    try:
        CallOptions(id=id)
    except ConfigurationError:
        return
    assert 1 <= len(id) <= 200
    assert id.split() == [id]
    assert not {"{", "}", "\n", "\r", "\x00"} & set(id)
    id.encode()


def test_countdown_is_delay() -> None:
    assert CallOptions(countdown=5) == CallOptions(delay=5)
    assert CallOptions(delay=0).delay == 0.0


def test_expiry_that_cannot_be_compared_is_left_to_the_server() -> None:
    assert CallOptions(delay=60, expires=NOON).expires == NOON
    assert CallOptions(delay=60, expires=0).expires == 0.0
    assert CallOptions(eta=NOON, expires=5).expires == 5.0


def test_later_calls_of_options_win() -> None:
    first = CallOptions(queue="mail", delay=5, meta={"a": 1})
    second = first.merge({"queue": "bulk", "priority": "low"})
    assert second == CallOptions(queue="bulk", delay=5, priority="low", meta={"a": 1})
    assert first.queue == "mail"
    assert first.merge({"queue": None}) == CallOptions(delay=5, meta={"a": 1})


def test_a_later_start_replaces_any_earlier_one() -> None:
    assert CallOptions(delay=5).merge({"eta": NOON}) == CallOptions(eta=NOON)
    assert CallOptions(eta=NOON).merge({"countdown": 1}) == CallOptions(delay=1)
    assert CallOptions(eta=NOON).merge({"delay": None}) == CallOptions()
    with pytest.raises(ConfigurationError, match="give one of"):
        CallOptions(eta=NOON).merge({"countdown": 1, "delay": 1})
    with pytest.raises(ConfigurationError, match="no such option"):
        CallOptions().merge({"eat": NOON})


def test_meta_is_a_deep_copy() -> None:
    tags = ["a"]
    options = CallOptions(meta={"tags": tags})
    tags.append("b")
    assert options.meta == {"tags": ["a"]}


def test_the_typed_dicts_say_the_same() -> None:
    assert set(get_type_hints(TaskOptionsDict)) == set(TaskOptions.__struct_fields__) - {"given", "bind"}
    assert set(get_type_hints(CallOptionsDict)) == set(CallOptions.__struct_fields__)
