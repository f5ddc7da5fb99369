"""Arguments and results: what travels, what is refused, and in which words."""

from __future__ import annotations

import collections
import enum
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NoReturn, TypedDict, Unpack
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidArguments, InvalidTask, PenstockError, UnencodableResult
from penstock.tasks.codec import Codec, UntypedCodec

if TYPE_CHECKING:
    from decimal import Context as Missing

UNIT = settings(deadline=None, derandomize=True)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Address:
    street: str
    number: int = 1


class Order(msgspec.Struct):
    id: int
    to: Address


class Point(NamedTuple):
    x: int
    y: int


class Movie(TypedDict, total=False):
    title: str
    year: int


class Slug(str):
    """A str subclass that returns itself from ``__str__``, as Django's SafeString does."""

    def __str__(self) -> str:
        return self


class Metres(float):
    pass


class Count(int):
    pass


class Blob(bytes):
    pass


class Moment(datetime):
    pass


class Day(date):
    pass


class Clock(time):
    pass


class Span(timedelta):
    pass


class Money(Decimal):
    pass


class DriverUUID(UUID):
    pass


class User(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str
    born: date = pydantic.Field(serialization_alias="birthday", default=date(2000, 1, 1))
    tags: set[str] = set()

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def shout(self) -> str:
        return self.name.upper()


class Login(pydantic.BaseModel):
    password: pydantic.SecretStr


class Node(msgspec.Struct):
    children: list[Node] = []


async def send_receipt(order_id: int, *, copy: bool = False) -> str:
    return f"{order_id} {copy}"


def taking(kind: Any) -> Codec:
    def task(x): ...

    task.__annotations__ = {"x": kind}
    return Codec(task)


def returning(kind: Any) -> Codec:
    def task(): ...

    task.__annotations__ = {"return": kind}
    return Codec(task)


def through(codec: Codec, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return codec.decode_args(codec.encode_args(args, kwargs))


# What is on the wire


def test_arguments_are_a_map_by_name_without_defaults() -> None:
    codec = Codec(send_receipt)
    assert msgspec.msgpack.decode(codec.encode_args((42,), {})) == {"order_id": 42}
    given = {"order_id": 42, "copy": True}
    assert msgspec.msgpack.decode(codec.encode_args((), given)) == given


def test_the_workers_defaults_apply() -> None:
    raw = Codec(send_receipt).encode_args((42,), {})

    async def newer(order_id: int, *, copy: bool = True, lang: str = "en") -> str:
        return lang

    assert Codec(newer).decode_args(raw) == ((42,), {"copy": True, "lang": "en"})
    assert Codec(newer).decode_args(msgspec.Raw(raw)) == ((42,), {"copy": True, "lang": "en"})


def test_defaults_need_not_be_of_the_annotated_type_nor_encodable() -> None:
    default = object()

    def task(x: int = default, y: list[int] = [1], z: int | None = None) -> None: ...  # type: ignore[assignment] # noqa: B006

    args, _ = through(Codec(task))
    assert args[0] is default
    assert args[1] is task.__defaults__[1]  # type: ignore[index]
    assert args[2] is None


def test_variadic_parameters() -> None:
    def task(first: int, /, *rest: date, key: str = "k", **more: UUID) -> None: ...

    codec = Codec(task)
    day, id = date(2030, 1, 2), UUID(int=5)
    assert through(codec, 1, day, day, key="x", first=id) == ((1, day, day), {"key": "x", "first": id})
    assert through(codec, 1) == ((1,), {"key": "k"})
    with pytest.raises(InvalidArguments, match=r"^task\(\): rest\[0\]: "):
        codec.encode_args((1, "soon"), {})
    with pytest.raises(InvalidArguments, match=r"^task\(\): more\[\.\.\.\]: "):
        codec.encode_args((1,), {"z": 3})


def test_unpacked_typed_dict_keywords() -> None:
    def task(**movie: Unpack[Movie]) -> None: ...

    codec = Codec(task)
    assert through(codec, title="M", year=1931) == ((), {"title": "M", "year": 1931})
    assert through(codec) == ((), {})
    with pytest.raises(InvalidArguments, match="year: expected int, got str"):
        codec.encode_args((), {"year": "x"})


def test_the_context_is_not_an_argument() -> None:
    def crawl(ctx: object, url: str) -> None: ...

    assert through(Codec(crawl, bind=True), "u") == (("u",), {})


def test_unannotated_parameters_take_any_plain_data() -> None:
    def task(x, *, y=None): ...

    assert through(Codec(task), [1, {"a": None}], y="z") == (([1, {"a": None}],), {"y": "z"})


# What does not fit


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        (("x",), {}, "send_receipt(): order_id: expected int, got str"),
        ((True,), {}, "send_receipt(): order_id: expected int, got bool"),
        ((2**64,), {}, "send_receipt(): order_id: an int beyond 64 bits cannot be sent: pass it as str"),
        ((1,), {"copy": object()}, "send_receipt(): copy: cannot encode object: pass plain data"),
        ((), {}, "send_receipt() missing 1 required positional argument: 'order_id'"),
        ((1, 2), {}, "send_receipt() takes 1 positional argument but 2 were given"),
        ((1,), {"copi": 1}, "send_receipt() got an unexpected keyword argument 'copi'"),
    ],
)
def test_misfits_at_the_call(args: tuple[Any, ...], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        Codec(send_receipt).encode_args(args, kwargs)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "send_receipt(): missing required argument: 'order_id'"),
        ({"order_id": 1, "lang": "en"}, "send_receipt(): got an unexpected argument: 'lang'"),
        ({"order_id": 1, "copy": 1}, "send_receipt(): copy: expected bool, got int"),
        ([1], "send_receipt(): expected object, got array"),
        ({"*": [1, 2]}, "send_receipt() takes 1 positional argument but 2 were given"),
        ({"*": ["x"]}, "send_receipt(): order_id: expected int, got str"),
        ({"*": 1}, "send_receipt(): got an unexpected argument: '*'"),
    ],
)
def test_misfits_at_the_worker(raw: Any, words: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        Codec(send_receipt).decode_args(msgspec.msgpack.encode(raw))
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("raw", [b"", b"\x81", b"\xc1", b"\x81\xa8order_id", b"\x80\x80"])
def test_broken_bytes_do_not_fit(raw: bytes) -> None:
    with pytest.raises(InvalidArguments, match=r"^send_receipt\(\): "):
        Codec(send_receipt).decode_args(raw)


@UNIT
@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    try:
        args, kwargs = Codec(send_receipt).decode_args(raw)
    except InvalidArguments:
        return
    assert type(args[0]) is int
    assert type(kwargs["copy"]) is bool


def test_the_path_leads_to_the_culprit() -> None:
    def task(orders: list[Order], options: dict[str, Any]) -> None: ...

    codec = Codec(task)
    good = Order(1, Address("High Street"))
    with pytest.raises(InvalidArguments, match=r"^task\(\): orders\[1\].to.street: expected str, got int$"):
        codec.encode_args(([good, Order(2, Address(3))], {}), {})  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match=r"^task\(\): options.a\[1\].b: cannot encode range"):
        codec.encode_args(([good], {"a": [0, {"b": range(3)}]}), {})


