"""Speaks TLS for a server that cannot: ``python tls_front.py HOST PORT TO-HOST TO-PORT CERTIFICATES``.

A process of its own, as the server is one: what a test does to its own process (blocking the loop,
holding the GIL) must not stop the server. It ends with the process that started it, by its stdin.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path


def die_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes on what comes; at its end the other side is told."""
    with suppress(OSError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(host: str, port: str, to_host: str, to_port: str, certificates: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    folder = Path(certificates)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(to_host, int(to_port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(relay(reader, to_server), relay(from_server, writer))

    server = await asyncio.start_server(serve, host, int(port), ssl=context, backlog=500)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    threading.Thread(target=die_with_parent, daemon=True).start()
    asyncio.run(main(*sys.argv[1:]))
