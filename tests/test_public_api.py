"""The public names, written down: taking one away or adding one is a decision, and shows in a diff."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import pytest

import penstock
from penstock import errors

PUBLIC = [
    "App",
    "AuthenticationFailed",
    "BrokerError",
    "BrokerUnavailable",
    "ConfigurationError",
    "Context",
    "Handle",
    "HardTimeout",
    "IdTaken",
    "InvalidArguments",
    "InvalidTask",
    "NotDurable",
    "PayloadTooLarge",
    "PenstockError",
    "PermissionDenied",
    "QueueFull",
    "Reject",
    "ResultError",
    "ResultNotKept",
    "ResultTimeout",
    "Retry",
    "RetryPolicy",
    "SendError",
    "ServerOutOfMemory",
    "ServerReadOnly",
    "ServerTooOld",
    "Signature",
    "Snooze",
    "SoftTimeout",
    "State",
    "SyncInAsync",
    "Task",
    "TaskCancelled",
    "TaskControl",
    "TaskExpired",
    "TaskFailed",
    "TaskInfo",
    "TaskNotFound",
    "TaskOptions",
    "TaskSet",
    "TaskStopped",
    "UnencodableResult",
    "WrongKeyType",
    "current",
]


def difference(exported: Iterable[str], pinned: Iterable[str]) -> list[str]:
    """``-name`` for what has gone, ``+name`` for what is new, ``!order`` if they only stand otherwise."""
    exported, pinned = list(exported), list(pinned)
    gone = [f"-{name}" for name in sorted(set(pinned) - set(exported))]
    new = [f"+{name}" for name in sorted(set(exported) - set(pinned))]
    return gone + new or ([] if exported == pinned else ["!order"])


def without_docstring(name: str, value: object) -> list[str]:
    """`name` itself, and the public methods and properties that its class defines."""
    found = [] if inspect.getdoc(value) else [name]
    members = vars(value).items() if inspect.isclass(value) else ()
    for member, attribute in members:
        if member.startswith("_") or not (callable(attribute) or isinstance(attribute, _WRAPPERS)):
            continue
        if not inspect.getdoc(attribute):
            found.append(f"{name}.{member}")
    return found


_WRAPPERS = (property, classmethod, staticmethod)


def test_the_public_names_are_these() -> None:
    assert difference(penstock.__all__, PUBLIC) == []


@pytest.mark.parametrize("name", PUBLIC)
def test_each_can_be_imported_is_listed_and_explained(name: str) -> None:
    value = getattr(penstock, name)
    assert name in dir(penstock)
    assert without_docstring(name, value) == []


def test_every_error_is_public() -> None:
    defined = [
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    assert set(defined) - set(PUBLIC) == set()
    assert all(getattr(penstock, name) is getattr(errors, name) for name in defined)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(penstock, "no_such_name")  # noqa: B009 - mypy would refuse the plain spelling


# The checks themselves: each finds the fault that it is there for.


def test_a_difference_is_found() -> None:
    assert difference(["A", "B"], ["A", "B"]) == []
    assert difference(["A", "C"], ["A", "B"]) == ["-B", "+C"]
    assert difference(["B", "A"], ["A", "B"]) == ["!order"]


def test_a_missing_docstring_is_found() -> None:
    class Bad:
        """Explained."""

        def method(self) -> None: ...

        @property
        def value(self) -> int:
            return 1

        def _private(self) -> None: ...

    assert without_docstring("Bad", Bad) == ["Bad.method", "Bad.value"]
    assert without_docstring("f", lambda: None) == ["f"]
