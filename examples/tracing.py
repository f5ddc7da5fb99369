"""One trace through a call, a retry, and the task that the task sends.

Needs ``pip install 'penstock[embedded,otel]' opentelemetry-sdk``. Spans are kept in memory here; a service would have
an exporter in place of that.
"""

from __future__ import annotations

import asyncio
import tempfile

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from penstock import App, RetryPolicy, current
from penstock.integrations.otel import OpenTelemetry

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)

app = App("shop", url=f"embedded://{tempfile.mkdtemp()}")
app.use(OpenTelemetry())


@app.task(queue="mail")
async def send_receipt(order_id: int) -> None: ...


@app.task(retry=RetryPolicy(max_retries=1, delay=0.1))
async def pay(order_id: int) -> str:
    if current().attempt == 1:
        raise ConnectionError("the bank does not answer")
    await send_receipt.adelay(order_id)
    return f"order {order_id} is paid"


async def main() -> None:
    async with app:
        with trace.get_tracer("shop").start_as_current_span("POST /orders"):
            handle = await pay.adelay(42)
        await app.adrain()  # a worker that runs until nothing is left
        print(await handle)
    finished = sorted(spans.get_finished_spans(), key=lambda span: span.start_time or 0)
    print("traces:", len({span.context.trace_id for span in finished if span.context}))
    for span in finished:
        print(f"{span.name:28} {(span.attributes or {}).get('penstock.outcome', '')}".rstrip())


if __name__ == "__main__":
    asyncio.run(main())
