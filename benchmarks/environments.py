"""An environment for each peer, with the versions pinned in peers.toml; made when it is missing or the pins changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import processes
from benchmarks.errors import BenchError

_PINS = Path(__file__).parent / "peers.toml"


def known_peers() -> list[str]:
    """Names of all peers, in the order of peers.toml."""
    return list(tomllib.loads(_PINS.read_text("utf-8")))


def default_folder() -> Path:
    """BENCH_VENVS, else a folder in the user's cache: outside of the repository."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BENCH_VENVS") or Path(cache) / "penstock-bench")


class Environments:
    """The folder of environments. They belong to one version of Python, that of the benchmark itself."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._pins: dict[str, list[str]] = tomllib.loads(_PINS.read_text("utf-8"))

    def python(self, peer: str) -> Path:
        """The interpreter of the peer's environment. Raises `BenchError` if it cannot be made."""
        folder = self._folder / f"{peer}-{sys.version_info.major}.{sys.version_info.minor}"
        python, stamp = folder / "bin" / "python", folder / "pins"
        pins = "\n".join(self._pins[peer])
        if not (stamp.is_file() and stamp.read_text("utf-8") == pins and python.exists()):
            self._say(f"{peer}: making its environment in {folder}")
            shutil.rmtree(folder, ignore_errors=True)
            self._make(peer, folder, python)
            stamp.write_text(pins, "utf-8")  # last: an environment without it is made again
        return python

    def _make(self, peer: str, folder: Path, python: Path) -> None:
        log = self._folder / f"{folder.name}.log"
        try:
            venv.create(folder, with_pip=True)
            pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
            code = _run([*pip, *self._pins[peer]], log)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchError(f"{peer}: cannot make an environment in {folder}: {error}") from error
        if code:
            lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("ERROR")]
            raise BenchError(
                f"{peer}: pip could not install it: {lines[0] if lines else f'exit code {code}'}. "
                f"Is there a network, and does pip know its index? All that it said: {log}"
            )


def _run(command: Sequence[str | Path], log: Path) -> int:
    with open(log, "w") as out:
        process = processes.start(command, folder=log.parent, env=os.environ, out=out, err=out)
    try:
        return process.wait()
    finally:
        processes.end(process)
