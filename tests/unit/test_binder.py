"""The generated binder agrees with CPython and with ``inspect.Signature.bind``."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidArguments, InvalidTask
from penstock.tasks.binder import Binder

UNIT = settings(deadline=None, derandomize=True)


def send_receipt(order_id: int, *, copy: bool = False) -> None: ...


def everything(a: Any, /, b: Any, c: Any = 3, *rest: Any, d: Any, e: Any = 5, **more: Any) -> None: ...


def test_binds_what_was_given_and_nothing_else() -> None:
    bind = Binder(send_receipt).bind
    assert bind(42) == {"order_id": 42}
    assert bind(order_id=42, copy=False) == {"order_id": 42, "copy": False}


def test_every_kind_of_parameter() -> None:
    bind = Binder(everything).bind
    assert bind(1, 2, d=4) == {"a": 1, "b": 2, "d": 4}
    assert bind(1, 2, 3, 8, 9, d=4, e=5, f=6) == {
        "a": 1, "b": 2, "c": 3, "rest": (8, 9), "d": 4, "e": 5, "more": {"f": 6},
    }  # fmt: skip
    assert bind(1, 2, d=4, a=7) == {"a": 1, "b": 2, "d": 4, "more": {"a": 7}}  # a is positional-only


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "send_receipt() missing 1 required positional argument: 'order_id'"),
        ((1,), {"order_id": 2}, "send_receipt() got multiple values for argument 'order_id'"),
        ((1,), {"copi": True}, "send_receipt() got an unexpected keyword argument 'copi'"),
        ((1, True), {}, "send_receipt() takes 1 positional argument but 2 were given"),
    ],
)
def test_errors_have_pythons_words(args: tuple[Any, ...], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        Binder(send_receipt).bind(*args, **kwargs)
    assert str(caught.value).startswith(words)  # newer Pythons add "Did you mean ...?"


def test_names_that_the_generated_code_uses_are_free_for_parameters() -> None:
    def task(_absent: int, _given: int = 2, *, unset: int = 3, v: int = 4, named: int = 5, a: int = 6) -> Any:
        return _absent, _given, unset, v, named, a

    binder = Binder(task)
    assert binder.bind(1, unset=7) == {"_absent": 1, "unset": 7}
    assert binder.bind(1, 2, v=1) == {"_absent": 1, "_given": 2, "v": 1}


def test_an_argument_equal_to_the_default_is_given() -> None:
    default = object()

    def task(x: object = default) -> None: ...

    assert Binder(task).bind(default) == {"x": default}
    assert Binder(task).bind() == {}


def test_the_context_is_dropped() -> None:
    def crawl(ctx: Any, url: str) -> None: ...

    binder = Binder(crawl, skip_first=True)
    assert binder.bind("u") == {"url": "u"}
    with pytest.raises(InvalidArguments, match="takes 1 positional argument but 2 were given"):
        binder.bind("u", "v")
    with pytest.raises(InvalidArguments, match="unexpected keyword argument 'ctx'"):
        binder.bind(url="u", ctx=1)


def test_a_context_in_varargs_drops_nothing() -> None:
    def task(*args: int) -> None: ...

    assert Binder(task, skip_first=True).bind(1, 2) == {"args": (1, 2)}


def test_bind_needs_a_first_parameter() -> None:
    def nothing() -> None: ...

    def only_keywords(*, ctx: Any) -> None: ...

    for function in (nothing, only_keywords):
        with pytest.raises(InvalidTask, match=f"{function.__name__}: bind=True"):
            Binder(function, skip_first=True)


def test_no_signature() -> None:
    with pytest.raises(InvalidTask, match="signature"):
        Binder(3)  # type: ignore[arg-type]


def test_wrapped_and_partial_functions() -> None:
    @functools.wraps(send_receipt)
    def wrapper(*args: Any, **kwargs: Any) -> Any: ...

    assert Binder(wrapper).bind(1) == {"order_id": 1}
    assert Binder(functools.partial(everything, 1, d=4), name="p").bind(2) == {"b": 2}


NAMES = ("a", "b", "c", "d", "e", "f")


@st.composite
def signatures(draw: st.DrawFn) -> str:
    """A legal parameter list over the first few of `NAMES`."""
    names = list(NAMES[: draw(st.integers(0, len(NAMES)))])
    cuts = sorted(draw(st.lists(st.integers(0, len(names)), min_size=2, max_size=2)))
    only_positional, normal, only_keyword = names[: cuts[0]], names[cuts[0] : cuts[1]], names[cuts[1] :]
    defaults_from = draw(st.integers(0, cuts[1] + 1))
    parts = []
    for index, name in enumerate(only_positional + normal):
        parts.append(f"{name}='default {name}'" if index >= defaults_from else name)
        if index == len(only_positional) - 1:
            parts.append("/")
    varargs = draw(st.booleans())
    if varargs or only_keyword:
        parts.append("*rest" if varargs else "*")
    parts += [f"{name}='default {name}'" if draw(st.booleans()) else name for name in only_keyword]
    if draw(st.booleans()):
        parts.append("**more")
    return ", ".join(parts)


CALLS = st.tuples(
    st.lists(st.integers(), max_size=7).map(tuple), st.dictionaries(st.sampled_from([*NAMES, "z"]), st.integers())
)


def build(parameters: str) -> Any:
    scope: dict[str, Any] = {}
    exec(f"def task({parameters}): return dict(locals())", scope)
    return scope["task"]


@UNIT
@given(signatures(), CALLS)
def test_agrees_with_signature_bind(parameters: str, call: tuple[tuple[int, ...], dict[str, int]]) -> None:
    task, (args, kwargs) = build(parameters), call
    signature = inspect.signature(task)
    # Signature.bind before 3.13 wrongly refuses f(a=1) for "def f(a=0, /, **kw)".
    only_positional = {p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_ONLY}
    kwargs = {name: value for name, value in kwargs.items() if name not in only_positional}
    try:
        expected: dict[str, Any] | None = dict(signature.bind(*args, **kwargs).arguments)
    except TypeError:
        expected = None
    try:
        found: dict[str, Any] | None = Binder(task).bind(*args, **kwargs)
    except InvalidArguments as error:
        found = None
        assert str(error).startswith("task() ")
    assert found == expected


class Fields:
    """Stands for the struct that a codec decodes into."""

    def __init__(self, binder: Binder, given: dict[str, Any]) -> None:
        for parameter in binder.parameters:
            empties: dict[Any, Any] = {parameter.VAR_POSITIONAL: [], parameter.VAR_KEYWORD: {}}
            empty = empties.get(parameter.kind, msgspec.UNSET)
            setattr(self, binder.fields[parameter.name], given.get(parameter.name, empty))


@UNIT
@given(signatures(), CALLS)
def test_unbind_calls_as_the_caller_did(parameters: str, call: tuple[tuple[int, ...], dict[str, int]]) -> None:
    task, (args, kwargs) = build(parameters), call
    binder = Binder(task)
    try:
        expected = task(*args, **kwargs)
    except TypeError:
        with pytest.raises(InvalidArguments):
            binder.bind(*args, **kwargs)
        return
    positional, keyword = binder.unbind(Fields(binder, binder.bind(*args, **kwargs)))
    assert task(*positional, **keyword) == expected


def test_unbind_refuses_a_keyword_that_has_become_a_parameter() -> None:
    def task(a: int = 1, **more: int) -> None: ...

    binder = Binder(task)
    with pytest.raises(TypeError, match="multiple values for argument 'a'"):
        binder.unbind(Fields(binder, {"more": {"a": 2}}))
