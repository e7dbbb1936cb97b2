"""Puts the application together. Tests and production build the very same one.

Lifetimes are cleanup contexts; they close in the reverse order, so the database is first and closes last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.auth.master import load_master_secret
from bitmesh_proxy.auth.sealing import Sealer
from bitmesh_proxy.auth.secrets import MasterSecretError
from bitmesh_proxy.billing.recovery import recover
from bitmesh_proxy.billing.reservation import Books
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.catalogue.health import OfferHealth
from bitmesh_proxy.catalogue.loader import catalogue_dirs, load_catalogue
from bitmesh_proxy.catalogue.row_files import CatalogueError
from bitmesh_proxy.endpoints.models import ModelList
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.idempotency import IdempotencyGate
from bitmesh_proxy.jobs.poller import Poller
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.limits.concurrency import ConcurrencyLimit
from bitmesh_proxy.limits.per_address import AddressLimit
from bitmesh_proxy.limits.per_endpoint import EndpointLimit
from bitmesh_proxy.limits.per_key import KeyLimit
from bitmesh_proxy.media.room import open_inputs, open_media
from bitmesh_proxy.metrics import Metrics
from bitmesh_proxy.money import parse_usd
from bitmesh_proxy.pipeline import Pipeline
from bitmesh_proxy.settings import Settings, SettingsError, resolve_data_dir, resolve_media_dir
from bitmesh_proxy.storage.database import DATABASE_NAME, Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.idempotency import IdempotencyStore
from bitmesh_proxy.storage.instances import register_instance
from bitmesh_proxy.storage.jobs import JobStore
from bitmesh_proxy.storage.keys import KeyDirectory
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.media import SqliteMedia
from bitmesh_proxy.storage.nonces import SqliteNonces
from bitmesh_proxy.storage.responses import ResponseStore
from bitmesh_proxy.straight import StraightLine
from bitmesh_proxy.upstream.access import configured_access, provider_names, sandbox_access
from bitmesh_proxy.upstream.attempts import Attempts
from bitmesh_proxy.upstream.client import Upstream
from bitmesh_proxy.upstream.outcomes import Outcomes
from bitmesh_proxy.upstream.straight_chat import StraightChats
from bitmesh_proxy.web.authenticate import Authenticator
from bitmesh_proxy.web.error_formats import render_stream_error
from bitmesh_proxy.web.forwarded import ForwardedTrust
from bitmesh_proxy.web.lane.protocol import LaneRunner
from bitmesh_proxy.web.middlewares import MIDDLEWARES, add_common_headers
from bitmesh_proxy.web.responses.service import Responses
from bitmesh_proxy.web.routes import add_routes
from bitmesh_proxy.work import OfferWork

log = logging.getLogger(__name__)


class StartError(Exception):
    """The application cannot start as it is configured. The message is for the operator."""


def make_app(settings: Settings, environ: Mapping[str, str] | None = None) -> web.Application:
    """The whole application. Raises StartError at once for what can be seen before anything is opened."""
    app = web.Application(middlewares=MIDDLEWARES, client_max_size=settings.http.max_body_bytes)
    app[keys.SETTINGS] = settings
    app[keys.ENVIRON] = dict(os.environ if environ is None else environ)
    app[keys.FORWARDED] = ForwardedTrust(settings.http.trusted_proxies)
    app[keys.DRAINING] = asyncio.Event()
    app[keys.METRICS] = Metrics()
    app[keys.ADDRESS_LIMIT] = AddressLimit(settings.limits.address_per_minute, burst=settings.limits.address_burst)
    app[keys.KEY_LIMIT] = KeyLimit(settings.limits.key_per_minute, burst=settings.limits.key_burst)
    app[keys.ENDPOINT_LIMIT] = EndpointLimit(settings.limits.endpoint_per_minute)
    app[keys.CONCURRENCY_LIMIT] = ConcurrencyLimit(settings.limits.key_max_concurrent)
    app.cleanup_ctx.extend([database, books, catalogue, upstream, media, jobs, pipeline, responses])
    app.on_response_prepare.append(add_common_headers)
    add_routes(app, cors_origins=settings.http.cors_origins)
    return app


def make_runner(app: web.Application) -> web.AppRunner:
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
        master_secret = await asyncio.to_thread(load_master_secret, settings, environ)
        db = await Database.open(
            directory / DATABASE_NAME,
            busy_timeout_s=settings.data.busy_timeout_s,
            max_pending_writes=settings.data.max_pending_writes,
            min_free_bytes=settings.data.min_free_bytes,
        )
    except (OSError, StorageError, MasterSecretError) as exc:
        raise StartError(str(exc)) from exc
    app[keys.DATABASE] = db
    app[keys.METRICS].write_waits = db.write_waits
    app[keys.SEALER] = Sealer(master_secret, "compaction")
    app[keys.AUTHENTICATOR] = Authenticator(
        KeyDirectory(db),
        nonces=SqliteNonces(db, window_s=settings.auth.timestamp_window_s, max_nonces=settings.auth.max_nonces),
        master_secret=master_secret,
        window_s=settings.auth.timestamp_window_s,
        http=settings.http,
    )
    yield
    await db.close()


async def books(app: web.Application) -> AsyncIterator[None]:
    """Money. What an earlier process left open is closed before the first call is taken."""
    settings, db = app[keys.SETTINGS], app[keys.DATABASE]
    settlements = app[keys.SETTLEMENTS] = Settlements()
    ledger = LedgerStore(db)
    instance = await register_instance(db)
    app[keys.INSTANCE] = instance.number
    app[keys.IDEMPOTENCY] = IdempotencyStore(
        db,
        instance=instance.number,
        keep_s=settings.idempotency.keep_s,
        max_total_bytes=settings.idempotency.max_total_bytes,
    )
    await recover(db, ledger, app[keys.IDEMPOTENCY])
    opened = app[keys.BOOKS] = Books(
        ledger, settlements=settlements, instance=instance.number, markup_nano=parse_usd(settings.billing.markup)
    )
    checkpoints = asyncio.create_task(opened.checkpoint_forever(settings.billing.checkpoint_interval_s))
    yield
    checkpoints.cancel()
    with suppress(asyncio.CancelledError):
        await checkpoints
    await settlements.close()
    try:
        await instance.close()
    except Unavailable:  # a full disk must not spoil the end; the next start finds the lock free
        log.warning("this process could not be signed off in the database")


async def catalogue(app: web.Application) -> AsyncIterator[None]:
    """Models, offers and prices; the sandbox, if it is to play the providers; and how each provider is reached."""
    settings, environ = app[keys.SETTINGS], app[keys.ENVIRON]
    try:
        app[keys.CATALOGUE] = load_catalogue(catalogue_dirs(settings), providers=provider_names(settings))
        access = configured_access(settings, environ)
    except (CatalogueError, SettingsError, FileNotFoundError) as exc:
        raise StartError(str(exc)) from exc
    mode = settings.sandbox.mode
    app[keys.IS_SANDBOX] = mode == "on" or (mode == "auto" and not access)
    if not app[keys.IS_SANDBOX]:
        app[keys.ACCESS] = access
        yield
        return
    from bitmesh_proxy.sandbox.server import Sandbox  # a gateway with real providers need not load Pillow
    from bitmesh_proxy.sandbox.stage import Options

    options = Options(
        token_interval_s=settings.sandbox.token_interval_ms / 1000,
        job_duration_s=settings.sandbox.job_duration_s,
        max_movie_frames=settings.sandbox.max_clip_frames,
        max_movie_pixels=settings.sandbox.max_clip_pixels,
    )
    async with Sandbox(port=settings.sandbox.port, options=options) as sandbox:
        app[keys.SANDBOX] = sandbox
        app[keys.ACCESS] = sandbox_access(settings, sandbox.url)
        yield


async def upstream(app: web.Application) -> AsyncIterator[None]:
    """The one client session for calls to providers."""
    settings = app[keys.SETTINGS].upstream
    async with Upstream(settings) as client:
        app[keys.UPSTREAM] = client
        app[keys.ATTEMPTS] = Attempts(client, max_answer_bytes=settings.max_answer_bytes)
        yield


async def media(app: web.Application) -> AsyncIterator[None]:
    """Results: ids, copies, the guarded way out."""
    settings = app[keys.SETTINGS]
    async with open_media(
        settings.media,
        directory=resolve_media_dir(settings, app[keys.ENVIRON]),
        store=SqliteMedia(app[keys.DATABASE]),
        access=app[keys.ACCESS],
        allow_private=app[keys.IS_SANDBOX],
    ) as results:
        example = app[keys.SANDBOX].example_picture if app[keys.IS_SANDBOX] else None
        async with open_inputs(settings.uploads, results, example=example) as inputs:
            app[keys.MEDIA] = results
            app[keys.INPUTS] = inputs
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
        settings=settings,
    )
    poller = asyncio.create_task(Poller(service, store, settings).run())
    yield
    poller.cancel()
    with suppress(asyncio.CancelledError):
        await poller
    await service.close()


async def pipeline(app: web.Application) -> AsyncIterator[None]:
    """The line itself, and the list of what it can do."""
    settings = app[keys.SETTINGS]
    app[keys.MODELS] = ModelList.build(
        app[keys.CATALOGUE], available=app[keys.ACCESS].keys(), markup_nano=app[keys.BOOKS].markup_nano
    )
    outcomes = Outcomes(settings.billing, markup_nano=app[keys.BOOKS].markup_nano)
    work = OfferWork(
        access=app[keys.ACCESS],
        attempts=app[keys.ATTEMPTS],
        media=app[keys.MEDIA],
        jobs=app[keys.JOBS],
        outcomes=outcomes,
        max_answer_bytes=settings.upstream.max_answer_bytes,
    )
    health = OfferHealth(clock=time.monotonic, unhealthy_s=settings.upstream.unhealthy_s)
    app[keys.PIPELINE] = Pipeline(
        settings=settings,
        catalogue=app[keys.CATALOGUE],
        access=app[keys.ACCESS],
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
        chats=StraightChats(
            catalogue=app[keys.CATALOGUE],
            access=app[keys.ACCESS],
            health=health,
            outcomes=outcomes,
            max_attempts=settings.upstream.max_attempts,
            max_json_depth=settings.http.max_json_depth,
        ),
        books=app[keys.BOOKS],
        upstream=app[keys.UPSTREAM],
        outcomes=outcomes,
        health=health,
        metrics=app[keys.METRICS],
        pipeline=app[keys.PIPELINE],
        render_stream_error=render_stream_error,
        max_answer_bytes=settings.upstream.max_answer_bytes,
    )
    yield
    # Calls that go on without their caller need all that is closed after this.
    await app[keys.SETTLEMENTS].close(settings.http.shutdown_timeout_s)


async def responses(app: web.Application) -> AsyncIterator[None]:
    """Responses that callers come back to. Those in the background get the time that running answers get."""
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
    yield
    await service.background.close(settings.http.shutdown_timeout_s)
