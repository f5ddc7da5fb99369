"""The shortest program: one task, a worker in the same process, one result.

    python examples/quickstart.py

Here, as in all examples, a server is started in a temporary folder; PENSTOCK_URL names another one.
"""

import os
import tempfile

from penstock import App

app = App("shop", url=os.environ.get("PENSTOCK_URL") or f"embedded://{tempfile.mkdtemp()}")


@app.task(queue="mail", timeout=30)
async def send_receipt(order_id: int, *, copy: bool = False) -> str:
    return f"receipt {order_id} sent" + (", and a copy" if copy else "")


if __name__ == "__main__":
    with app.running():  # a worker in this process; in production: penstock -A quickstart:app worker
        handle = send_receipt.delay(42, copy=True)  # in async code: await send_receipt.adelay(42, copy=True)
        print(handle.get(timeout=10))  # in async code: await handle
