"""A disk that is full, for one server and without root: RLIMIT_FSIZE, set from outside while the server runs."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from tests.conftest import binary
from tests.servers import Server, wait_until


class DiskServer(Server):
    """A server with an append-only file, whose disk the test fills and empties.

    Writing past the limit is answered by EFBIG where a full disk answers ENOSPC; the server treats both alike.
    """

    def __init__(self, name: str, directory: Path, *options: str) -> None:
        if sys.platform != "linux":
            pytest.skip("only Linux can limit the files of a process that runs (prlimit)")
        directory.mkdir(parents=True, exist_ok=True)
        # The kernel kills whoever passes the limit (SIGXFSZ), unless that is ignored: which is inherited.
        wrapper = directory / "ignoring-sigxfsz"
        wrapper.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec '{binary(name)}' \"$@\"\n")
        wrapper.chmod(0o755)
        # Else what was answered may not be written for 2 s: while a sync to the disk is under way, the server
        # puts the next write off.
        super().__init__(str(wrapper), directory, "--appendfsync", "no", *options, durable=True)

    def fill_disk(self) -> None:
        """No file can grow from now on; returns when the server has noticed and refuses writes."""
        self._limit(1)
        with self.client() as client:
            wait_until(lambda: self._fails_to_append(client))

    def empty_disk(self) -> None:
        """There is space again; returns when the server has noticed (it tries once a second)."""
        self._limit(resource.RLIM_INFINITY)
        with self.client() as client:
            wait_until(lambda: client.info("persistence")["aof_last_write_status"] == "ok")

    def fail_snapshots(self, failing: bool) -> None:
        """The append-only file is not touched, a snapshot cannot be written: try one, and wait for its end."""
        with self.client() as client:
            before = client.info("persistence")
            self._limit(1 if failing else resource.RLIM_INFINITY)
            client.bgsave()
            wanted = "err" if failing else "ok"
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == wanted)
            assert before["rdb_last_bgsave_status"] != wanted

    def _fails_to_append(self, client: redis.Redis) -> bool:
        if client.info("persistence")["aof_last_write_status"] == "err":
            return True
        # Something to append: it is noticed when the command that wrote it is answered, or by another's before.
        with suppress(redis.ResponseError):
            client.set("fill", 1, px=1)
        return False

    def _limit(self, size: int) -> None:
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
