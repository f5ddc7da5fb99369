"""TCP proxies for tests: one that speaks TLS, one that loses a reply."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.access import ACCESS

Wrap = Callable[[socket.socket], socket.socket]
Keep = Callable[[bytes], bool]


@contextmanager
def proxy(target: int, wrap: Wrap = ACCESS.wrap, keep_reply_to: Keep = lambda _: True) -> Iterator[int]:
    """A port that leads to `target` on loopback.

    `wrap` makes an accepted socket the one to talk to: one that speaks TLS, if the servers of this
    run do. When `keep_reply_to` says False to a request, that request is passed on and its
    connection is closed before the reply arrives.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    opened: list[socket.socket] = []

    def run(work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        threads.append(thread)
        thread.start()

    def accept() -> None:
        with suppress(OSError):
            while True:
                run(serve, listener.accept()[0])

    def serve(plain: socket.socket) -> None:
        with plain, suppress(OSError), wrap(plain) as client, socket.create_connection(("127.0.0.1", target)) as server:
            opened.extend((client, server))
            losing = threading.Event()
            run(answer, server, client, losing)
            while data := client.recv(65536):
                if not keep_reply_to(data):
                    losing.set()
                server.sendall(data)
            end(server)

    def answer(server: socket.socket, client: socket.socket, losing: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if losing.is_set():
                    break
                client.sendall(data)
        end(client)

    def end(one: socket.socket) -> None:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)

    run(accept)
    try:
        yield listener.getsockname()[1]
    finally:
        end(listener)
        listener.close()
        for one in opened:
            end(one)
        for thread in threads:
            thread.join(timeout=5)


@contextmanager
def tls_proxy(target: int, certificates: Path, client_certificate: bool = False) -> Iterator[int]:
    """A port that speaks TLS with ``server.pem``; `client_certificate`: demands one of the same CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    if client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca.pem")
    with proxy(target, wrap=lambda plain: context.wrap_socket(plain, server_side=True)) as port:
        yield port
