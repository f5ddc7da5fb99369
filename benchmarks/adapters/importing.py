"""What `import penstock` costs a producer that has imported nothing else; prints one line of JSON."""

import sys
import time

known, start = len(sys.modules), time.perf_counter()

from penstock import App  # noqa: E402 - it is what is measured

app = App("bench", url="redis://localhost:6379/0")


@app.task(name="nothing")
def nothing() -> None: ...


milliseconds = (time.perf_counter() - start) * 1e3
# `json` is not imported for it: penstock could then use it for nothing.
print(f'{{"ms": {milliseconds}, "modules": {len(sys.modules) - known}}}')
