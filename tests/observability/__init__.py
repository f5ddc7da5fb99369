"""The exporter, the dashboards and the rules on a real Prometheus and Alertmanager: `make test-observability`."""
