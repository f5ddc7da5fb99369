"""The closed servers of ``--access=acl`` and ``--access=tls`` (`tests.access_run`) are closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import App
from penstock.errors import AuthenticationFailed, BrokerUnavailable, PermissionDenied
from tests import access_run
from tests.access import ACCESS, ADMIN
from tests.conftest import binary
from tests.servers import SERVERS, Server
from tests.source import ROOT

OURS, OTHERS = "t-ours", "t-others"


@pytest.fixture(params=list(SERVERS))
def closed(
    request: pytest.FixtureRequest, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """A server as it is started in that mode, and its user in the namespace `OURS`."""
    found = binary(request.param)
    monkeypatch.setattr(ACCESS, "rules", ACCESS.rules)
    monkeypatch.setattr(ACCESS, "mode", mode)
    monkeypatch.setattr(ACCESS, "_folder", None)
    if why := ACCESS.why_not():
        pytest.skip(why)
    monkeypatch.setattr(access_run, "_item", access_run.Item(""))
    monkeypatch.setattr(Server, "alive", set())
    server = Server(found, tmp_path / "closed").start()
    access_run.enter(OURS)
    yield server
    server.kill()
    ACCESS.close()


def send(url: str, namespace: str = OURS) -> None:
    with App("test", url=url, namespace=namespace, retry_for=0) as app:
        assert app.task_named("work").delay().created


def test_the_tables_name_what_there_is() -> None:
    tables = (access_run.LEFT_OUT, access_run.ALL_RIGHTS, access_run.ROLES, access_run.NAMESPACES, access_run.ALSO)
    for name in (*access_run.NO_SERVER, *(name for table in tables for name in table)):
        path, _, function = name.partition("::")
        assert (ROOT / path).exists(), name
        assert not function or f"def {function}(" in (ROOT / path).read_text("utf-8"), name


@pytest.mark.parametrize("mode", ["acl", "tls"])
def test_nobody_gets_in_without_a_login(closed: Server, mode: str) -> None:
    send(closed.url)
    send(closed.url_for(f"default:{ADMIN}@"))
    with pytest.raises(AuthenticationFailed):
        send(closed.url_for(""))
    with pytest.raises(AuthenticationFailed):
        send(f"redis://127.0.0.1:{closed.port}")


@pytest.mark.parametrize("mode", ["acl"])
def test_the_user_has_rights_in_its_namespace_only_and_what_it_was_refused_is_told(closed: Server, mode: str) -> None:
    send(closed.url)
    assert access_run.refused() == set()
    with pytest.raises(PermissionDenied):
        send(closed.url, OTHERS)
    with App("test", url=closed.url, namespace=OURS) as app, pytest.raises(PermissionDenied):
        app.queues()
    assert access_run.refused() == {("command", "smembers")}, "and not what is another namespace's"
    access_run.enter(OTHERS)
    assert access_run.refused() == set()
    send(closed.url, OTHERS)


@pytest.mark.parametrize("mode", ["tls"])
def test_who_does_not_speak_tls_is_not_understood(closed: Server, mode: str) -> None:
    assert closed.url.startswith("rediss://")
    send(closed.url)
    with pytest.raises(BrokerUnavailable):
        send(closed.url.partition("?")[0].replace("rediss://", "redis://"))
    with pytest.raises(BrokerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        send(closed.url.partition("?")[0])
