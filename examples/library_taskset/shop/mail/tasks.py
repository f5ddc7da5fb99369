from shop.app import app


@app.task(queue="mail")
async def send_receipt(order_id: int) -> str:
    return f"receipt {order_id}"
