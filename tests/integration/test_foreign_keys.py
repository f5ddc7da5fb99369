"""Somebody else's data under our names: what cannot be served is loud, and harms nothing else."""

from __future__ import annotations

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import BrokerError
from penstock.events import QueueLeftOut
from penstock.streams import keys
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen
from tests.servers import await_until

pytestmark = pytest.mark.anyio


async def test_a_queue_whose_stream_is_no_stream_does_not_hold_up_the_others(
    make_app: MakeApp, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(lease=1.0)
    seen = Seen(app)

    @app.task(name="good", queue="good")
    async def good() -> int:
        return 1

    @app.task(name="bad", queue="bad")
    async def bad() -> int:
        return 2

    stream = keys.stream(keys.base(namespace, "bad"), "default")
    raw.set(stream, "somebody else's")
    async with app.running():
        await await_until(lambda: "queue bad cannot be served" in caplog.text)
        assert [await (await good.adelay()) for _ in range(5)] == [1] * 5
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            await bad.adelay()
        assert "WRONGTYPE" in seen.of(QueueLeftOut, queue="bad")[0].error
        raw.delete(stream)
        assert await (await bad.adelay()).aget(20) == 2  # served again by itself


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    entries=st.lists(
        st.one_of(
            st.tuples(st.binary(max_size=300), st.binary(max_size=300)),
            st.tuples(
                st.binary(min_size=1, max_size=30),
                st.recursive(
                    st.none()
                    | st.booleans()
                    | st.integers(-(2**63), 2**64 - 1)
                    | st.text(max_size=9)
                    | st.binary(max_size=9),
                    lambda inner: (
                        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("navotrh"), inner, max_size=7)
                    ),
                    max_leaves=8,
                ).map(msgspec.msgpack.encode),
            ),
        ),
        min_size=1,
        max_size=20,
    )
)
async def test_hostile_entries_never_stop_a_worker(
    make_app: MakeApp, raw: redis.Redis, namespace: str, entries: list[tuple[bytes, bytes]]
) -> None:
    app = make_app(unknown_ttl=0)

    @app.task(name="fine")
    async def fine() -> int:
        return 1

    stream = keys.stream(keys.base(namespace, "default"), "default")
    for key, message in entries:
        raw.xadd(stream, {"k": key, "m": message})
    async with app.running():
        assert await (await fine.adelay()).aget(20) == 1
        await await_until(lambda: raw.xlen(stream) == 0)
    await app.aclose()
