"""``bitmesh-proxy serve`` as a process of its own, to be killed, stopped and started again.

What a process does is waited for until it is so, or until the process has ended, which is told at once. There is a
bound for a process that hangs: its test fails with what it has said.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from bitmesh_proxy.cli.new_key import NewKey, create_key
from bitmesh_proxy.money import parse_usd
from bitmesh_proxy.storage.accounts import AccountStore
from tests.first_start import furnish
from tests.journeys.gateway import open_books, settings_for

ROOT = Path(__file__).parent.parent.parent
#: Becomes another program, after the standard input has become the terminal of its session. It hears when that is
#: closed, also where the tests run under nohup, which has all that it starts ignore it.
_TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)  # fmt: skip
#: For each thing that is waited for. Python, the package and the sandbox's drawing library are imported first: on a
#: machine with six times as much to do as it can, a start takes half a minute.
PATIENCE_S: Final = 60.0
#: Of tests that wait for some such things, one after the other.
PATIENTLY: Final = pytest.mark.timeout(5 * PATIENCE_S)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the process sees: nothing of the developer's own configuration."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/nonexistent"),
        "PYTHONPATH": str(ROOT),
        "BITMESH_SANDBOX__TOKEN_INTERVAL_MS": "0",
        "BITMESH_SANDBOX__JOB_DURATION_S": "0.2",
        "BITMESH_SANDBOX__MAX_CLIP_FRAMES": "6",
        "BITMESH_SANDBOX__MAX_CLIP_PIXELS": "14400",
        "BITMESH_MEDIA__COPY_AT_ONCE": "false",
        "BITMESH_JOBS__FIRST_POLL_S": "0.1",
        "BITMESH_JOBS__MAX_POLL_S": "0.3",
        "BITMESH_BILLING__CHECKPOINT_INTERVAL_S": "0.1",
        **(more or {}),
    }


def command(data_dir: Path, *arguments: str) -> list[str]:
    """The program's command line."""
    return [sys.executable, "-m", "bitmesh_proxy", "--data-dir", str(data_dir), *arguments]


def run(data_dir: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        command(data_dir, *arguments),
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        stdin=subprocess.DEVNULL,
    )


async def make_key(data_dir: Path) -> NewKey:
    """An account with ten dollars and a key of it, in a new data directory."""
    settings = settings_for(data_dir)
    await asyncio.to_thread(furnish, data_dir, settings)
    async with open_books(data_dir) as books:
        accounts = AccountStore(books.database)
        account = await accounts.create("journey")
        await accounts.credit(account.id, parse_usd("10"))
        return await create_key(books.database, settings, account_id=account.id)


@dataclass(slots=True)
class Served:
    """A running process. ``output`` is where both its streams go."""

    process: subprocess.Popen[bytes]
    output: Path
    url: str

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def text(self) -> str:
        """All that it has said so far."""
        return self.output.read_text(encoding="utf-8")

    async def until(self, is_so: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait until something is so, for which the process has to run."""
        await _until(is_so, what, self.process, self.output)

    async def until_it_says(self, words: str) -> None:
        """Wait for words of its output."""

        async def are_said() -> bool:
            return words in await asyncio.to_thread(self.text)

        await self.until(are_said, f"it says {words!r}")

    async def ended(self) -> int:
        """Wait for its end; gives the exit status."""
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)

    async def kill(self) -> None:
        """``kill -9``."""
        self.process.send_signal(signal.SIGKILL)
        await self.ended()


@asynccontextmanager
async def serving(
    data_dir: Path,
    *,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    name: str = "serve.log",
    terminal: int | None = None,
) -> AsyncIterator[Served]:
    """Start ``serve`` on a free port, and end it whatever happens. It has no terminal but that (an open file)."""
    output = data_dir.with_name(name)
    line = command(data_dir, "serve", "--port", "0", *arguments)
    process = await asyncio.to_thread(_start, line, output, env, terminal)
    try:
        yield Served(process=process, output=output, url=await _address(process, output))
    finally:
        process.kill()
        process.wait()


def _start(
    line: Sequence[str], output: Path, env: Mapping[str, str] | None, terminal: int | None
) -> subprocess.Popen[bytes]:
    stdin = subprocess.DEVNULL
    if terminal is not None:
        line, stdin = [sys.executable, "-c", _TAKE_TERMINAL, *line], terminal
    with output.open("wb") as log:
        return subprocess.Popen(line, env=environment(env), stdin=stdin, stdout=log, stderr=log, start_new_session=True)


async def _address(process: subprocess.Popen[bytes], output: Path) -> str:
    found: re.Match[str] | None = None

    async def has_started() -> bool:
        nonlocal found
        text = await asyncio.to_thread(output.read_text, encoding="utf-8")
        found = re.search(r"listens on (http://\S+)", text)
        return found is not None and ("Stop with Ctrl-C" in text or "key create" in text)  # the last words of a start

    await _until(has_started, "it says where it listens", process, output)
    assert found is not None
    return found[1]


async def _until(
    is_so: Callable[[], Awaitable[bool]], what: str, process: subprocess.Popen[bytes], output: Path
) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        status, is_late = process.poll(), time.monotonic() > deadline
        if await is_so():  # looked at last: it may have come true with the end
            return
        if is_late or status is not None:
            why = "in vain" if status is None else f"but the process ended with {status}"
            said = await asyncio.to_thread(output.read_text, encoding="utf-8")
            raise AssertionError(f"waited until {what}, {why}:\n{said}")
        await asyncio.sleep(0.02)
