"""Memory that several processes see, with a lock that no dead process can hold.

The memory is a file without a name (memfd_create(2), Linux): children inherit it, nobody else can open it, and nothing
is left of it when the last process ends. It is a row of *words*, eight bytes each and aligned, so that a word is always
stored whole. Whoever is killed in the middle of several stores leaves the first of them done and the rest not: what is
built on this has to be right, or harmlessly strict, after any part of its stores.

The lock is flock(2) on the file, opened anew by each process: the kernel gives it up when its holder ends, in whatever
way, ``kill -9`` included. It costs 1.0 us. (A semaphore of ``multiprocessing`` costs 0.1 us and stays taken for ever
when its holder is killed; a robust mutex of pthreads costs 0.8 us by way of ctypes; fcntl(2) costs 1.6 us.) A holder
that lives and is stopped, by SIGSTOP or a debugger, keeps it: then whoever wants it is refused, so that the event loops
of the other processes go on.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from bitmesh_proxy.errors import Unavailable

log = logging.getLogger(__name__)

WORD_BYTES = 8
#: A holder takes a few microseconds, unless it is stopped or kept from its core.
PATIENCE_S = 1.0
#: How often the lock is asked for, at 2 us each, before the processor is left to others: a sleep takes 70 us, and with
#: two busy processes one call in seven meets the other one's.
_TRIES = 25
_PAUSE_S = 0.000_02
_PAGE_BYTES = mmap.PAGESIZE

#: All that this process has, for its children.
_alive: weakref.WeakSet[SharedMemory] = weakref.WeakSet()


class SharedMemory:
    """So many words, all 0 at the beginning. Unsigned: a word holds 0 to 2⁶⁴ − 1.

    Made by ``create`` and inherited by fork; a process that was not forked is given the ``descriptor`` and makes its
    own object of it. ``close`` it at the end.
    """

    def __init__(self, descriptor: int, *, name: str = "words") -> None:
        self.descriptor = descriptor
        self.name = name
        self._map = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self.words = memoryview(self._map).cast("Q")
        #: Between threads of this process; ``lock`` takes it too.
        self.threads = threading.Lock()
        #: What flock(2) is called with, which is for those that can spare a call of ``lock``.
        self.lock_descriptor = _opened_anew(descriptor)
        self._was_in_vain = False
        _alive.add(self)

    @classmethod
    def create(cls, words: int, *, name: str) -> SharedMemory:
        """New memory. ``name`` says what is in it, to readers of logs and of a process's files. Raises OSError."""
        descriptor = os.memfd_create(f"bitmesh-proxy {name}", os.MFD_CLOEXEC)
        size_bytes = -(-words * WORD_BYTES // _PAGE_BYTES) * _PAGE_BYTES
        try:
            os.ftruncate(descriptor, size_bytes)  # pages are there only once they are written to
            return cls(descriptor, name=name)
        except BaseException:
            os.close(descriptor)
            raise

    def lock(self) -> None:
        """Keep everybody else out. Raises Unavailable when another process keeps us out for long."""
        self.threads.acquire()
        try:
            flock(self.lock_descriptor, LOCK_EX | LOCK_NB)
        except OSError:
            self.wait()

    def wait(self) -> None:
        """The rest of ``lock`` where it was not to be had, mostly because another process has it. Whoever comes when
        somebody has waited in vain does not wait, until it is free again. Where it raises Unavailable, ``threads`` is
        given back."""
        is_hopeless = self._was_in_vain
        end_s, tries = time.monotonic() + (0.0 if is_hopeless else PATIENCE_S), 0
        while True:
            try:
                flock(self.lock_descriptor, LOCK_EX | LOCK_NB)
                break
            except BlockingIOError:
                tries += 1
            except OSError as exc:  # the kernel has no room for a lock
                self.threads.release()
                raise Unavailable(f"The {self.name} cannot be looked up at the moment. Please try again.") from exc
            if tries < _TRIES and not is_hopeless:
                continue
            if time.monotonic() >= end_s:
                if not is_hopeless:
                    log.error(
                        "a process that stands still has locked the %s that all processes share: whoever needs them is"
                        " refused",
                        self.name,
                    )
                self._was_in_vain = True
                self.threads.release()
                raise Unavailable(f"The {self.name} cannot be looked up at the moment. Please try again.")
            time.sleep(_PAUSE_S)
        if is_hopeless:
            log.info("the %s that all processes share can be used again", self.name)
            self._was_in_vain = False

    def unlock(self) -> None:
        """Let the next one in."""
        try:
            flock(self.lock_descriptor, LOCK_UN)
        finally:
            self.threads.release()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """``lock`` and ``unlock`` around a block. Raises Unavailable as ``lock`` does."""
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def close(self) -> None:
        """Let go of it; others keep theirs. May be called twice."""
        if self.descriptor < 0:
            return
        _alive.discard(self)
        self.words.release()
        self._map.close()
        os.close(self.lock_descriptor)
        os.close(self.descriptor)
        self.descriptor = self.lock_descriptor = -1

    def _begin_anew(self) -> None:
        """In a child: what was inherited is the parent's lock, held whenever the parent holds it."""
        os.close(self.lock_descriptor)
        self.lock_descriptor = _opened_anew(self.descriptor)
        self.threads = threading.Lock()
        self._was_in_vain = False


def _opened_anew(descriptor: int) -> int:
    # Through /proc, because a duplicate of a descriptor would share its lock.
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)


def _after_fork() -> None:
    for memory in list(_alive):
        memory._begin_anew()


os.register_at_fork(after_in_child=_after_fork)
