"""An asyncio program (or a notebook) with its worker inside: `async with app.running()`.

    python examples/notebook_style.py

In a notebook each cell may use `await` directly. Tasks that are defined there need `name=`, since no other
process could import them.
"""

import asyncio
import os
import tempfile

from penstock import App, Context

app = App("notebook", url=os.environ.get("PENSTOCK_URL") or f"embedded://{tempfile.mkdtemp()}")


@app.task(name="notebook.embed")
async def embed(text: str) -> list[float]:
    await asyncio.sleep(0.01)  # a model somewhere
    return [len(word) / 10 for word in text.split()]


@app.task(name="notebook.compare", bind=True)
async def compare(ctx: Context, one: str, other: str) -> float:
    """A task may send others and await them. It keeps its slot meanwhile: leave enough of them."""
    a, b = await asyncio.gather(*[(await embed.adelay(text)).aget(timeout=10) for text in (one, other)])
    return abs(sum(a) - sum(b))


async def main() -> None:
    async with app, app.running(concurrency=20):
        print(await (await embed.adelay("to be or not to be")))
        handles = await embed.abulk([(f"text {i}",) for i in range(100)])
        vectors = await asyncio.gather(*handles)
        print(f"{len(vectors)} texts embedded")
        print(f"difference: {await (await compare.adelay('a bc', 'a bcd')):.1f}")

    # Without a worker tasks wait. `adrain` (in sync code `drain`) runs one until nothing is left.
    handles = await embed.abulk([("one",), ("two",)])
    print([str(await handle.astate()) for handle in handles])
    await app.adrain(timeout=30)
    print([str(await handle.astate()) for handle in handles])
    await app.aclose()


if __name__ == "__main__":
    asyncio.run(main())
