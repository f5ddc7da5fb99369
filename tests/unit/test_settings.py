"""Settings from the environment: what is ours, what is misspelt, and what Kubernetes puts there."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigurationError
from penstock.settings import load_settings


@pytest.mark.parametrize(
    "variable",
    [
        "PENSTOCK_SERVICE_HOST", "PENSTOCK_SERVICE_PORT", "PENSTOCK_PORT", "PENSTOCK_EXPORTER_SERVICE_HOST",
        "PENSTOCK_EXPORTER_SERVICE_PORT_METRICS", "PENSTOCK_EXPORTER_PORT", "PENSTOCK_EXPORTER_PORT_9808_TCP",
        "PENSTOCK_EXPORTER_PORT_9808_TCP_PROTO", "PENSTOCK_MY_REDIS_PORT_6379_TCP_ADDR",
    ],
)  # fmt: skip
def test_variables_of_a_service_in_kubernetes_are_no_settings(variable: str) -> None:
    """Every pod of a namespace has them, also a producer that never heard of the service."""
    assert load_settings({}, {variable: "tcp://10.0.0.1:9808"}) == load_settings({}, {})


@pytest.mark.parametrize("variable", ["PENSTOCK_LAESE", "PENSTOCK_PORTS", "PENSTOCK_SERVICE", "PENSTOCK_EXPORTER_HOST"])
def test_a_misspelt_variable_is_an_error(variable: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{variable}: no such setting"):
        load_settings({}, {variable: "5"})
