"""Metrics and probes over HTTP: a WSGI site for a server of our own, and apps to be mounted in others'."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from penstock.errors import ConfigurationError
from penstock.metrics.exporter import Exporter

log = logging.getLogger("penstock.exporter")

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
    """An ASGI app that answers with the metrics, at whatever path it is mounted.

    The WSGI app in a thread: to read Redis, and to make a large namespace into text, takes longer than an event loop
    may stand still.
    """
    metrics = wsgi_app(exporter)

    async def app(scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        assert scope["type"] == "http", f"only HTTP is answered here, not {scope['type']}"
        status, headers, body = await asyncio.to_thread(_call, metrics, _environ(scope))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def _environ(scope: Mapping[str, Any]) -> dict[str, Any]:
    sent = {name.lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
    return {
        "REQUEST_METHOD": scope["method"],
        "PATH_INFO": scope.get("path", "/"),
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
        "HTTP_ACCEPT": sent.get(b"accept", ""),
        "HTTP_ACCEPT_ENCODING": sent.get(b"accept-encoding", ""),
    }


def _call(app: WsgiApp, environ: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    answer: list[tuple[str, list[tuple[str, str]]]] = []
    body = b"".join(app(environ, lambda status, headers: answer.append((status, headers))))
    status, headers = answer[0]
    return int(status.split()[0]), [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers], body


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
        if environ["REQUEST_METHOD"] == "HEAD":  # as GET, which prometheus_client knows, without the body
            list(self({**environ, "REQUEST_METHOD": "GET"}, start))
            return []
        path = environ.get("PATH_INFO", "/").rstrip("/") or "/"
        if environ["REQUEST_METHOD"] != "GET":
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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or said nothing for long, is no matter of the log's; whatever else is."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):  # TimeoutError and ConnectionError are
            log.debug("a request of %s was not answered: %s", client_address, error)
        else:
            log.error("a request of %s could not be answered", client_address, exc_info=error)

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
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: a name that is none
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from error
    server.set_app(site)
    return server
