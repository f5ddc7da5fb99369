"""What all commands share: the app that was named, how faults are shown, types of options."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import click

from penstock.cli.printable import printable
from penstock.errors import ConfigurationError
from penstock.settings import check_name

F = TypeVar("F", bound=Callable[..., Any])

#: Exit codes: it was used or configured wrongly; it was right, and did not succeed.
WRONG_USE, NO_SUCCESS = 2, 1


class Invocation:
    """One call of the command line."""

    def __init__(self, argv: list[str]) -> None:
        #: The arguments, for worker processes that are started with the same ones.
        self.argv = argv
        #: ``module:attribute`` of the app.
        self.app: str | None = None


class Fault(click.ClickException):
    """One line on standard error, and an exit code."""

    def __init__(self, message: str, exit_code: int = WRONG_USE) -> None:
        super().__init__(printable(message))
        self.exit_code = exit_code  # type: ignore[misc]


class UserCodeFailed(Fault):
    """The user's own code raised: shown with its traceback, without the frames of this command line."""

    def __init__(self, message: str, error: BaseException) -> None:
        super().__init__(message)
        self.error = error

    def show(self, file: Any = None) -> None:
        frames = _users_frames(self.error.__traceback__)
        text = "".join(traceback.format_exception(type(self.error), self.error, frames))
        click.echo(text.rstrip("\n"), err=True, file=file)
        super().show(file)


def _users_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and is_machinery(trace):
        trace = trace.tb_next
    return trace


def is_machinery(trace: TracebackType) -> bool:
    """True for a frame of the import system or of this package."""
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.split(".")[0] in (
        "importlib",
        "_frozen_importlib",
        "_frozen_importlib_external",
        "penstock",
        "pkgutil",
    )


def app_option(command: F) -> F:
    """``-A``, also after the command's name: nobody should have to know where it goes."""
    return click.option(
        "-A",
        "--app",
        metavar="MODULE:ATTR",
        expose_value=False,
        callback=_remember_app,
        help="The app: where its module is imported from, and its name there. [env: PENSTOCK_APP]",
    )(command)


def _remember_app(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        invocation(ctx).app = value


def invocation(ctx: click.Context) -> Invocation:
    """The call that `ctx` belongs to."""
    if ctx.find_root().obj is None:
        ctx.find_root().obj = Invocation(sys.argv[1:])
    found = ctx.find_root().obj
    assert isinstance(found, Invocation)
    return found


class Names(click.ParamType):  # type: ignore[type-arg]
    """Queue names, separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """A tuple of names that may be a queue's."""
        if isinstance(value, tuple):
            return value
        names = [name.strip() for name in str(value).split(",") if name.strip()]
        try:
            return tuple(check_name("a queue's name", name) for name in names)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes, as ``500M`` or ``1.5G``; K, M, G and T are powers of 1024."""

    name = "size"
    _FORMAT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        match = self._FORMAT.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size; write 500M, 1.5G or a number of bytes", param, ctx)
        return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def refuse(message: str) -> NoReturn:
    """End with a message: used or configured wrongly."""
    raise Fault(message)