def test_instances_are_looked_into() -> None:
    # msgspec.convert() takes an instance of the right class as it is, whatever is inside.
    with pytest.raises(InvalidArguments, match=r"x.number: expected int, got str"):
        taking(Address).encode_args((Address("a", "b"),), {})  # type: ignore[arg-type]


def test_data_that_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidArguments, match="nested too deeply, or contains itself"):
        taking(Any).encode_args((loop,), {})


def test_text_that_is_not_unicode() -> None:
    with pytest.raises(InvalidArguments, match=r"^task\(\): x: .*surrogates"):
        taking(str).encode_args(("\ud800",), {})


def test_constraints_are_checked() -> None:
    with pytest.raises(InvalidArguments, match=r"^task\(\): x: expected int >= 1$"):
        taking(Annotated[int, msgspec.Meta(ge=1)]).encode_args((0,), {})


class Array:
    """Stands for numpy's and its like."""


def test_unknown_types_name_the_way_out() -> None:
    with pytest.raises(InvalidArguments, match=r"x: cannot encode .*Array: pass plain data .*enc_hook"):
        taking(Array).encode_args((Array(),), {})
    with pytest.raises(InvalidArguments, match=r"x: cannot decode .*Array from list: give App\(dec_hook="):
        Codec(taking_array, enc_hook=lambda value: [1]).encode_args((Array(),), {})


def taking_array(x: Array) -> None: ...


def test_never_pickle() -> None:
    for value in (Array(), Array, test_never_pickle, ValueError("x")):  # pickle could do all of these
        with pytest.raises(InvalidArguments, match="x: cannot encode"):
            taking(Any).encode_args((value,), {})


# Which types survive

