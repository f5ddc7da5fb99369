import imaging

from shop.app import app


@app.task
def add_item(name: str) -> str:
    # Tasks of a library are sent like one's own, once an app has included them.
    return imaging.thumbnail.delay(f"{name}.png", width=50).id
