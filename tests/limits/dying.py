"""Shared memory as a process has it that is killed after so many stores."""

from __future__ import annotations

from typing import Any, cast

from bitmesh_proxy.shared_memory import SharedMemory


class Killed(BaseException):
    """From here on nothing is stored. (The lock is given up, as the kernel gives it up.)"""


def dying(memory: SharedMemory, *, stores: int) -> SharedMemory:
    """``memory``, for somebody who stores so many more words and is killed at the next."""
    return cast(SharedMemory, _Dying(memory, stores))


class _Dying:
    def __init__(self, memory: SharedMemory, stores: int) -> None:
        self.words = _Words(memory.words, stores)
        self.threads = memory.threads
        self.lock_descriptor = memory.lock_descriptor
        self.lock, self.unlock, self.locked, self.wait = memory.lock, memory.unlock, memory.locked, memory.wait


class _Words:
    def __init__(self, words: Any, stores: int) -> None:
        self._words = words
        self._left = stores

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        if not self._left:
            raise Killed
        self._left -= 1
        self._words[at] = value
