"""Writes all dashboards."""

from __future__ import annotations

from pathlib import Path

from grafana.boards import overview, queue, redis, task, worker

FOLDER = Path(__file__).parents[1] / "dashboards"


def dashboards() -> dict[str, str]:
    """The JSON of each, by its file's name."""
    boards = {"overview": overview, "queue": queue, "task": task, "worker": worker, "redis": redis}
    return {f"penstock-{name}.json": module.build().json() for name, module in boards.items()}


def main() -> None:
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
