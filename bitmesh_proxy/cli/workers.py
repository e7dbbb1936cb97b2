"""Several workers behind one address (``http.workers`` above 1).

The supervisor reserves the addresses (or has sockets from systemd), makes the memory that is shared, and forks: the
sandbox, if the providers are played, then the first worker, and when that serves, the others. The first makes what is
not there yet and closes what an earlier run left open; what is wrong with the configuration is said once, and ends the
start with status 78 as with one process. Each worker listens on a socket of its own, and the kernel divides callers
among them; sockets from systemd they have in common, and whoever is first takes the caller.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Final

from bitmesh_proxy import service_manager
from bitmesh_proxy.billing.settlements import CLOSE_TIMEOUT_S
from bitmesh_proxy.cli.children import Child
from bitmesh_proxy.cli.process import reserve, url_of
from bitmesh_proxy.cli.supervisor import Supervisor
from bitmesh_proxy.cli.worker_process import Callers, run_sandbox, run_worker
from bitmesh_proxy.settings import Settings, SettingsError
from bitmesh_proxy.startup import StartError, access_by, offered_by, sandbox_port_taken
from bitmesh_proxy.worker import Doors, Memories, Worker, settings_of_seat

#: Beyond the time that running answers have: what the books may take at the end, and a little.
STOP_PATIENCE_S: Final = CLOSE_TIMEOUT_S + 5.0


def supervise(settings: Settings) -> int:
    """Serve with several workers until SIGTERM or SIGINT; gives the exit status. Raises StartError, OSError."""
    check(settings)
    seats = settings.http.workers
    catalogue = offered_by(settings, os.environ)
    is_sandbox = access_by(settings, os.environ) is None
    given = service_manager.listen_sockets()
    callers = Callers(given, [] if given else reserve(settings.http.host, settings.http.port))
    try:
        sandbox_sockets = reserve("127.0.0.1", settings.sandbox.port) if is_sandbox else []
    except OSError as exc:
        raise sandbox_port_taken(settings, exc) from exc
    memories, doors = Memories.create(seats), Doors.open(seats)
    interval_s = service_manager.watchdog_interval_s()
    played = [Child(name="the sandbox", run=partial(run_sandbox, settings, sock, callers)) for sock in sandbox_sockets]
    serving = []
    for seat in range(seats):
        worker = Worker(
            seat=seat,
            seats=seats,
            memories=memories,
            doors=doors,
            catalogue=catalogue,
            sandbox_url=url_of(sandbox_sockets[0].getsockname()) if is_sandbox else None,
        )
        run = partial(run_worker, settings, worker, callers)
        beat_interval_s = None if interval_s is None else interval_s / 2
        serving.append(Child(name=f"worker {seat}", run=run, seat=seat, beat_interval_s=beat_interval_s))
    supervisor = Supervisor(
        played,
        serving,
        sockets=[*callers.given, *callers.reserved, *sandbox_sockets, *doors.sockets],
        # What was under way in a worker has ended with it.
        on_death=lambda child: None if child.seat is None else memories.forget_seat(child.seat, seats=seats),
        watchdog_interval_s=interval_s,
        stop_patience_s=settings.http.shutdown_timeout_s + STOP_PATIENCE_S,
    )
    return supervisor.run()


def check(settings: Settings) -> None:
    """Raises StartError for what cannot be with so many workers."""
    seats = settings.http.workers
    if not hasattr(os, "memfd_create"):
        raise StartError("http.workers: more than one needs Linux")
    try:
        for seat in range(seats):
            settings_of_seat(settings, seat, seats=seats)
    except SettingsError as exc:
        raise StartError(str(exc)) from exc
