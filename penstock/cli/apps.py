"""Finds the user's app: ``module:attribute`` -> `App`, with errors that say what was meant."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import click

from penstock.app import App
from penstock.cli.invocation import Fault, UserCodeFailed, invocation, is_machinery, refuse
from penstock.errors import ConfigurationError
from penstock.settings import did_you_mean

VARIABLE = "PENSTOCK_APP"


def app_name(ctx: click.Context) -> str:
    """What ``-A`` or PENSTOCK_APP says; ends with an error that shows how to say it."""
    name = app_name_or_none(ctx)
    if name is None:
        refuse(
            f"which app? Name it: `penstock -A shop.tasks:app {ctx.info_name} ...`, or set {VARIABLE}=shop.tasks:app"
        )
    return name


def app_name_or_none(ctx: click.Context) -> str | None:
    """What ``-A`` or PENSTOCK_APP says, if anything."""
    return invocation(ctx).app or os.environ.get(VARIABLE) or None


def find_app(name: str) -> App:
    """Import an app. The current folder is importable, as with ``python -m``.

    Args:
        name: ``module:attribute``, the attribute may be nested; a module with one app needs no attribute.

    Raises:
        Fault: there is no such module, or no such attribute, or it is no app.
        UserCodeFailed: the module itself raised.
    """
    module_name, colon, path = name.partition(":")
    if "/" in module_name or module_name.endswith(".py"):
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        refuse(f"{name!r}: name the module, not its file; did you mean {dotted + ':' + (path or 'app')!r}?")
    if not all(part.isidentifier() for part in module_name.split(".")) or (colon and not path):
        refuse(f"an app is named as module:attribute, for example shop.tasks:app, not {name!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _import(module_name)
    return _attribute(module, path) if path else _only_app(module)


def load(app: App) -> None:
    """Import the modules that the app names in ``imports``."""
    with _users_code("importing the modules named in App(imports=...)"):
        app.load()


def _import(name: str) -> ModuleType:
    with _users_code(f"importing {name}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Another name is missing *in* the user's modules: their traceback says where.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            missing = error.name
    parent, _, last = missing.rpartition(".")
    siblings = _modules_in(parent)
    meant = did_you_mean(last, siblings) and did_you_mean(missing, [f"{parent}.{each}".strip(".") for each in siblings])
    where = f" in {parent!r}" if parent else f" in {os.getcwd()} or on sys.path"
    raise Fault(f"no module {missing!r}{where}{meant}")


def _modules_in(package: str) -> list[str]:
    path = getattr(sys.modules.get(package), "__path__", []) if package else [os.getcwd()]
    return [module.name for module in pkgutil.iter_modules(path)]


def _attribute(module: ModuleType, path: str) -> App:
    value: Any = module
    where = module.__name__
    for part in path.split("."):
        if not hasattr(value, part):
            apps = [name for name, each in vars(module).items() if isinstance(each, App)]
            meant = did_you_mean(part, apps) or did_you_mean(part, dir(value))
            if not meant and apps:
                meant = f"; its apps are: {', '.join(apps)}"
            refuse(f"{where!r} has no attribute {part!r}{meant}")
        value = getattr(value, part)
        where = f"{where}.{part}"
    if not isinstance(value, App):
        refuse(f"{module.__name__}:{path} is no penstock.App: it is of type {type(value).__name__!r}")
    return value


def _only_app(module: ModuleType) -> App:
    apps = {name: value for name, value in vars(module).items() if isinstance(value, App)}
    if len({id(app) for app in apps.values()}) != 1:
        found = f"it has {', '.join(sorted(apps))}" if apps else "it has none"
        refuse(f"which app of {module.__name__!r}? Write {module.__name__}:NAME; {found}")
    return next(iter(apps.values()))


@contextmanager
def _users_code(doing: str) -> Iterator[None]:
    """Tell errors of the user's code from ours, and wrong options in it from bugs in it."""
    try:
        yield
    except ConfigurationError as error:
        place = _place(error)
        raise Fault(f"{place}: {error}" if place else str(error)) from error
    except Exception as error:
        raise UserCodeFailed(f"{doing} failed: {type(error).__name__}: {error}", error) from error


def _place(error: BaseException) -> str:
    """``shop/tasks.py:12``: the line of the user's that led to `error`."""
    place, trace = "", error.__traceback__
    while trace is not None:
        if not is_machinery(trace):
            file = os.path.relpath(trace.tb_frame.f_code.co_filename)
            place = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
