"""Metrics and probes over HTTP: a WSGI site for a server of our own, and apps to be mounted in others'."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_asgi_app, make_wsgi_app

from penstock.errors import ConfigurationError
from penstock.metrics.exporter import Exporter

Start = Callable[[str, list[tuple[str, str]]], Any]
WsgiApp = Callable[[dict[str, Any], Start], Iterable[bytes]]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]
#: What answers a probe: whether it is well, and what is said of it.
Probe = Callable[[], tuple[bool, Mapping[str, object]]]

#: Seconds after which a client that says nothing is hung up on.
_PATIENCE = 10.0
_PLAIN = "text/plain; charset=utf-8"


def wsgi_app(exporter: Exporter) -> WsgiApp:
    """A WSGI app that answers with the metrics, at whatever path it is mounted."""
    app: WsgiApp = make_wsgi_app(exporter.registry)
    return app


def asgi_app(exporter: Exporter) -> AsgiApp:
    """An ASGI app that answers with the metrics, at whatever path it is mounted. Redis is read in a thread."""
    metrics = make_asgi_app(exporter.registry)

    async def app(scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        await asyncio.to_thread(exporter.refresh)
        await metrics(scope, receive, send)

    return app


def health(exporter: Exporter) -> Probe:
    """Well as long as it answers: to start it anew would not bring Redis back."""

    def probe() -> tuple[bool, Mapping[str, object]]:
        answer = exporter.refresh()
        return True, {"redis_up": answer.reading is not None, "error": answer.error, "read_seconds": answer.took}

    return probe


class Site:
    """A WSGI app: ``/metrics``, probes at their paths (JSON; 200 or 503), and a page that names them at ``/``."""

    def __init__(self, registry: CollectorRegistry, probes: Mapping[str, Probe]) -> None:
        self._metrics: WsgiApp = make_wsgi_app(registry)
        self._probes = probes

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/").rstrip("/") or "/"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answer(start, "405 Method Not Allowed", _PLAIN, "only GET and HEAD are answered here\n")
        if path == "/metrics":
            return self._metrics(environ, start)
        if path in self._probes:
            well, said = self._probes[path]()
            text = json.dumps({"status": "ok" if well else "failed", **said}) + "\n"
            return _answer(start, "200 OK" if well else "503 Service Unavailable", "application/json", text)
        if path == "/":
            links = "".join(f'<li><a href="{each}">{each}</a></li>' for each in ("/metrics", *self._probes))
            page = f"<!doctype html><title>penstock</title><h1>penstock</h1><ul>{links}</ul>\n"
            return _answer(start, "200 OK", "text/html; charset=utf-8", page)
        known = ", ".join(("/metrics", *self._probes))
        return _answer(start, "404 Not Found", _PLAIN, f"nothing is here; there is {known}\n")


def _answer(start: Start, status: str, content_type: str, text: str) -> Iterable[bytes]:
    body = text.encode()
    start(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE

    def address_string(self) -> str:
        return str(self.client_address[0])  # no look-up of a name

    def log_message(self, format: str, *args: Any) -> None:
        """A line for each scrape would be noise."""


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: who is slow keeps nobody waiting."""

    daemon_threads = True

    @property
    def place(self) -> str:
        """Host and port."""
        return (
            f"[{self.server_name}]:{self.server_port}"
            if ":" in self.server_name
            else f"{self.server_name}:{self.server_port}"
        )

    def server_bind(self) -> None:
        # WSGIServer asks DNS for the name of the host, which may take seconds, and is used by nobody here.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


def listen(site: Site, host: str, port: int) -> Server:
    """A server that has the port, for `serve_forever`. Port 0: any free one, see `server_port`.

    Raises `ConfigurationError` if it cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        kind = type("Server", (Server,), {"address_family": family})
        server: Server = kind((host, port), _Handler)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from error
    server.set_app(site)
    return server