INT64 = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text(max_size=20)
AWARE = st.datetimes(timezones=st.just(UTC))
ADDRESSES = st.builds(Address, TEXT, INT64)
TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, INT64),
    (float, st.floats(allow_nan=False)),
    (bool, st.booleans()),
    (str, TEXT),
    (bytes, st.binary(max_size=20)),
    (bytearray, st.binary(max_size=20).map(bytearray)),
    (None, st.none()),
    (datetime, st.datetimes() | AWARE),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas(timedelta(days=-10000), timedelta(days=10000))),
    (Decimal, st.decimals(allow_nan=False)),
    (UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (int | None, st.none() | INT64),
    (int | str | None, st.none() | INT64 | TEXT),
    (list[int], st.lists(INT64)),
    (Sequence[str], st.lists(TEXT)),
    (set[int], st.sets(INT64)),
    (frozenset[str], st.frozensets(TEXT)),
    (tuple[int, str], st.tuples(INT64, TEXT)),
    (tuple[date, ...], st.lists(st.dates()).map(tuple)),
    (dict[str, int], st.dictionaries(TEXT, INT64)),
    (Mapping[int, bytes], st.dictionaries(INT64, st.binary(max_size=5))),
    (dict[UUID, list[tuple[int, date | None]]],
     st.dictionaries(st.uuids(), st.lists(st.tuples(INT64, st.none() | st.dates())))),
    (Address, ADDRESSES),
    (Order, st.builds(Order, INT64, ADDRESSES)),
    (list[Order] | None, st.none() | st.lists(st.builds(Order, INT64, ADDRESSES), max_size=3)),
    (Point, st.builds(Point, INT64, INT64)),
    (Movie, st.fixed_dictionaries({}, optional={"title": TEXT, "year": INT64})),
    (Path, TEXT.map(Path)),
    (PurePosixPath | None, st.none() | TEXT.map(PurePosixPath)),
    (list[Path], st.lists(TEXT.map(Path))),
    (Slug, TEXT.map(Slug)),
    (dict[Slug, Slug], st.dictionaries(TEXT.map(Slug), TEXT.map(Slug))),
    (Metres, st.floats(allow_nan=False).map(Metres)),
    (Count, INT64.map(Count)),
    (Blob, st.binary(max_size=20).map(Blob)),
    (Moment, st.builds(Moment, st.integers(1, 9999), st.integers(1, 12), st.integers(1, 28), st.integers(0, 23))),
    (Moment, st.builds(Moment, st.integers(1, 9999), st.just(1), st.just(1), tzinfo=st.just(UTC))),
    (Day, st.builds(Day, st.integers(1, 9999), st.integers(1, 12), st.integers(1, 28))),
    (Clock, st.builds(Clock, st.integers(0, 23), st.integers(0, 59))),
    (Span, st.builds(Span, st.integers(-999, 999), st.integers(0, 86399), st.integers(0, 999999))),
    (Money, st.decimals(allow_nan=False).map(Money)),
    (DriverUUID, st.uuids().map(lambda u: DriverUUID(int=u.int))),
    (User, st.builds(User, name=TEXT, born=st.dates(), tags=st.sets(TEXT))),
    (list[User] | None, st.none() | st.lists(st.builds(User, name=TEXT), max_size=3)),
    (object, TEXT | INT64 | st.none()),
    (Any, st.recursive(st.none() | st.booleans() | INT64 | TEXT | st.binary(max_size=5) | AWARE,
                       lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values"), TYPES, ids=[str(kind) for kind, _ in TYPES])
def test_round_trips(kind: Any, values: st.SearchStrategy[Any]) -> None:
    arguments, result = taking(kind), returning(kind)

    @settings(UNIT, max_examples=25)
    @given(values)
    def check(value: Any) -> None:
        ((back,), kwargs) = through(arguments, value)
        assert back == value
        assert type(back) is type(value)
        assert not kwargs
        found = result.decode_result(result.encode_result(value))
        assert found == value
        assert type(found) is type(value)

    check()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Slug("<b>"), str),
        (Count(3), int),
        (Metres(1.5), float),
        (Blob(b"x"), bytes),
        (Moment(2030, 1, 1), datetime),
        (Day(2030, 1, 1), date),
        (Span(1), timedelta),
        (Money("1.5"), Decimal),
        (DriverUUID(int=3), UUID),
    ],
)
def test_subclasses_travel_as_what_they_extend(value: Any, plain: type) -> None:
    ((back,), _) = through(taking(plain), value)
    assert back == value
    assert type(back) is plain


def test_containers_travel_as_what_they_extend() -> None:
    value = {"a": collections.OrderedDict(b=Slug("c")), "d": collections.Counter("ee")}
    assert through(taking(dict[str, dict[str, Any]]), value) == ((value,), {})


