"""Results and what is known of a task: states, times, errors, handles made from an id.

python examples/results_and_info.py
"""

import os
import tempfile
from datetime import date
from pathlib import Path

import msgspec

from penstock import App, ResultNotKept, TaskFailed, TaskNotFound

app = App("results", url=os.environ.get("PENSTOCK_URL") or f"embedded://{tempfile.mkdtemp()}")


class Report(msgspec.Struct):
    day: date
    lines: int
    source: Path


@app.task(result_ttl=600)  # seconds; the default is an hour
def count_lines(source: Path) -> Report:
    return Report(day=date(2024, 2, 29), lines=len(source.read_text("utf-8").splitlines()), source=source)


@app.task(result_ttl=0)  # nobody reads it: none is stored
def touch() -> str:
    return "a result that is dropped"


@app.task
def divide(a: int, b: int) -> float:
    return a / b


def waiting_for_a_worker() -> None:
    handle = divide.delay(1, 2)
    print(f"{handle.state()}, done: {handle.done()}")
    try:
        handle.get(timeout=0.1)  # no worker is up yet
    except TimeoutError as error:  # ResultTimeout is one
        print(f"not yet: {type(error).__name__}")
    try:
        divide.handle("never-sent").state()
    except TaskNotFound:
        print("never-sent is not known; it is never taken for one that waits")


def with_a_worker() -> None:
    handle = count_lines.options(id="report", meta={"asked_by": "ada"}).delay(Path(__file__))
    report = handle.get(timeout=10)  # a Report again, with a date and a Path in it
    print(f"{type(report).__name__} of {report.day:%B %d}: {report.source.name}, {report.lines > 50}")

    info = count_lines.handle("report").info()  # from the id alone, in any process
    print(f"{info.name} {info.state}, attempt {info.attempt}, run once: {info.deliveries <= 1}")
    if info.enqueued_at and info.started_at and info.finished_at:
        print(f"in order: {info.enqueued_at <= info.started_at <= info.finished_at}")

    try:
        divide.delay(1, 0).get(timeout=10)
    except TaskFailed as error:  # with the remote type, message and traceback; all of it is text
        print(f"{error.type}: {error.message}; line of the fault shown: {'return a / b' in error.traceback}")

    dropped = touch.delay()
    try:
        dropped.get(timeout=10)
    except ResultNotKept:
        print(f"touch {dropped.state()}, and its result was not kept")


if __name__ == "__main__":
    waiting_for_a_worker()
    with app.running():
        with_a_worker()
