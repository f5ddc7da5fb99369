"""A library with tasks. It knows no app: whoever uses it includes `tasks`."""

from penstock import Context, TaskOptions, TaskSet

tasks = TaskSet(defaults=TaskOptions(queue="images", timeout=60))


@tasks.task(name="imaging.thumbnail")
def thumbnail(path: str, width: int = 100) -> str:
    return f"{path}@{width}"


@tasks.task(name="imaging.describe", bind=True, priority="low")
async def describe(ctx: Context, path: str) -> str:
    return f"{path} described on the queue {ctx.queue}"
