"""A small shop that mails receipts: one task, sent from sync code, from async code, and in bulk.

    python examples/email_receipts.py

In real life the producers (a web application) and the worker are processes of their own:

    export PENSTOCK_URL=redis://localhost:6379/0
    cd examples && penstock -A email_receipts:app worker
"""

import asyncio
import os
import tempfile
from typing import Any

import msgspec

from penstock import App, InvalidArguments, RetryPolicy, TaskOptions

app = App(
    "receipts",
    url=os.environ.get("PENSTOCK_URL") or f"embedded://{tempfile.mkdtemp()}",
    # What all tasks of this app do unless their decorator says otherwise.
    defaults=TaskOptions(queue="mail", retry=RetryPolicy(max_retries=5, on=(ConnectionError, TimeoutError))),
)


class Order(msgspec.Struct):
    """Arguments are checked against the annotations, also inside structures like this one."""

    id: int
    email: str
    total: float


@app.task(timeout=30)
async def send_receipt(order: Order, *, copy: bool = False) -> str:
    await asyncio.sleep(0.01)  # the mail server
    to = order.email + (" and the shop" if copy else "")
    return f"receipt {order.id} over {order.total:.2f} to {to}"


def a_view_of_a_sync_framework() -> None:
    """Django, Flask: one round trip, no event loop needed."""
    order = Order(1, "ada@example.org", 19.9)
    # An id of your own makes sending safe to repeat: the second call changes nothing.
    first = send_receipt.options(id=f"receipt-{order.id}").delay(order, copy=True)
    again = send_receipt.options(id=f"receipt-{order.id}").delay(order, copy=True)
    print(f"sent {first.id}: new {first.created}; sent again: new {again.created}")
    print(first.get(timeout=10))


async def a_view_of_an_async_framework() -> None:
    """FastAPI, Starlette: nothing blocks the loop, and calls at the same time share a round trip."""
    orders = [Order(i, f"customer{i}@example.org", 5.0 * i) for i in range(2, 5)]
    handles = await asyncio.gather(*[send_receipt.adelay(order) for order in orders])
    for receipt in await asyncio.gather(*handles):
        print(receipt)


def a_nightly_job() -> None:
    """Many at once: a few hundred in each round trip."""
    orders = [Order(i, f"customer{i}@example.org", 1.0) for i in range(100, 600)]
    handles = app.bulk(send_receipt.options(priority="low").s(order) for order in orders)
    print(f"{len(handles)} sent in bulk; the last one: {handles[-1].get(timeout=30)}")


def a_mistake() -> None:
    """What does not fit fails here, at the call, and not later in a worker."""
    form: dict[str, Any] = {"id": 7, "email": "eve@example.org", "total": "a lot"}
    try:
        send_receipt.delay(Order(**form))
    except InvalidArguments as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    with app.running():
        a_view_of_a_sync_framework()
        asyncio.run(a_view_of_an_async_framework())
        a_nightly_job()
        a_mistake()
