"""What a task can do when something is wrong: retry, snooze, reject; and what happens to dead letters.

python examples/retries.py
"""

import os
import tempfile

from penstock import App, Context, Reject, Retry, RetryPolicy, Snooze, TaskFailed

app = App("retries", url=os.environ.get("PENSTOCK_URL") or f"embedded://{tempfile.mkdtemp()}")

#: Stands for a service outside. (Only this example can keep it in a variable: its worker is in this process.)
service = {"is_up": False, "snoozed": 0}


# Without a policy an exception is final. With this one: after 0.05 s, 0.1 s, 0.2 s .. at most 1 s, each
# shortened at random (jitter), for connection errors only.
@app.task(bind=True, retry=RetryPolicy(max_retries=3, delay=0.05, max_delay=1, on=ConnectionError))
async def flaky(ctx: Context) -> str:
    if ctx.attempt < 3:
        raise ConnectionError("no answer")
    return f"worked in attempt {ctx.attempt}"


@app.task(bind=True)
async def asks_for_it(ctx: Context) -> str:
    if ctx.attempt == 1:
        raise Retry("the service asked us to wait", delay=0.05)  # spends an attempt
    return f"worked in attempt {ctx.attempt}"


@app.task(bind=True)
async def not_yet(ctx: Context) -> str:
    service["snoozed"] += 1
    if service["snoozed"] < 3:
        raise Snooze(0.05)  # spends no attempt
    return f"snoozed twice, and this is attempt {ctx.attempt}"


@app.task(retry=RetryPolicy(max_retries=5))
async def hopeless(order_id: int) -> None:
    raise Reject(f"order {order_id} does not exist")  # to the dead letters at once, whatever the policy says


@app.task(queue="payments", retry=RetryPolicy(max_retries=1, delay=0.05, never=ValueError))
def charge(order_id: int) -> str:
    if not service["is_up"]:
        raise ConnectionError("the bank does not answer")
    return f"order {order_id} charged"


def operate() -> None:
    """After a bug is fixed, or a service is back: look at the dead letters, and send them again."""
    handles = [charge.options(id=f"charge-{i}").delay(i) for i in (1, 2)]
    for handle in handles:
        try:
            handle.get(timeout=10)
        except TaskFailed as error:
            print(f"{handle.id} failed: {error.type}: {error.message}")
    for letter in app.dead_letters("payments").list():
        print(f"dead: {letter.id} {letter.name} {letter.args} after {letter.attempts} attempts: {letter.error}")
    service["is_up"] = True
    print(f"sent again: {app.dead_letters('payments').redrive()}")  # or app.redrive("payments:charge-1")
    for handle in handles:
        print(handle.get(timeout=10))


if __name__ == "__main__":
    with app.running():
        print(f"flaky: {flaky.delay().get(timeout=10)}")
        print(f"asks_for_it: {asks_for_it.delay().get(timeout=10)}")
        print(f"not_yet: {not_yet.delay().get(timeout=10)}")
        try:
            hopeless.delay(7).get(timeout=10)
        except TaskFailed as error:
            print(f"hopeless: {error.reason}: {error.message}")
        operate()
