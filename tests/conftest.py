"""What every test runs under. Our code never waits for a disk or sleeps on the event loop: all streams would stop.

Python's audit events say when a file is opened, a directory read, a name changed, a thread put to sleep. When that
happens on a thread with a running loop and code of the package is what asked for it, the call fails, and so the test.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from types import FrameType

import hypothesis
import pytest

#: No test says how fast the machine is that it runs on.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

TESTS = Path(__file__).parent
PACKAGE = str(TESTS.parent / "bitmesh_proxy") + "/"
BLOCKING_EVENTS = frozenset(
    {"open", "time.sleep", "sqlite3.connect", "subprocess.Popen", "shutil.copyfile", "socket.getaddrinfo"}
    | {f"os.{name}" for name in ("listdir", "scandir", "mkdir", "remove", "rename", "rmdir", "link", "truncate")}
)
#: (end of the file's name, function): what runs under these may block. Python's own imports and tracebacks read source
#: files, and before an application has started, and once it has stopped, there is nobody to keep waiting.
MAY_BLOCK = (
    ("<frozen importlib._bootstrap>", "_find_and_load"),
    ("linecache.py", "updatecache"),
    ("aiohttp/web_app.py", "startup"),
    ("aiohttp/web_app.py", "cleanup"),
)
#: For those that are none of these, which is nearly all: the file's name need not be looked at.
MAY_BLOCK_FUNCTIONS = frozenset(function for _, function in MAY_BLOCK)

_is_watching = False


class BlockedLoop(Exception):
    """Code of the package blocks the event loop."""


def watch(event: str, arguments: tuple[object, ...]) -> None:
    if not _is_watching or event not in BLOCKING_EVENTS:
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    culprit: str | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if function in MAY_BLOCK_FUNCTIONS and any(file.endswith(end) and function == name for end, name in MAY_BLOCK):
            return
        if culprit is None and file.startswith(PACKAGE):
            culprit = f"{file.removeprefix(PACKAGE)}:{frame.f_lineno} ({function})"
        frame = frame.f_back
    if culprit is not None:
        raise BlockedLoop(f"{event} {arguments[:1]} on the event loop, from {culprit}")


sys.addaudithook(watch)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """A blocked loop is an error in every test and its fixtures. (As a fixture, this would take longer than many.)"""
    global _is_watching
    _is_watching = True
    try:
        return (yield)
    finally:
        _is_watching = False


def pytest_collection(session: pytest.Session) -> None:
    """What is made here stays to the end: until all is there, to look for garbage is in vain.

    The second of several workers begins at the last file: each imports them all, and most of that is to rewrite their
    assertions, once for all who come later. Where all begin at the first file, all do so side by side.
    """
    gc.disable()
    config = session.config
    is_second = getattr(config, "workerinput", {}).get("workerid") == "gw1"
    if is_second and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        for path in sorted(TESTS.rglob("test_*.py"), reverse=True):
            with suppress(Exception, pytest.skip.Exception):  # it is imported again, and then that is told
                importlib.import_module(".".join(path.relative_to(TESTS.parent).with_suffix("").parts))


def pytest_collection_finish() -> None:
    """From here on the collector of garbage looks at nothing that was there before, and at what comes less often.

    A gateway that starts makes as many objects as would have it look ten times. Tests of what is left behind ask it to.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()
