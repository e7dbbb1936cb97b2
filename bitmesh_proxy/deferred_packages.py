"""Packages of others whose ``__init__`` waits until somebody asks for what it makes.

Importing a module imports the packages above it first, and some of those load all that they have: ``aiohttp`` its whole
client, with two TLS contexts and the system's certificates in each, a quarter of the start; ``limits`` the storages for
six databases, each twice. ``defer`` puts a package in its place unfilled. Its modules are imported as ever
(``aiohttp.web``), and the first use of another name (``aiohttp.ClientSession``) runs the real ``__init__`` where it is
used. So nobody needs to know of it; who wants to keep a start short imports names from the modules that define them.

The program does this before it imports anything large (``cli/main.py``). Where it is not done, or a package turns out
otherwise than expected, all is imported at once and works just the same.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import threading
from importlib.machinery import PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

#: Also asked for by a package's own modules; near the beginning of the source.
_VERSION = re.compile(r'^__version__ = "([^"\n]+)"$', re.MULTILINE)
_VERSION_WITHIN_BYTES = 4096

_lock = threading.RLock()


class DeferredPackage(ModuleType):
    """A package whose ``__init__`` has not run. Once it has, this is a plain module."""

    def __getattr__(self, name: str) -> Any:
        # The import system itself asks for private names, and for the name of a module before it imports it.
        if name.startswith("__") or PathFinder.find_spec(f"{self.__name__}.{name}", self.__path__) is not None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _lock:
            if type(self) is DeferredPackage and not self.__dict__.get("_is_filling"):
                _fill(self)
        return ModuleType.__getattribute__(self, name)


def defer(name: str) -> bool:
    """Let the package's ``__init__`` wait; a package inside another after that one.

    False when that is not possible, or too late; then nothing has changed.
    """
    if name in sys.modules:
        return False
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None or not isinstance(spec.loader, SourceFileLoader):
        return False
    package = importlib.util.module_from_spec(spec)
    package.__class__ = DeferredPackage
    with open(spec.loader.path, "rb") as source:
        found = _VERSION.search(source.read(_VERSION_WITHIN_BYTES).decode("utf-8", "replace"))
    if found:
        package.__dict__["__version__"] = found[1]
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
    return True


def _fill(package: ModuleType) -> None:
    """Run the ``__init__``. If it raises, the next use tries again."""
    spec = package.__spec__
    assert spec is not None
    assert spec.loader is not None
    package.__dict__["_is_filling"] = True
    try:
        spec.loader.exec_module(package)
        package.__class__ = ModuleType
    finally:
        del package.__dict__["_is_filling"]
