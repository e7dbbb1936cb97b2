"""Every typed key of the application and of a request. There are no string keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from bitmesh_proxy.billing.reservation import Books
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.draining import Draining
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.limits.base import Snapshot
from bitmesh_proxy.limits.concurrency import ConcurrencyLimit, Slot
from bitmesh_proxy.limits.per_address import AddressLimit
from bitmesh_proxy.limits.per_endpoint import EndpointLimit
from bitmesh_proxy.limits.per_key import KeyLimit
from bitmesh_proxy.media.inputs import InputMedia
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.metrics import Metrics
from bitmesh_proxy.pipeline import Pipeline
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.idempotency import IdempotencyStore
from bitmesh_proxy.straight import StraightLine
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.attempts import Attempts
from bitmesh_proxy.upstream.client import Upstream
from bitmesh_proxy.web.authenticate import Authenticator
from bitmesh_proxy.web.forwarded import ForwardedTrust
from bitmesh_proxy.web.received import Received

if TYPE_CHECKING:
    from bitmesh_proxy.auth.sealing import Sealer
    from bitmesh_proxy.sandbox.server import Sandbox
    from bitmesh_proxy.web.models import ListedModels
    from bitmesh_proxy.web.responses.elsewhere import Elsewhere
    from bitmesh_proxy.web.responses.service import Responses
    from bitmesh_proxy.worker import Worker


class RequestState(msgspec.Struct):
    """What the middlewares learn about one request on its way in. Set by them, read below and by the access line."""

    context: RequestContext
    caller: Caller | None = None
    #: One for each limit passed; None for a limit that is switched off.
    snapshots: list[Snapshot | None] = msgspec.field(default_factory=list)
    received: Received | None = None
    #: Among the calls that the key has under way.
    slot: Slot | None = None
    error_code: str | None = None
    #: The answer, once its head has gone out.
    response: web.StreamResponse | None = None


STATE = web.RequestKey("state", RequestState)

SETTINGS = web.AppKey("settings", Settings)
FORWARDED = web.AppKey("forwarded", ForwardedTrust)
ENVIRON = web.AppKey("environ", Mapping[str, str])
DATABASE = web.AppKey("database", Database)
#: Called, from a thread, when the database has to be brought up to date and the start may take long. May be absent.
ON_MIGRATION: web.AppKey[Callable[[], object]] = web.AppKey("on_migration")
CATALOGUE = web.AppKey("catalogue", Catalogue)
MODELS: web.AppKey[ListedModels] = web.AppKey("models")
AUTHENTICATOR = web.AppKey("authenticator", Authenticator)
ADDRESS_LIMIT = web.AppKey("address_limit", AddressLimit)
KEY_LIMIT = web.AppKey("key_limit", KeyLimit)
ENDPOINT_LIMIT = web.AppKey("endpoint_limit", EndpointLimit)
CONCURRENCY_LIMIT = web.AppKey("concurrency_limit", ConcurrencyLimit)
SETTLEMENTS = web.AppKey("settlements", Settlements)
BOOKS = web.AppKey("books", Books)
IDEMPOTENCY = web.AppKey("idempotency", IdempotencyStore)
ACCESS = web.AppKey("access", Mapping[str, ProviderAccess])
UPSTREAM = web.AppKey("upstream", Upstream)
ATTEMPTS = web.AppKey("attempts", Attempts)
MEDIA = web.AppKey("media", MediaResults)
INPUTS = web.AppKey("inputs", InputMedia)
#: The sandbox of this process; absent when real providers are used.
SANDBOX: web.AppKey[Sandbox] = web.AppKey("sandbox")
METRICS = web.AppKey("metrics", Metrics)
PIPELINE = web.AppKey("pipeline", Pipeline)
STRAIGHT = web.AppKey("straight", StraightLine)
#: What this process has in common with its siblings; absent where one process serves alone.
WORKER: web.AppKey[Worker] = web.AppKey("worker")
#: Number of this process among those that share the database.
INSTANCE = web.AppKey("instance", int)
#: For what callers carry from one request to another.
SEALER: web.AppKey[Sealer] = web.AppKey("sealer")
RESPONSES: web.AppKey[Responses] = web.AppKey("responses")
#: Of a worker: the way to what its siblings make.
ELSEWHERE: web.AppKey[Elsewhere] = web.AppKey("elsewhere")
IS_SANDBOX = web.AppKey("is_sandbox", bool)
DRAINING = web.AppKey("draining", Draining)
#: Set when running answers have had their time at the end: what breaks off from then on we have broken off.
CUTTING = web.AppKey("cutting", asyncio.Event)
JOBS = web.AppKey("jobs", JobService)
