"""Where the server is: the order in which its URL is looked for, and what each scheme means.

Nothing here opens a connection. No password leaves this module in a repr, a str or an error.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote, unquote

import msgspec
from msgspec.structs import replace

from penstock.errors import ConfigurationError
from penstock.settings import did_you_mean
from penstock.streams.redact import OPTIONS, SCHEME, TLS, is_like_an_option, safe_url

DEFAULT_URL = "redis://localhost:6379/0"

Kind = Literal["tcp", "unix", "sentinel", "cluster", "embedded"]

_SCHEMES: dict[str, Kind] = {
    "redis": "tcp",
    "rediss": "tcp",
    "unix": "unix",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "embedded": "embedded",
}
#: redis-py's own URL options that are settings here.
_SETTINGS = {"socket_timeout": "command_timeout", "socket_connect_timeout": "connect_timeout"}
#: sun_path holds 108 bytes on Linux and 104 on macOS, the closing NUL included.
SOCKET_PATH_MAX = 103 if sys.platform == "darwin" else 107


class Address(msgspec.Struct, frozen=True):
    """A URL and where it came from. `repr` and `str` show it without its passwords.

    Attributes:
        url: as given, passwords included.
        source: ``"argument"``, the name of the environment variable, or ``"default"``.
    """

    url: str
    source: str = "argument"

    @property
    def display(self) -> str:
        """The URL without its passwords."""
        return safe_url(self.url)

    @property
    def place(self) -> str:
        """Host and port, or the path: what tells one server from another, without user, password and options."""
        _, _, rest = self.display.partition("://")
        return rest.partition("?")[0].rpartition("@")[2].removesuffix("/0")

    @property
    def is_embedded(self) -> bool:
        return self.url.startswith("embedded:")

    @property
    def is_default(self) -> bool:
        return self.source == "default"

    def __str__(self) -> str:
        return self.display

    def __repr__(self) -> str:
        return f"Address({self.display!r}, source={self.source!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # a Struct's own shows all fields
        return [("url", self.display), ("source", self.source)]


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """TLS options, by the names that redis-py gives them."""

    ssl_ca_certs: str | None = None
    ssl_ca_path: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: str | None = None
    ssl_cert_reqs: str = "required"
    ssl_check_hostname: bool = True

    def __repr__(self) -> str:
        return "Tls(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL means. `path` is a socket (unix) or an absolute folder (embedded)."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: Tls | None = None

    def __repr__(self) -> str:
        return f"Target(kind={self.kind!r}, hosts={self.hosts!r}, path={self.path!r}, db={self.db})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in ("kind", "hosts", "path", "db")]


def resolve_url(given: str | None, env: Mapping[str, str] | None = None) -> Address:
    """`given`, else PENSTOCK_URL, REDIS_URL, REDIS_HOST and its companions, else localhost.

    An empty variable counts as unset. Raises `ConfigurationError` if the URL makes no sense.
    """
    env = os.environ if env is None else env
    if given is not None:
        if not isinstance(given, str):
            raise ConfigurationError(f"url must be a string, not {type(given).__name__}")
        address = Address(given)
    else:
        address = _from_environment(env)
    parse(address)
    return address


def parse(address: Address) -> Target:
    """What `address` means. Raises `ConfigurationError`; its text holds no password."""
    scheme, separator, rest = address.url.partition("://")
    if not separator:
        raise _wrong(address, f"a URL starts with one of {', '.join(s + '://' for s in _SCHEMES)}")
    kind = _SCHEMES.get(scheme)
    if kind is None:
        named = f" {scheme!r}{did_you_mean(scheme, _SCHEMES)}" if SCHEME.fullmatch(scheme) else ""
        raise _wrong(address, f"unknown scheme{named}")
    if kind == "embedded":
        if not rest:
            raise _wrong(address, "a folder is missing, as in embedded://./data or embedded:///var/lib/shop")
        # As in a shell; made absolute here, so that a later chdir does not move the data.
        return Target(kind=kind, path=os.path.abspath(os.path.expanduser(rest)))
    head, _, query = rest.partition("?")
    login, _, location = head.rpartition("@")
    if "password=" in location:  # as a host or path it would be in others' errors
        raise _wrong(address, "a '?' is missing before the options")
    user, _, password = login.partition(":")
    options = _options(address, scheme, query)
    target = Target(
        kind=kind,
        username=options.get("username", unquote(user)) or None,
        password=options.get("password", unquote(password)) or None,
        tls=_tls(address, scheme, options),
    )
    hosts, slash, path = location.partition("/")
    if kind == "unix":
        if hosts or not path:
            raise _wrong(address, "a socket's path is absolute, as in unix:///run/redis.sock?db=0")
        return replace(target, path=_socket(address, slash + path), db=_db(address, options.get("db", "")))
    if kind == "sentinel":
        return _sentinel(address, target, location, options)
    found = _hosts(address, hosts, 6379)
    if kind == "cluster":
        if path not in ("", "0"):
            raise _wrong(address, "a cluster has only database 0, so there is no path")
        return replace(target, hosts=found)
    if len(found) > 1:
        raise _wrong(address, "several hosts need redis+sentinel:// or redis+cluster://")
    return replace(target, hosts=found, db=_db(address, options.get("db", path)))


def _sentinel(address: Address, target: Target, location: str, options: Mapping[str, str]) -> Target:
    hosts, _, path = location.partition("/")
    service, _, db = path.partition("/")
    if not service or not hosts:
        raise _wrong(address, "must be redis+sentinel://host:port,host:port/<service name>/<db>")
    return replace(
        target,
        hosts=_hosts(address, hosts, 26379),
        service=unquote(service),
        db=_db(address, options.get("db", db)),
        sentinel_username=options.get("sentinel_username") or None,
        sentinel_password=options.get("sentinel_password") or None,
    )


def _socket(address: Address, text: str) -> str:
    path = unquote(text)
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise _wrong(address, f"a socket's path may have {SOCKET_PATH_MAX} bytes at most")
    return path


def _from_environment(env: Mapping[str, str]) -> Address:
    for variable in ("PENSTOCK_URL", "REDIS_URL"):
        if env.get(variable):
            return Address(env[variable], variable)
    parts = {name: env.get(f"REDIS_{name}", "") for name in ("HOST", "PORT", "DB", "USERNAME", "PASSWORD", "SSL")}
    # Kubernetes sets REDIS_PORT=tcp://10.0.0.7:6379 for any service named "redis": it is no sign
    # that somebody meant us, and beside REDIS_HOST only its port is of use.
    if parts["PORT"].startswith("tcp://"):
        parts["PORT"] = parts["PORT"].rpartition(":")[2] if parts["HOST"] else ""
    source = next((f"REDIS_{name}" for name, value in parts.items() if value), None)
    if source is None:
        return Address(DEFAULT_URL, "default")
    host = parts["HOST"] or "localhost"
    host = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
    if not re.fullmatch(r"\[[^\]]+\]|[^\s:/@?]+", host):
        raise ConfigurationError(f"REDIS_HOST must be a host name or an address, not {safe_url(host)!r}")
    tls = parts["SSL"] and _flag(Address("", "REDIS_SSL"), "REDIS_SSL", parts["SSL"])
    user, password = quote(parts["USERNAME"], safe=""), quote(parts["PASSWORD"], safe="")
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    for name in ("PORT", "DB"):
        if not re.fullmatch(r"[0-9]*", parts[name]):
            raise ConfigurationError(f"REDIS_{name} must be a number, not {parts[name]!r}")
    url = f"{'rediss' if tls else 'redis'}://{login}{host}:{parts['PORT'] or 6379}/{parts['DB'] or 0}"
    return Address(url, source)


def _options(address: Address, scheme: str, query: str) -> dict[str, str]:
    known = OPTIONS[scheme]
    options: dict[str, str] = {}
    for option in filter(None, query.split("&")):
        name, _, value = option.partition("=")
        name = unquote(name)
        if name in known:
            options[name] = unquote(value)
        elif name in _SETTINGS:
            raise _wrong(address, f"{name} is a setting here: App({_SETTINGS[name]}=...)")
        elif name == "ssl" or name in TLS:
            raise _wrong(address, f"option {name!r} needs the scheme rediss://")
        elif not re.fullmatch(r"[A-Za-z_]+", name):
            raise _wrong(address, "an option's name has letters and '_' only; is a '?' or '&' not percent-encoded?")
        else:
            # Else it may be what comes after a '?' or '&' in a password.
            shown = f" {name!r}{did_you_mean(name, known)}" if is_like_an_option(name) else ""
            raise _wrong(address, f"unknown option{shown}")
    return options


def _tls(address: Address, scheme: str, options: Mapping[str, str]) -> Tls | None:
    given = {name: options[name] for name in TLS if options.get(name)}
    if scheme != "rediss" and not _flag(address, "ssl", options.get("ssl", "")):
        if given:
            raise _wrong(address, f"{next(iter(given))} needs ssl=true")
        return None
    for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"):
        if name in given and not os.path.exists(given[name]):
            raise _wrong(address, f"{name}: there is no {given[name]!r}")
    if scheme == "redis+cluster":  # redis-py 8.1: RedisCluster of redis.asyncio takes neither
        for name in ("ssl_ca_path", "ssl_password"):
            if name in given:
                raise _wrong(address, f"{name} does not work with a cluster")
    # Celery's spelling is CERT_REQUIRED; the ssl module's constants have the same names.
    requirement = given.pop("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if requirement not in ("none", "optional", "required"):
        raise _wrong(address, "ssl_cert_reqs must be none, optional or required")
    check = given.pop("ssl_check_hostname", "true")
    return Tls(
        ssl_cert_reqs=requirement,
        ssl_check_hostname=_flag(address, "ssl_check_hostname", check) and requirement != "none",
        **given,
    )


def _hosts(address: Address, text: str, port: int) -> tuple[tuple[str, int], ...]:
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\s]*))(?::([0-9]*))?", part)
        if match is None or int(match[3] or port) > 65535:
            raise _wrong(
                address, "a host is name:port; in a user name or password, ':/?&@,' and '%' must be percent-encoded"
            )
        found.append((unquote(match[1] or match[2] or "localhost"), int(match[3] or port)))
    return tuple(found)


def _db(address: Address, text: str) -> int:
    if not re.fullmatch(r"[0-9]*", text):
        raise _wrong(address, "the database must be a number")
    return int(text or 0)


def _flag(address: Address, name: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("", "0", "false", "no", "off"):
        return False
    raise _wrong(address, f"{name} must be true or false")


def _wrong(address: Address, why: str) -> ConfigurationError:
    label = "url" if address.source == "argument" else address.source
    shown = f" (in {address.display})" if address.url else ""
    return ConfigurationError(f"{label}: {why}{shown}")
