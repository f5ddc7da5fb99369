"""Where the URL comes from, what it means, and that passwords stay inside."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigurationError
from penstock.streams.redact import safe_url
from penstock.streams.urls import SOCKET_PATH_MAX, Address, Target, Tls, parse, resolve_url


def target(url: str) -> Target:
    return parse(Address(url))


@pytest.mark.parametrize(
    ("given_url", "env", "url", "source"),
    [
        (None, {}, "redis://localhost:6379/0", "default"),
        (None, {"REDIS_HOST": "r"}, "redis://r:6379/0", "REDIS_HOST"),
        (None, {"REDIS_HOST": "::1", "REDIS_DB": "2"}, "redis://[::1]:6379/2", "REDIS_HOST"),
        (None, {"REDIS_DB": "3"}, "redis://localhost:6379/3", "REDIS_DB"),
        (None, {"REDIS_PORT": "7000"}, "redis://localhost:7000/0", "REDIS_PORT"),
        (None, {"REDIS_PASSWORD": "a/b@c"}, "redis://:a%2Fb%40c@localhost:6379/0", "REDIS_PASSWORD"),
        (None, {"REDIS_USERNAME": "u", "REDIS_PASSWORD": "p"}, "redis://u:p@localhost:6379/0", "REDIS_USERNAME"),
        (None, {"REDIS_HOST": "r", "REDIS_SSL": "true"}, "rediss://r:6379/0", "REDIS_HOST"),
        (None, {"REDIS_HOST": "r", "REDIS_SSL": "no"}, "redis://r:6379/0", "REDIS_HOST"),
        # Kubernetes' variables of a service named "redis"
        (None, {"REDIS_PORT": "tcp://10.0.0.7:6379"}, "redis://localhost:6379/0", "default"),
        (None, {"REDIS_HOST": "r", "REDIS_PORT": "tcp://10.0.0.7:6380"}, "redis://r:6380/0", "REDIS_HOST"),
        (None, {"REDIS_HOST": "r", "REDIS_URL": "redis://u"}, "redis://u", "REDIS_URL"),
        (None, {"REDIS_URL": "redis://u", "PENSTOCK_URL": "redis://p"}, "redis://p", "PENSTOCK_URL"),
        (None, {"REDIS_URL": "redis://u", "PENSTOCK_URL": ""}, "redis://u", "REDIS_URL"),
        ("redis://a", {"PENSTOCK_URL": "redis://p"}, "redis://a", "argument"),
    ],
)
def test_the_first_source_wins(given_url: str | None, env: dict[str, str], url: str, source: str) -> None:
    address = resolve_url(given_url, env)
    assert (address.url, address.source) == (url, source)
    assert address.is_default == (source == "default")


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_URL", "redis://from-env/4")
    assert resolve_url(None).url == "redis://from-env/4"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", Target(kind="tcp", hosts=(("localhost", 6379),))),
        ("redis://h", Target(kind="tcp", hosts=(("h", 6379),))),
        ("redis:///3", Target(kind="tcp", hosts=(("localhost", 6379),), db=3)),
        ("redis://h:1/2", Target(kind="tcp", hosts=(("h", 1),), db=2)),
        ("redis://h:1?db=2", Target(kind="tcp", hosts=(("h", 1),), db=2)),
        ("redis://[::1]:1/2", Target(kind="tcp", hosts=(("::1", 1),), db=2)),
        ("redis://:p@h", Target(kind="tcp", hosts=(("h", 6379),), password="p")),
        ("redis://u:p%40%2F%3A@h", Target(kind="tcp", hosts=(("h", 6379),), username="u", password="p@/:")),
        ("redis://u:p+q#r@h", Target(kind="tcp", hosts=(("h", 6379),), username="u", password="p+q#r")),
        ("redis://h?username=u&password=p%26", Target(kind="tcp", hosts=(("h", 6379),), username="u", password="p&")),
        ("rediss://h:1/2", Target(kind="tcp", hosts=(("h", 1),), db=2, tls=Tls())),
        (
            "rediss://h?ssl_cert_reqs=CERT_NONE",
            Target(kind="tcp", hosts=(("h", 6379),), tls=Tls(ssl_cert_reqs="none", ssl_check_hostname=False)),
        ),
        (
            "rediss://h?ssl_check_hostname=false",
            Target(kind="tcp", hosts=(("h", 6379),), tls=Tls(ssl_check_hostname=False)),
        ),
        ("unix:///run/r.sock", Target(kind="unix", path="/run/r.sock")),
        ("unix:///run/a%20b?db=2", Target(kind="unix", path="/run/a b", db=2)),
        ("unix://u:p@/run/r.sock", Target(kind="unix", path="/run/r.sock", username="u", password="p")),
        ("unix:///run/r.sock?password=p", Target(kind="unix", path="/run/r.sock", password="p")),
        (
            "redis+sentinel://u:p@a:1,b:2/tf/3?sentinel_username=s&sentinel_password=t",
            Target(
                kind="sentinel",
                hosts=(("a", 1), ("b", 2)),
                service="tf",
                db=3,
                username="u",
                password="p",
                sentinel_username="s",
                sentinel_password="t",
            ),
        ),
        ("redis+sentinel://a/tf", Target(kind="sentinel", hosts=(("a", 26379),), service="tf")),
        ("redis+sentinel://a/tf?ssl=true", Target(kind="sentinel", hosts=(("a", 26379),), service="tf", tls=Tls())),
        (
            "redis+cluster://u:p@a:1,b",
            Target(kind="cluster", hosts=(("a", 1), ("b", 6379)), username="u", password="p"),
        ),
        ("redis+cluster://a/0?ssl=yes", Target(kind="cluster", hosts=(("a", 6379),), tls=Tls())),
        ("redis+cluster://a?ssl=false", Target(kind="cluster", hosts=(("a", 6379),))),
        ("embedded:///var/x", Target(kind="embedded", path="/var/x")),
        ("embedded://./data", Target(kind="embedded", path=os.path.join(os.getcwd(), "data"))),
        ("embedded://data dir%20?x", Target(kind="embedded", path=os.path.join(os.getcwd(), "data dir%20?x"))),
        ("embedded://~/x", Target(kind="embedded", path=os.path.expanduser("~/x"))),
    ],
)
def test_what_a_url_means(url: str, expected: Target) -> None:
    assert target(url) == expected


def test_an_embedded_folder_does_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert target("embedded://data").path == str(tmp_path / "data")


def test_tls_files_are_looked_for_at_once(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(ConfigurationError, match=r"ssl_ca_certs: there is no '.*ca\.pem'"):
        target(f"rediss://h?ssl_ca_certs={file}")
    file.write_text("")
    options = f"ssl_ca_certs={file}&ssl_certfile={file}&ssl_keyfile={file}&ssl_cert_reqs=optional"
    for url in (f"rediss://h?{options}", f"redis+cluster://h?ssl=1&{options}", f"redis+sentinel://h/s?ssl=1&{options}"):
        tls = target(url).tls
        assert tls == Tls(
            ssl_ca_certs=str(file), ssl_certfile=str(file), ssl_keyfile=str(file), ssl_cert_reqs="optional"
        )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "url: a URL starts with one of redis://, "),
        ("localhost:6379", "url: a URL starts with one of redis://, "),
        ("rediz://h", "unknown scheme 'rediz'; did you mean 'redis'?"),
        ("redis+sentinal://h/s", "did you mean 'redis+sentinel'?"),
        ("http://h", "unknown scheme 'http'"),
        ("redis://h/x", "the database must be a number"),
        ("redis://h/-1", "the database must be a number"),
        ("redis://h?db=x", "the database must be a number"),
        ("redis://h:x", "a host is name:port"),
        ("redis://h:70000", "a host is name:port"),
        ("redis://a,b", "several hosts need redis+sentinel:// or redis+cluster://"),
        ("redis://h?dbb=1", "unknown option 'dbb'; did you mean 'db'?"),
        ("rediss://h?ssl_ca_cert=x", "unknown option 'ssl_ca_cert'; did you mean 'ssl_ca_certs'?"),
        ("redis://h?ssl_ca_certs=x", "option 'ssl_ca_certs' needs the scheme rediss://"),
        ("redis://h?ssl=true", "option 'ssl' needs the scheme rediss://"),
        ("redis://h?socket_timeout=3", "socket_timeout is a setting here: App(command_timeout=...)"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs must be none, optional or required"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname must be true or false"),
        ("unix://run/r.sock", "a socket's path is absolute"),
        ("unix://", "a socket's path is absolute"),
        (f"unix:///{'x' * SOCKET_PATH_MAX}", f"may have {SOCKET_PATH_MAX} bytes at most"),
        ("redis+sentinel://h", "must be redis+sentinel://host:port,host:port/<service name>/<db>"),
        ("redis+sentinel:///tf", "must be redis+sentinel://"),
        ("redis+sentinel://h/tf/x", "the database must be a number"),
        ("redis+sentinel://h/tf?ssl_check_hostname=0", "ssl_check_hostname needs ssl=true"),
        ("redis+cluster://h/1", "a cluster has only database 0"),
        ("redis+cluster://h?db=1", "unknown option 'db'"),
        ("redis+cluster://h?ssl=1&ssl_password=x", "ssl_password does not work with a cluster"),
        ("embedded://", "a folder is missing"),
    ],
)
def test_a_url_that_makes_no_sense(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_url(url, {})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"REDIS_URL": "rediz://h"}, "REDIS_URL: unknown scheme"),
        ({"PENSTOCK_URL": "redis://h/x"}, "PENSTOCK_URL: the database must be a number"),
        ({"REDIS_PORT": "x"}, "REDIS_PORT must be a number"),
        ({"REDIS_DB": "x"}, "REDIS_DB must be a number"),
        ({"REDIS_HOST": "a/b"}, "REDIS_HOST must be a host name"),
        ({"REDIS_SSL": "perhaps"}, "REDIS_SSL must be true or false"),
    ],
)
def test_an_error_names_the_variable(env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve_url(None, env)


def test_a_url_is_a_string() -> None:
    with pytest.raises(ConfigurationError, match="url must be a string, not bytes"):
        resolve_url(b"redis://h")  # type: ignore[arg-type]


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{SECRET}@h:1/2", "redis://:***@h:1/2"),
        (f"redis://u:{SECRET}@h", "redis://u:***@h"),
        (f"redis://u:{SECRET}@{SECRET}@h", "redis://u:***@h"),
        (f"redis://u:x/{SECRET}@h", "redis://***@h"),
        (f"redis://u:x?{SECRET}@h", "redis://***@h"),
        (f"redis://:1/{SECRET}@h", "redis://***@h"),
        (f"redis://u:1/{SECRET}@h", "redis://u:***@h"),
        (f"redis://h?password={SECRET}&db=1", "redis://h?password=***&db=1"),
        (f"redis://h?p%61ssword={SECRET}", "redis://h?p%61ssword=***"),
        (f"redis://h?passwrod={SECRET}", "redis://h?passwrod=***"),
        (f"redis://h?{SECRET}", "redis://h?***"),
        (f"rediss://h?ssl_password={SECRET}&ssl_cert_reqs=none", "rediss://h?ssl_password=***&ssl_cert_reqs=none"),
        (f"redis+sentinel://u:{SECRET}@a:1,b:2/tf?sentinel_password={SECRET}",
         "redis+sentinel://u:***@a:1,b:2/tf?sentinel_password=***"),
        (f"redis+cluster://:{SECRET}@a:1,b:2", "redis+cluster://:***@a:1,b:2"),
        (f"unix://u:{SECRET}@/run/r.sock", "unix://u:***@/run/r.sock"),
        (f"rediz://:{SECRET}@h", "rediz://:***@h"),
        (f":{SECRET}@h", "***"),
        ("redis://h:1/2", "redis://h:1/2"),
        ("redis://u@h", "redis://u@h"),
        ("unix:///run/r@x.sock?db=1", "unix:///run/r@x.sock?db=1"),
        ("embedded://./data@home", "embedded://./data@home"),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert safe_url(url) == shown
    assert str(Address(url)) == Address(url).display == shown
    assert shown in repr(Address(url))
    try:
        found = parse(Address(url, "REDIS_URL"))
    except ConfigurationError as error:
        assert SECRET not in str(error) + repr(error)
    else:
        assert SECRET not in repr(found) + str(found)


@given(
    password=st.text(min_size=4).filter(lambda text: not text.isascii() or not text.isalnum() or len(text) > 12),
    scheme=st.sampled_from(["redis", "rediss", "redis+cluster", "unix", "redis+sentinel"]),
)
def test_any_password_arrives_and_stays_hidden(password: str, scheme: str) -> None:
    place = {"unix": "/run/redis.sock", "redis+sentinel": "host/service"}.get(scheme, "host")
    secret = quote(password, safe="", errors="replace")
    for url in (f"{scheme}://user:{secret}@{place}", f"{scheme}://{place}?password={secret}"):
        found = target(url)
        assert found.password == password.encode(errors="replace").decode()
        for shown in (safe_url(url), repr(found), repr(Address(url))):
            assert secret not in shown
            assert password not in shown


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    for url in (text, f"redis://{text}", f"redis+sentinel://{text}", f"unix://{text}", f"redis://h?{text}"):
        safe_url(url)
        try:
            target(url)
        except ConfigurationError:
            pass
