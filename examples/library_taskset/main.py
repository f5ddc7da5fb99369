"""A library's TaskSet, and an application that finds its own tasks with autodiscover.

python examples/library_taskset/main.py
"""

import imaging
from shop.app import app

if __name__ == "__main__":
    # Imports shop.mail.tasks and shop.stock.tasks. A worker does it through App(imports=[...]) or by a module
    # such as this one, given as -A.
    print(f"found: {', '.join(sorted(app.autodiscover('shop')))}")
    print(f"tasks: {', '.join(sorted(app.tasks))}")

    from shop.mail.tasks import send_receipt
    from shop.stock.tasks import add_item

    with app.running():
        print(send_receipt.delay(42).get(timeout=10))
        thumbnail_id = add_item.delay("tea").get(timeout=10)
        print(f"on the queue {thumbnail_id.partition(':')[0]}: {app.handle(thumbnail_id).get(timeout=10)}")
        print(imaging.describe.delay("tea.png").get(timeout=10))
