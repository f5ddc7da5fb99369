"""What of a URL, and of a server's error, may be shown: whatever can be a password is hidden.

Here stands also what a URL may hold, since an option is shown by its name only if it is known.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from penstock.settings import did_you_mean

LOGIN = ("username", "password")
SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")
TLS = (
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_cert_reqs",
    "ssl_check_hostname",
)
#: The only query values that are ever shown; all others may hide a password, also a misspelt one.
_HARMLESS = frozenset({"db", "ssl", *TLS} - {"ssl_password"})
OPTIONS: dict[str, tuple[str, ...]] = {
    "redis": ("db", *LOGIN),
    "rediss": ("db", *LOGIN, *TLS),
    "unix": ("db", *LOGIN),
    "redis+sentinel": ("db", "ssl", *LOGIN, *SENTINEL_LOGIN, *TLS),
    "redis+cluster": ("ssl", *LOGIN, *(name for name in TLS)),
}
_KNOWN = frozenset(name for names in OPTIONS.values() for name in names)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
#: In a location: an IPv6 address, or what follows a ':' and is no port (with a host forgotten, a password).
_NO_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]*\])|:(?![0-9]{0,5}(?:[,/]|$)).*", re.DOTALL)


def safe_url(url: str) -> str:
    """`url` with every password as ``***``; works on malformed URLs too, hiding rather too much."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***" if re.search(r"[@?]|password", url) else url
    if scheme == "embedded":
        return url
    scheme = scheme if SCHEME.fullmatch(scheme) else "***"
    if _hides_login(rest):
        rest = "***@" + rest.rpartition("@")[2]
    head, question, query = rest.partition("?")
    login, at, location = head.rpartition("@")
    user, colon, _ = login.partition(":")
    login = f"{user}:***" if colon else login
    location = _NO_PORT.sub(lambda found: found[1] or ":***", location)
    shown = f"{scheme}://{login}{at}{location}{question}" + "&".join(_safe_option(o) for o in query.split("&") if o)
    return re.sub(r"password=[^&]*", "password=***", shown)  # one whose '?' is missing


def _hides_login(rest: str) -> bool:
    """There is a password with a '/' or '?' that was not percent-encoded."""
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if "@" in authority or "@" not in rest:
        return False
    if not re.fullmatch(r"[^:,]+(:\d+)?(,[^:,]+(:\d+)?)*|", authority):
        return True
    head, _, query = rest.partition("?")
    return "@" not in head and any(unquote(o.partition("=")[0]) not in _KNOWN for o in query.split("&"))


def _safe_option(option: str) -> str:
    name, equals, value = option.partition("=")
    if unquote(name) in _HARMLESS and "@" not in value:
        return option
    return f"{name}=***" if equals and is_like_an_option(unquote(name)) else "***"


def is_like_an_option(name: str) -> bool:
    """An option's name, or a misspelt one; else it may be what comes after a '?' or '&' in a password."""
    return name in _KNOWN or did_you_mean(name, _KNOWN) != ""


def safe_error(text: str) -> str:
    """A server's error without what it repeats: of a command that it does not know, AUTH perhaps, the arguments."""
    return _REPEATED.sub(r"\1 ***", text)


_REPEATED = re.compile(r"(with args beginning with:).*", re.DOTALL)
