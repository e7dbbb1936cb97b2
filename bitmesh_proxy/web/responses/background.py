"""Responses that are made while nobody waits: bounded in number, cancelled on request, ended honestly at a stop."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress

from bitmesh_proxy.errors import GatewayError, InternalError, RateLimited, Unavailable
from bitmesh_proxy.limits.concurrency import Slot
from bitmesh_proxy.pipeline import Incoming
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.responses import ResponseStore
from bitmesh_proxy.upstream.reply import Reply
from bitmesh_proxy.web.responses.replies import STOPPED, EventLog
from bitmesh_proxy.web.responses.session import ResponseSession

log = logging.getLogger(__name__)

#: How soon a process hears that another one was asked to cancel what it works on.
CANCEL_LOOK_S = 1.0
#: Streams of finished background responses that can still be followed.
KEPT_LOGS = 64
MAX_RETRY_AFTER_S = 60.0

#: Makes a response, to its last byte.
Run = Callable[[ResponseSession, Incoming, Reply], Awaitable[None]]


class Background:
    """The background responses of this process."""

    def __init__(self, store: ResponseStore, run: Run, *, instance: int, max_under_way: int) -> None:
        self._store = store
        self._run = run
        self._instance = instance
        self._max_under_way = max_under_way
        #: How many each account has under way here, those included that are about to begin.
        self._under_way: Counter[str] = Counter()
        self._running: dict[str, tuple[asyncio.Task[None], ResponseSession]] = {}
        self._logs: OrderedDict[str, EventLog] = OrderedDict()
        self._cancelled: set[str] = set()
        self._watcher: asyncio.Task[None] | None = None

    async def start(self, session: ResponseSession, incoming: Incoming, slot: Slot) -> EventLog:
        """Begin; gives the log of its events. The request's place among its key's calls is the response's from then on.

        Raises RateLimited when too many run, and Unavailable when it cannot be kept.
        """
        account_id = session.caller.account_id
        self._enter(account_id)
        try:
            if not await session.keep():
                raise Unavailable("The response cannot be stored now, so that nobody could ask for it later.")
        except BaseException:
            self._leave(account_id)
            raise
        events = EventLog()
        if session.request.stream:
            self._remember_log(session.response_id, events)
        task = asyncio.create_task(self._run_to_its_end(session, incoming, events))
        give_back = slot.hand_over()

        def ended(_: object) -> None:
            self._leave(account_id)
            give_back()

        task.add_done_callback(ended)
        self._running[session.response_id] = task, session
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch_for_cancels())
        return events

    async def cancel(self, response_id: str) -> None:
        """Stop it, if it runs here, and wait until its books are closed."""
        running = self._running.get(response_id)
        if running is not None:
            self._cancelled.add(response_id)
            running[0].cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running[0]])

    def session_of(self, response_id: str) -> ResponseSession | None:
        """The response that runs here under that id."""
        running = self._running.get(response_id)
        return None if running is None else running[1]

    def log_of(self, response_id: str) -> EventLog | None:
        """The events of a background response that runs, or ended a short while ago, in this process."""
        return self._logs.get(response_id)

    async def close(self, timeout_s: float) -> None:
        """Let what runs come to its end; what does not is ended as interrupted."""
        tasks = [task for task, _ in self._running.values()]
        for task, session in self._running.values():
            if session.job_id is not None:
                task.cancel()  # a job goes on without us; there is nothing to wait for
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        if self._watcher is not None:
            tasks.append(self._watcher)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _enter(self, account_id: str) -> None:
        # Our own are counted here and not by their rows: those come later than they do, and can be deleted.
        under_way = self._under_way[account_id] + self._store.count_under_way(account_id, but_for=self._instance)
        if under_way >= self._max_under_way:
            raise RateLimited(
                f"Too many background responses under way: {self._max_under_way} are allowed.",
                retry_after_s=MAX_RETRY_AFTER_S,
            )
        self._under_way[account_id] += 1

    def _leave(self, account_id: str) -> None:
        self._under_way[account_id] -= 1
        if not self._under_way[account_id]:
            del self._under_way[account_id]

    async def _run_to_its_end(self, session: ResponseSession, incoming: Incoming, events: EventLog) -> None:
        response_id = session.response_id
        try:
            await events.write(session.begin_frames())
            await self._run(session, incoming, events)
        except GatewayError as error:
            await events.send(200, {}, await session.fail(error))
        except asyncio.CancelledError:
            if response_id in self._cancelled:
                await events.send(200, {}, session.cancel())
            elif session.job_id is None:
                stopped = Unavailable(STOPPED)
                await events.send(200, {}, await asyncio.shield(session.fail(stopped)))
            else:
                events.break_off()  # a job goes on, and is found by whoever asks for the response later
        except Exception:
            log.exception("a background response failed", extra={"response_id": response_id})
            await events.send(200, {}, await session.fail(InternalError("Internal server error")))
        finally:
            self._running.pop(response_id, None)
            self._cancelled.discard(response_id)
            await events.finish()

    async def _watch_for_cancels(self) -> None:
        """Another process on the same database may be the one that is asked to cancel."""
        while self._running:
            await asyncio.sleep(CANCEL_LOOK_S)
            try:
                for response_id, (task, session) in list(self._running.items()):
                    if self._store.status_of(session.caller.account_id, response_id) == "cancelled":
                        self._cancelled.add(response_id)
                        task.cancel()
            except (Unavailable, StorageError) as exc:  # the next look may find out
                log.info("it cannot be looked up which responses have been cancelled: %s", exc)

    def _remember_log(self, response_id: str, events: EventLog) -> None:
        over = [each for each, log in self._logs.items() if log.is_over]
        for each in over[: max(0, len(over) - KEPT_LOGS + 1)]:
            del self._logs[each]
        self._logs[response_id] = events
