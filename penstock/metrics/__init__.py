"""What is seen from outside: the metrics of a namespace, for Prometheus.

`penstock exporter` serves them; `Exporter`, `wsgi_app` and `asgi_app` put them into a program of your own::

    from penstock.metrics import Exporter, asgi_app

    api.mount("/metrics", asgi_app(Exporter.for_app(app)))
"""

from __future__ import annotations

from penstock.metrics.exporter import Exporter
from penstock.metrics.http import asgi_app, wsgi_app

__all__ = ["Exporter", "asgi_app", "wsgi_app"]
