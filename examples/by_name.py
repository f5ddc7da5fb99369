"""A producer that has not got the tasks' code: it knows their names only, as in another repository.

python examples/by_name.py
"""

import os
import tempfile

from penstock import App, TaskFailed

URL = os.environ.get("PENSTOCK_URL") or f"embedded://{tempfile.mkdtemp()}"

# One service: it has the code, and runs the worker.
mail = App("mail-service", url=URL)


@mail.task(name="mail.send", queue="mail")
async def send(to: str, subject: str = "hello", *, copies: int = 1) -> dict[str, int]:
    return {f"{subject} to {to}": copies}


# Another one: it has the URL. Arguments travel as they are given, and the worker binds and checks them.
shop = App("shop", url=URL)


def main() -> None:
    mail_send = shop.task_named("mail.send", queue="mail")
    print(mail_send.delay("ada@example.org", "welcome", copies=2).get(timeout=10))
    print(mail_send.options(priority="high", id="first-order").delay(to="bob@example.org").get(timeout=10))
    print(shop.handle("mail:first-order").info().name)  # and the handle from its id alone

    # `send` is the short form, for a task on the default queue (or that of App(defaults=...)).
    handle = shop.send("mail.nobody-knows-this", 1)
    print(f"waits for a worker that knows it: {handle.state() in ('queued', 'running', 'scheduled')}")
    print(f"given up: {handle.cancel()}")

    try:
        mail_send.options(id="typo").delay("eve@example.org", copies="two").get(timeout=1)
    except (TimeoutError, TaskFailed) as error:
        # Handed back, since another worker may have newer code; buried after `unknown_ttl` (a day).
        print(f"does not fit: {type(error).__name__}; {mail.handle('mail:typo').info().error}")
        mail.handle("mail:typo").cancel()


if __name__ == "__main__":
    with mail.running(queues=["mail", "default"]):
        main()
