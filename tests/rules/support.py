"""What the tests of the rules share: what the server was asked, and what supervised workers have told."""

from __future__ import annotations

import itertools
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
import redis

from penstock.streams.scripts import load
from tests.commands import PATIENCE, Folder
from tests.servers import wait_until

_FILES = (files("penstock.streams") / "lua").iterdir()
SCRIPTS = {
    script.sha: script for script in (load(f.name.removesuffix(".lua")) for f in _FILES if not f.name.startswith("_"))
}
_markers = itertools.count()


class Ran(NamedTuple):
    """A command that the server ran."""

    #: A script's name, else the command in capitals.
    verb: str
    #: A script's keys and arguments, else the command's; split at blanks.
    args: list[str]
    #: By a script, and not by a client.
    in_script: bool


class Monitor:
    """All that a server is asked from now on, by MONITOR. A context manager. It knows all scripts by their SHA."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._monitor: Any = client.monitor()
        self._ran: list[Ran] = []

    def __enter__(self) -> Monitor:
        for script in SCRIPTS.values():
            self._client.script_load(script.text)
        self._monitor.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._monitor.__exit__(*error)

    def ran(self, *verbs: str) -> list[Ran]:
        """What was run until now, all of it or only these verbs."""
        marker = f"marker-{next(_markers)}"
        self._client.echo(marker)
        while (ran := _parse(self._monitor.next_command())).args != [marker]:
            self._ran.append(ran)
        return [ran for ran in self._ran if not verbs or ran.verb in verbs]


def _parse(told: dict[str, Any]) -> Ran:
    words = told["command"].split(" ")
    in_script = told["client_type"] == "lua"
    if words[0].upper() == "EVALSHA" and words[1] in SCRIPTS:
        return Ran(SCRIPTS[words[1]].name, words[3:], in_script)
    return Ran(words[0].upper(), words[1:], in_script)


class Told:
    """The events of workers of `tests.rules.tasks`."""

    def __init__(self, folder: Folder) -> None:
        self._file = folder.path / "events"

    def of(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """Events of this kind with these fields; each has its process, too: ``pid``."""
        lines = self._file.read_bytes().splitlines() if self._file.exists() else []
        found = [msgspec.json.decode(line) for line in lines]
        return [e for e in found if e["kind"] == kind and all(e.get(k) == v for k, v in fields.items())]

    def wait(self, kind: str, count: int = 1, timeout: float = PATIENCE, **fields: Any) -> list[dict[str, Any]]:
        """The same, once there are `count` of them."""
        wait_until(lambda: len(self.of(kind, **fields)) >= count, timeout)
        return self.of(kind, **fields)


def blocked(client: redis.Redis) -> list[str]:
    """Ids of clients that wait in a blocking read."""
    clients: Any = client.client_list()
    return [each["id"] for each in clients if each["cmd"] == "xreadgroup" and "b" in each["flags"]]
