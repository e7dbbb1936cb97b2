"""Puts the application together. Tests and production build the very same one.

Lifetimes are cleanup contexts; they close in the reverse order, so the database is first and closes last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.auth.master import load_master_secret, missing_master_secret, on_changed_secret, on_new_secret
from bitmesh_proxy.auth.sealing import Sealer
from bitmesh_proxy.auth.secrets import MasterSecretError, fingerprint_of
from bitmesh_proxy.billing.pruning import Pruner
from bitmesh_proxy.billing.recovery import recover
from bitmesh_proxy.billing.reservation import Books
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.catalogue.health import OfferHealth
from bitmesh_proxy.draining import Draining
from bitmesh_proxy.endpoints.models import ModelList
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.idempotency import IdempotencyGate
from bitmesh_proxy.jobs.poller import Poller
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.limits.concurrency import ConcurrencyLimit
from bitmesh_proxy.limits.per_address import AddressLimit
from bitmesh_proxy.limits.per_endpoint import EndpointLimit
from bitmesh_proxy.limits.per_key import KeyLimit
from bitmesh_proxy.media.inputs import ExamplePicture
from bitmesh_proxy.media.room import open_inputs, open_media
from bitmesh_proxy.metrics import Metrics
from bitmesh_proxy.money import parse_usd
from bitmesh_proxy.pipeline import Pipeline
from bitmesh_proxy.settings import Limits, Settings, resolve_data_dir, resolve_media_dir
from bitmesh_proxy.startup import StartError, access_by, offered_by, sandbox_for, sandbox_port_taken
from bitmesh_proxy.storage.database import DATABASE_NAME, Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.idempotency import IdempotencyStore
from bitmesh_proxy.storage.instances import register_instance, run_alone
from bitmesh_proxy.storage.jobs import JobStore
from bitmesh_proxy.storage.key_directory import KeyDirectory
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.media import SqliteMedia
from bitmesh_proxy.storage.months import LedgerMonths
from bitmesh_proxy.storage.nonces import SqliteNonces
from bitmesh_proxy.storage.responses import ResponseStore
from bitmesh_proxy.straight import StraightLine
from bitmesh_proxy.upstream.access import sandbox_access
from bitmesh_proxy.upstream.attempts import Attempts
from bitmesh_proxy.upstream.client import Upstream
from bitmesh_proxy.upstream.outcomes import Outcomes
from bitmesh_proxy.upstream.straight_chat import StraightChats
from bitmesh_proxy.web.authenticate import Authenticator
from bitmesh_proxy.web.body_room import ROOM_KEY, BodyRoom
from bitmesh_proxy.web.error_formats import render_stream_error
from bitmesh_proxy.web.forwarded import ForwardedTrust
from bitmesh_proxy.web.lane.server import LaneRunner
from bitmesh_proxy.web.middlewares import MIDDLEWARES, add_common_headers
from bitmesh_proxy.web.models import ListedModels
from bitmesh_proxy.web.multipart import pass_over_odd_dispositions
from bitmesh_proxy.web.responses.service import Responses
from bitmesh_proxy.web.route import ROUTES_KEY, Access
from bitmesh_proxy.web.routes import add_routes
from bitmesh_proxy.work import OfferWork

if TYPE_CHECKING:
    from pathlib import Path

    from bitmesh_proxy.worker import Worker

log = logging.getLogger(__name__)

#: When the worker that sums up old requests has died, another one does it after so long.
PRUNER_LOOK_AGAIN_S = 60.0
#: Copies of media leave so many times ``data.min_free_bytes``: calls must not be refused because of a cache.
FREE_BESIDE_COPIES = 2


def make_app(
    settings: Settings, environ: Mapping[str, str] | None = None, *, worker: Worker | None = None
) -> web.Application:
    """The whole application, or that of one worker of several.

    Raises StartError at once for what can be seen before anything is opened.
    """
    app = web.Application(middlewares=MIDDLEWARES, client_max_size=settings.http.max_body_bytes)
    app[keys.SETTINGS] = settings
    app[keys.ENVIRON] = dict(os.environ if environ is None else environ)
    app[keys.FORWARDED] = ForwardedTrust(settings.http.trusted_proxies)
    app[keys.DRAINING], app[keys.CUTTING] = Draining(settings.http.shutdown_timeout_s), asyncio.Event()
    if worker is not None:
        app[keys.WORKER] = worker
    app[keys.METRICS] = Metrics() if worker is None else worker.metrics
    app[ROOM_KEY] = BodyRoom(settings.http.max_bodies_bytes // settings.http.workers)
    add_limits(app, settings.limits, worker)
    app.cleanup_ctx.extend([database, books, catalogue, upstream, media, jobs, pipeline, responses])
    app.on_response_prepare.append(add_common_headers)
    pass_over_odd_dispositions()
    add_routes(app, cors_origins=settings.http.cors_origins)
    limited = {route.name for route in app[ROUTES_KEY].values() if route.access is Access.KEY}
    for name in settings.limits.endpoint_per_minute:
        if name not in limited:
            raise StartError(f"limits.endpoint_per_minute: no endpoint is called {name} ({', '.join(sorted(limited))})")
    return app


def add_limits(app: web.Application, settings: Limits, worker: Worker | None) -> None:
    """Buckets and calls under way: in memory, or in the memory that all workers share."""
    app[keys.ADDRESS_LIMIT] = AddressLimit(
        settings.address_per_minute,
        burst=settings.address_burst,
        buckets=None if worker is None else worker.address_buckets,
    )
    app[keys.KEY_LIMIT] = KeyLimit(
        settings.key_per_minute, burst=settings.key_burst, buckets=None if worker is None else worker.key_buckets
    )
    app[keys.ENDPOINT_LIMIT] = EndpointLimit(
        settings.endpoint_per_minute, buckets=None if worker is None else worker.endpoint_buckets
    )
    app[keys.CONCURRENCY_LIMIT] = (
        ConcurrencyLimit(settings.key_max_concurrent)
        if worker is None
        else worker.concurrency_limit(settings.key_max_concurrent)
    )


def make_runner(app: web.Application) -> LaneRunner:
    """What runs the application. ``setup`` raises StartError; ``cleanup`` ends it, also after a failed ``setup``."""
    http = app[keys.SETTINGS].http
    return LaneRunner(
        app,
        handler_cancellation=True,  # a caller who leaves ends the call, also before the first byte
        access_log=None,
        auto_decompress=False,  # packed bodies are refused by us, in the caller's dialect, not unpacked
        shutdown_timeout=http.shutdown_timeout_s,
        keepalive_timeout=http.keepalive_timeout_s,
        max_line_size=16_380,
        max_field_size=16_380,
    )


async def database(app: web.Application) -> AsyncIterator[None]:
    """The one file, its directory, and the master secret beside it."""
    settings, environ = app[keys.SETTINGS], app[keys.ENVIRON]
    directory = resolve_data_dir(settings, environ)
    try:
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        missing = await asyncio.to_thread(missing_master_secret, settings, environ)
        master_secret = await asyncio.to_thread(load_master_secret, settings, environ)
        db = await Database.open(
            directory / DATABASE_NAME,
            busy_timeout_s=settings.data.busy_timeout_s,
            max_pending_writes=settings.data.max_pending_writes,
            min_free_bytes=settings.data.min_free_bytes,
            takes_turns=keys.WORKER in app,
            on_migration=app.get(keys.ON_MIGRATION),
        )
    except (OSError, StorageError, MasterSecretError) as exc:
        raise StartError(str(exc)) from exc
    app[keys.DATABASE] = db
    try:
        await _look_at_secret(KeyStore(db), master_secret, missing)
    except Unavailable as exc:
        await db.close()
        raise _start_error(exc, db.path) from exc
    worker = app.get(keys.WORKER)
    if worker is None:
        app[keys.METRICS].write_waits = db.write_waits
    else:
        db.write_waits = worker.write_waits
    app[keys.SEALER] = Sealer(master_secret, "compaction")
    directory_of_keys = KeyDirectory(db)
    app[keys.AUTHENTICATOR] = Authenticator(
        directory_of_keys,
        nonces=SqliteNonces(db, window_s=settings.auth.timestamp_window_s, max_nonces=settings.auth.max_nonces),
        master_secret=master_secret,
        window_s=settings.auth.timestamp_window_s,
        http=settings.http,
    )
    yield
    await directory_of_keys.close()
    await db.close()


async def _look_at_secret(store: KeyStore, master_secret: bytes, made_at: Path | None) -> None:
    """Say what is lost where it is another one than before, and let commands know by which to make secrets."""
    known, found = store.secret_fingerprint(), fingerprint_of(master_secret)
    if (made_at is not None or known not in (None, found)) and (consumers := await store.count_consumers()):
        log.warning(on_changed_secret(consumers) if made_at is None else on_new_secret(made_at, consumers))
    if known != found:
        await store.note_secret_fingerprint(found)


def _start_error(exc: OSError | Unavailable, path: Path) -> StartError:
    if isinstance(exc, Unavailable):
        return StartError(f"{path}: {exc.message}")
    return StartError(str(exc) if exc.filename else f"{path}: {exc.strerror or exc}")


async def books(app: web.Application) -> AsyncIterator[None]:
    """Money. What an earlier process left open is closed before the first call is taken."""
    settings, db = app[keys.SETTINGS], app[keys.DATABASE]
    settlements = app[keys.SETTLEMENTS] = Settlements()
    ledger = LedgerStore(db)
    try:
        instance = await register_instance(db)
    except (OSError, Unavailable) as exc:
        raise _start_error(exc, db.path) from exc
    app[keys.INSTANCE] = instance.number
    app[keys.IDEMPOTENCY] = IdempotencyStore(
        db,
        instance=instance.number,
        keep_s=settings.idempotency.keep_s,
        max_total_bytes=settings.idempotency.max_total_bytes,
    )
    try:
        await recover(db, ledger, app[keys.IDEMPOTENCY])
    except (OSError, Unavailable) as exc:  # locks of others, or no room
        await instance.close()
        raise _start_error(exc, db.path) from exc
    opened = app[keys.BOOKS] = Books(
        ledger,
        settlements=settlements,
        instance=instance.number,
        markup_nano=parse_usd(settings.billing.markup),
        waits=app[keys.METRICS].ledger_waits,
        is_cutting=app[keys.CUTTING].is_set,
    )
    tasks = [asyncio.create_task(opened.accruals.note_forever(settings.billing.checkpoint_interval_s))]
    if settings.ledger.keep_s:
        tasks.append(asyncio.create_task(pruning(app)))
    yield
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await settlements.close()
    try:
        await instance.close()
    except Unavailable:  # a full disk must not spoil the end; the next start finds the lock free
        log.warning("this process could not be signed off in the database")


def pruning(app: web.Application) -> Coroutine[Any, Any, None]:
    """Old requests become sums. Of several workers one does it."""
    db = app[keys.DATABASE]
    pruner = Pruner(LedgerMonths(db), keep_s=app[keys.SETTINGS].ledger.keep_s)
    if keys.WORKER not in app:
        return pruner.run()
    return run_alone(db, "pruner", pruner.run, look_again_s=PRUNER_LOOK_AGAIN_S)


async def catalogue(app: web.Application) -> AsyncIterator[None]:
    """Models, offers and prices; the sandbox, if it is to play the providers; and how each provider is reached."""
    settings, worker = app[keys.SETTINGS], app.get(keys.WORKER)
    app[keys.CATALOGUE] = offered_by(settings, app[keys.ENVIRON]) if worker is None else worker.catalogue
    access = access_by(settings, app[keys.ENVIRON])
    app[keys.IS_SANDBOX] = access is None if worker is None else worker.sandbox_url is not None
    if worker is not None and worker.sandbox_url is not None:
        app[keys.ACCESS] = sandbox_access(settings, worker.sandbox_url)
        yield
    elif access is not None:
        app[keys.ACCESS] = access
        yield
    elif worker is not None:  # a worker that was started later, and finds a file of credentials gone
        raise StartError("no provider has a credential any more")
    else:
        async with AsyncExitStack() as stack:
            try:
                sandbox = app[keys.SANDBOX] = await stack.enter_async_context(sandbox_for(settings, app[keys.ENVIRON]))
            except OSError as exc:
                raise sandbox_port_taken(settings, exc) from exc
            app[keys.ACCESS] = sandbox_access(settings, sandbox.url)
            yield


def example_of(app: web.Application) -> ExamplePicture | None:
    """What links in documentation stand for, where the providers are played."""
    if not app[keys.IS_SANDBOX]:
        return None
    if keys.WORKER not in app:
        return app[keys.SANDBOX].example_picture
    from bitmesh_proxy.sandbox.server import EXAMPLE_PICTURE  # the sandbox is in another process

    return partial(asyncio.to_thread, EXAMPLE_PICTURE.render)


async def upstream(app: web.Application) -> AsyncIterator[None]:
    """The one client session for calls to providers."""
    settings = app[keys.SETTINGS].upstream
    async with Upstream(settings) as client:
        app[keys.UPSTREAM] = client
        app[keys.ATTEMPTS] = Attempts(client, max_answer_bytes=settings.max_answer_bytes)
        yield


async def media(app: web.Application) -> AsyncIterator[None]:
    """Results: ids, copies, the guarded way out."""
    settings, worker = app[keys.SETTINGS], app.get(keys.WORKER)
    opening = open_media(
        settings.media,
        directory=resolve_media_dir(settings, app[keys.ENVIRON]),
        store=SqliteMedia(app[keys.DATABASE], keep_s=settings.media.keep_s),
        access=app[keys.ACCESS],
        allow_private=app[keys.IS_SANDBOX],
        min_free_bytes=FREE_BESIDE_COPIES * settings.data.min_free_bytes,
        shared_as=None if worker is None else str(worker.seat),
        is_first=worker is None or worker.is_first,
    )
    async with AsyncExitStack() as stack:
        try:
            results = app[keys.MEDIA] = await stack.enter_async_context(opening)
        except OSError as exc:
            raise StartError(f"copies of media cannot be kept: {exc}") from exc
        inputs = open_inputs(settings.uploads, results, example=example_of(app))
        app[keys.INPUTS] = await stack.enter_async_context(inputs)
        yield


async def jobs(app: web.Application) -> AsyncIterator[None]:
    """Long work goes on from where the last process left it."""
    settings = app[keys.SETTINGS].jobs
    store = JobStore(app[keys.DATABASE])
    service = app[keys.JOBS] = JobService(
        store,
        books=app[keys.BOOKS],
        catalogue=app[keys.CATALOGUE],
        access=app[keys.ACCESS],
        attempts=app[keys.ATTEMPTS],
        media=app[keys.MEDIA],
        settlements=app[keys.SETTLEMENTS],
        settings=settings,
        instance=app[keys.INSTANCE],
    )
    poller = asyncio.create_task(polling(app, service, store))
    yield
    poller.cancel()
    with suppress(asyncio.CancelledError):
        await poller
    await service.close()


def polling(app: web.Application, service: JobService, store: JobStore) -> Coroutine[Any, Any, None]:
    """The clockwork for jobs. Of several workers one has it, and looks more often for what the others started."""
    settings, worker = app[keys.SETTINGS].jobs, app.get(keys.WORKER)
    if worker is None:
        return Poller(service, store, settings).run()
    poller = Poller(service, store, settings, max_sleep_s=worker.look_around_s)
    return run_alone(app[keys.DATABASE], "poller", poller.run, look_again_s=worker.look_around_s)


async def pipeline(app: web.Application) -> AsyncIterator[None]:
    """The line itself, and the list of what it can do."""
    settings = app[keys.SETTINGS]
    app[keys.MODELS] = ListedModels(
        partial(
            ModelList.build,
            app[keys.CATALOGUE],
            available=app[keys.ACCESS].keys(),
            markup_nano=app[keys.BOOKS].markup_nano,
        )
    )
    outcomes = Outcomes(settings.billing, markup_nano=app[keys.BOOKS].markup_nano, is_cutting=app[keys.CUTTING].is_set)
    work = OfferWork(
        access=app[keys.ACCESS],
        attempts=app[keys.ATTEMPTS],
        media=app[keys.MEDIA],
        jobs=app[keys.JOBS],
        outcomes=outcomes,
        max_answer_bytes=settings.upstream.max_answer_bytes,
    )
    health = OfferHealth(clock=time.monotonic, unhealthy_s=settings.upstream.unhealthy_s)
    chats = StraightChats(
        catalogue=app[keys.CATALOGUE],
        access=app[keys.ACCESS],
        health=health,
        outcomes=outcomes,
        number_of=app[keys.BOOKS].number_of,
        max_attempts=settings.upstream.max_attempts,
        max_json_depth=settings.http.max_json_depth,
    )
    app[keys.PIPELINE] = Pipeline(
        route=chats.route,
        health=health,
        metrics=app[keys.METRICS],
        books=app[keys.BOOKS],
        work=work,
        outcomes=outcomes,
        inputs=app[keys.INPUTS],
        jobs=app[keys.JOBS],
        idempotency=IdempotencyGate(app[keys.IDEMPOTENCY], settings.idempotency, settlements=app[keys.SETTLEMENTS]),
        settlements=app[keys.SETTLEMENTS],
        render_stream_error=render_stream_error,
    )
    app[keys.STRAIGHT] = StraightLine(
        chats=chats,
        books=app[keys.BOOKS],
        upstream=app[keys.UPSTREAM],
        outcomes=outcomes,
        pipeline=app[keys.PIPELINE],
        render_stream_error=render_stream_error,
        max_answer_bytes=settings.upstream.max_answer_bytes,
    )
    yield
    app[keys.CUTTING].set()  # no caller is there any more who could leave
    # Calls that go on without their caller need all that is closed after this.
    await app[keys.SETTLEMENTS].close(app[keys.DRAINING].left_s())


async def responses(app: web.Application) -> AsyncIterator[None]:
    """Responses that callers come back to. Those in the background have the time that running answers have."""
    settings, db = app[keys.SETTINGS], app[keys.DATABASE]
    service = app[keys.RESPONSES] = Responses(
        pipeline=app[keys.PIPELINE],
        catalogue=app[keys.CATALOGUE],
        store=ResponseStore(db, keep_s=settings.responses.keep_s, max_total_bytes=settings.responses.max_total_bytes),
        sealer=app[keys.SEALER],
        jobs=app[keys.JOBS],
        ledger=LedgerStore(db),
        media=app[keys.MEDIA],
        settings=settings.responses,
        instance=app[keys.INSTANCE],
    )
    async with AsyncExitStack() as stack:
        if (worker := app.get(keys.WORKER)) is not None:
            from bitmesh_proxy.web.responses.elsewhere import Elsewhere

            elsewhere = app[keys.ELSEWHERE] = Elsewhere(service.background.log_of, worker.doors, seat=worker.seat)
            await elsewhere.start()
            stack.push_async_callback(elsewhere.close)
        yield
        app[keys.CUTTING].set()  # no caller is there any more who could leave
        await service.background.close(app[keys.DRAINING].left_s())
