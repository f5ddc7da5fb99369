"""Every target with its seeds, with what a fuzzer has found, and with what Hypothesis makes up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

FOUND = sorted((Path(__file__).parent / "found").iterdir())
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.timezones()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
fields = st.dictionaries(st.sampled_from([*"navotrh", "type", "lease", "pid"]), plain, max_size=8)
#: Bytes that are no msgpack, nearly some, or some that means nothing here.
hostile = st.one_of(
    st.binary(max_size=400),
    plain.map(msgspec.msgpack.encode),
    fields.map(msgspec.msgpack.encode),
    st.tuples(fields.map(msgspec.msgpack.encode), st.binary(max_size=9)).map(lambda both: both[0] + both[1]),
    st.tuples(st.sampled_from([b"\x91", b"\x81\xa1a", b"\x81\xa1n"]), st.integers(1, 3000)).map(lambda t: t[0] * t[1]),
    st.sampled_from([b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"]).map(lambda code: code + b"\xff\xff\xff\xff"),
)


@pytest.mark.parametrize("name", TARGETS)
def test_real_input(name: str) -> None:
    target, seeds = TARGETS[name]
    assert seeds
    for seed in seeds:
        target(seed)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
@pytest.mark.timeout(10)
def test_what_was_found(path: Path) -> None:
    target, _ = TARGETS[path.name.partition("-")[0]]
    target(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=hostile)
def test_made_up_input(name: str, data: bytes) -> None:
    target, _ = TARGETS[name]
    target(data)