def test_a_secret_fails_rather_than_travel_as_asterisks() -> None:
    with pytest.raises(InvalidArguments, match=r"x: cannot encode pydantic.*SecretStr"):
        taking(Login).encode_args((Login(password=pydantic.SecretStr("hunter2")),), {})


def test_a_model_is_validated_at_the_worker() -> None:
    with pytest.raises(InvalidArguments, match=r"(?s)x: .*Extra inputs are not permitted"):
        taking(User).decode_args(msgspec.msgpack.encode({"x": {"name": "a", "nam": 1}}))


# Hooks


def test_the_users_hooks_come_first() -> None:
    def task(at: complex, path: Path, slug: Slug) -> complex:
        return at

    def enc(value: Any) -> Any:
        if isinstance(value, complex):
            return [value.real, value.imag]
        if isinstance(value, Path):
            return value.parts
        raise NotImplementedError

    def dec(kind: type, value: Any) -> Any:
        if kind is complex:
            return complex(*value)
        if kind is Path:
            return Path(*value)
        raise NotImplementedError

    codec = Codec(task, enc_hook=enc, dec_hook=dec)
    raw = codec.encode_args((1 + 2j, Path("a/b"), Slug("s")), {})
    assert msgspec.msgpack.decode(raw) == {"at": [1.0, 2.0], "path": ["a", "b"], "slug": "s"}
    assert codec.decode_args(raw) == ((1 + 2j, Path("a/b"), Slug("s")), {})
    assert codec.decode_result(codec.encode_result(3j)) == 3j


def test_a_hooks_own_words_are_kept() -> None:
    def enc(value: Any) -> Any:
        raise TypeError("no sockets, please")

    def broken(value: Any) -> Any:
        raise KeyError("oops")

    assert Codec(taking_any, enc_hook=enc).encode_args((Slug("x"),), {})
    with pytest.raises(InvalidArguments, match=r"^taking_any\(\): x: no sockets, please$"):
        Codec(taking_any, enc_hook=enc).encode_args((object(),), {})
    with pytest.raises(InvalidArguments, match=r"^taking_any\(\): x: KeyError: 'oops'$"):
        Codec(taking_any, enc_hook=broken).encode_args((object(),), {})


def taking_any(x: Any) -> None: ...


# Registration


class CatA(msgspec.Struct):
    a: int


class CatB(msgspec.Struct):
    b: int


@pytest.mark.parametrize(
    ("kind", "fix"),
    [
        (UUID | str, "annotate one of them"),
        (datetime | date, "annotate one of them"),
        (CatA | CatB, "tag=True"),
        (Address | CatA, "tag"),
        (list[CatA | CatB], "tag=True"),
        (Path | str, "annotate this type alone or with None"),
        (list[int] | set[int], "annotate one of them"),
    ],
    ids=str,
)
def test_what_cannot_be_told_apart_is_no_task(kind: Any, fix: str) -> None:
    with pytest.raises(InvalidTask, match=rf"(?s)^task\(\): x: .*Fix: .*{fix}"):
        taking(kind)
    with pytest.raises(InvalidTask, match=rf"(?s)^task\(\): return: .*Fix: .*{fix}"):
        returning(kind)


def test_bad_annotations_are_no_task() -> None:
    with pytest.raises(InvalidTask, match=r"^task\(\): x: bad annotation 'int \+'"):
        taking("int +")


def test_a_forward_reference_is_resolved_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = taking("Later | None")
    worker = taking("list[Later]")
    result = returning("Later")
    monkeypatch.setitem(globals(), "Later", CatA)
    assert through(codec, CatA(1)) == ((CatA(1),), {})
    assert worker.decode_args(b"\x81\xa1x\x91\x81\xa1a\x01") == (([CatA(1)],), {})
    assert result.decode_result(result.encode_result(CatA(1))) == CatA(1)


def test_a_bad_union_behind_a_forward_reference_is_found_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = taking("Later | str")
    monkeypatch.setitem(globals(), "Later", UUID)
    with pytest.raises(InvalidTask, match=r"^task\(\): x: .*Fix: "):
        codec.encode_args(("x",), {})


def only_for_checkers(a: int, b: Missing) -> Missing:
    return b


def test_names_imported_for_type_checkers_only() -> None:
    codec = Codec(only_for_checkers)
    words = r"^only_for_checkers\(\): b: annotation 'Missing' cannot be resolved \(name 'Missing'.*TYPE_CHECKING"
    for use in (
        codec.check,
        lambda: codec.encode_args((1, 2), {}),
        lambda: codec.decode_args(b"\x80"),
        lambda: codec.decode_args(b"\x81\xa1*\x92\x01\x02"),
    ):
        with pytest.raises(InvalidTask, match=words):
            use()


