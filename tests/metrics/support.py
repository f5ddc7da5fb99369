"""Reading metrics as Prometheus does."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """The samples of one answer."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    def values(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples of this name with these labels, by all of their labels."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def value(self, name: str, **labels: str) -> float:
        """The sum of those; there must be one."""
        found = self.values(name, **labels)
        assert found, f"no {name} with {labels}"
        return sum(found.values())

    def has(self, name: str, **labels: str) -> bool:
        return bool(self.values(name, **labels))


def histogram(scrape: Scrape, name: str, **labels: str) -> dict[str, float]:
    """Cumulative counts of one histogram, by upper bound."""
    return {dict(key)["le"]: value for key, value in scrape.values(f"{name}_bucket", **labels).items()}


def get(app: Any, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[str, dict[str, str], bytes]:
    """What a WSGI app answers: status, headers, body."""
    answer: dict[str, Any] = {}

    def start(status: str, found: list[tuple[str, str]]) -> None:
        answer.update(status=status, headers=dict(found))

    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", **headers}
    body = b"".join(app(environ, start))
    return answer["status"], answer["headers"], body