def test_a_result_whose_type_cannot_be_resolved_is_untyped(caplog: pytest.LogCaptureFixture) -> None:
    codec = Codec(only_for_checkers)
    assert codec.decode_result(codec.encode_result({"a": [1]})) == {"a": [1]}
    assert caplog.text.count("results are not checked") == 1


def test_recursive_types_and_closures() -> None:
    class Local(msgspec.Struct):
        n: int

    def task(node: Node, local: Local) -> None:
        Local(1)  # in the closure, hence resolvable

    tree = Node([Node(), Node([Node()])])
    assert through(Codec(task), tree, Local(2)) == ((tree, Local(2)), {})


def test_check_accepts_what_is_fine() -> None:
    Codec(send_receipt).check()


# Results


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, "x", "task(): result: expected int, got str"),
        (None, 1, "task(): result: expected null, got int"),
        (list[int], [1, "x"], "task(): result [1]: expected int, got str"),
        (Any, [{"a": object()}], "task(): result [0].a: cannot encode object"),
        (Any, 2**70, "task(): result: an int beyond 64 bits"),
        (Array, Array(), "task(): result: cannot encode"),
    ],
)
def test_results_that_do_not_fit(kind: Any, value: Any, words: str) -> None:
    with pytest.raises(UnencodableResult) as caught:
        returning(kind).encode_result(value)
    assert str(caught.value).startswith(words)
    assert isinstance(caught.value, PenstockError)


def test_the_type_of_a_coroutines_result() -> None:
    codec = returning(Coroutine[Any, Any, date])
    assert codec.decode_result(codec.encode_result(date(2030, 1, 1))) == date(2030, 1, 1)


def test_no_return_and_none() -> None:
    assert returning(NoReturn).encode_result(None) == b"\xc0"
    assert returning(None).encode_result(None) == b"\xc0"


def test_an_encoded_result_passes_through() -> None:
    codec = returning(int)
    assert codec.encode_result(msgspec.Raw(b"\x07")) == b"\x07"
    assert codec.decode_result(msgspec.Raw(b"\x07")) == 7


# A producer without the code


def test_positional_arguments_without_names() -> None:
    def task(a: int, /, b: date, *rest: int, key: Path, **more: str) -> None: ...

    untyped, worker = UntypedCodec("shop.task"), Codec(task)
    day = date(2030, 1, 1)
    raw = untyped.encode_args((1, day, 3, 4), {"key": Path("p"), "extra": "e"})
    assert msgspec.msgpack.decode(raw)["*"] == [1, "2030-01-01", 3, 4]
    assert worker.decode_args(raw) == ((1, day, 3, 4), {"key": Path("p"), "extra": "e"})
    assert worker.decode_args(msgspec.Raw(raw)) == worker.decode_args(raw)


def test_keywords_alone_without_the_code() -> None:
    raw = UntypedCodec("shop.send_receipt").encode_args((), {"order_id": 1})
    assert Codec(send_receipt).decode_args(raw) == ((1,), {"copy": False})


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((object(),), {}, "shop.x(): argument 1: cannot encode object"),
        ((1, 2**70), {}, "shop.x(): argument 2: an int beyond 64 bits"),
        ((), {"a": [range(2)]}, "shop.x(): a[0]: cannot encode range"),
        ((), {"*": 1}, "shop.x(): '*' cannot be the name of an argument"),
    ],
)
def test_misfits_without_the_code(args: tuple[Any, ...], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        UntypedCodec("shop.x").encode_args(args, kwargs)
    assert str(caught.value).startswith(words)


def test_results_without_the_code() -> None:
    raw = returning(Address).encode_result(Address("s", 2))
    assert UntypedCodec("x").decode_result(raw) == {"street": "s", "number": 2}


@UNIT
@given(st.lists(INT64, max_size=4).map(tuple), st.dictionaries(st.sampled_from(["a", "b", "c"]), TEXT, max_size=2))
def test_both_producers_mean_the_same_call(args: tuple[int, ...], kwargs: dict[str, str]) -> None:
    def task(a: int = 0, *rest: int, **more: str) -> None: ...

    codec = Codec(task)
    if args:
        kwargs = {name: value for name, value in kwargs.items() if name != "a"}
    try:
        named = codec.encode_args(args, kwargs)
    except InvalidArguments:
        assert "a" in kwargs
        return
    assert codec.decode_args(UntypedCodec("x").encode_args(args, kwargs)) == codec.decode_args(named)
