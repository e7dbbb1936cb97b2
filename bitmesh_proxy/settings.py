"""Settings: what can be set, typed and frozen, with its default; units stand in the names.

Secrets never stand among them: a provider's ``credential`` is a reference, ``env:NAME``, ``file:PATH`` or
``credential:NAME`` (a file of systemd's ``$CREDENTIALS_DIRECTORY``). ``config/bitmesh-proxy.example.toml`` shows every
key with its default; a test holds the two together. Where values come from is the matter of ``settings_sources.py``.
"""

# No `from __future__ import annotations`: each field's type would be looked up by its text, at every start.

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

#: Three hundred years. The database's integers hold moments that far off, and not ``inf``.
MOST_S = 1e10
#: Of bytes and of anything else; sums of these stay within the database's integers.
MOST = 10**15
Seconds = Annotated[float, Meta(gt=0, le=MOST_S)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=MOST_S)]
Count = Annotated[int, Meta(ge=1, le=MOST)]
CountOrZero = Annotated[int, Meta(ge=0, le=MOST)]
KIB = 1024
MIB = 1024 * KIB
#: Budgets count the calls of this month and the one before.
LEAST_LEDGER_KEEP_S = 63 * 86400.0


class SettingsError(Exception):
    """A setting is unknown or impossible. The message names the key and where it came from."""


class Http(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listening side."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 3000
    #: Scheme and host that callers use (``https://ai.example.org``). Empty: as a trusted proxy says, else the request.
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    #: Of a head whose end has not come.
    max_head_bytes: Count = 64 * KIB
    max_body_bytes: Count = 32 * MIB
    max_upload_bytes: Count = 512 * MIB
    #: What all large bodies take of memory together, of all workers.
    max_bodies_bytes: Count = 512 * MIB
    max_json_depth: Count = 64
    body_timeout_s: Seconds = 120.0
    keepalive_timeout_s: Seconds = 75.0
    #: How long running answers may go on after SIGTERM.
    shutdown_timeout_s: Seconds = 20.0
    cors_origins: tuple[str, ...] = ("*",)
    #: Processes that serve, each on a core of its own; more than one only on Linux.
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    #: Workers stay on a core each, unless there are more cores than workers.
    pin_workers: bool = True
    #: Serve plain chat calls on the fast lane (``web/lane``); everything else goes through aiohttp's handlers anyway.
    lane: bool = True


class Data(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where things are kept."""

    #: Empty: ``$STATE_DIRECTORY`` (systemd), else ``bitmesh-proxy`` in ``$XDG_DATA_HOME`` or ``~/.local/share``.
    dir: str = ""
    busy_timeout_s: Seconds = 5.0
    #: Requests waiting for the writer; more get 503.
    max_pending_writes: Count = 10_000
    #: With less, nothing new is taken on. Copies of media leave twice as much.
    min_free_bytes: CountOrZero = 16 * MIB


class Auth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OAuth 1.0a and keys."""

    timestamp_window_s: Seconds = 300.0
    max_nonces: Count = 1_000_000
    #: Empty: ``$CREDENTIALS_DIRECTORY/master_secret``, else ``master.secret`` in the data directory, made when missing.
    master_secret_file: str = ""


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Token buckets (per minute, with a burst) and concurrency. 0 switches a limit off."""

    address_per_minute: CountOrZero = 1200
    address_burst: CountOrZero = 300
    key_per_minute: CountOrZero = 600
    key_burst: CountOrZero = 120
    key_max_concurrent: CountOrZero = 64
    #: Per key and endpoint name (``chat``, ``image``, ``video`` …), requests per minute.
    endpoint_per_minute: Mapping[str, int] = msgspec.field(default_factory=dict)


class Upstream(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The calls that we make."""

    connect_timeout_s: Seconds = 10.0
    first_byte_timeout_s: Seconds = 300.0
    idle_timeout_s: Seconds = 120.0
    total_timeout_s: Seconds = 3600.0
    max_answer_bytes: Count = 64 * MIB
    max_connections_per_provider: Count = 4096
    keepalive_timeout_s: Seconds = 30.0
    #: Offers tried for one call, the first included.
    max_attempts: Count = 3
    #: An offer that failed is put last for so long.
    unhealthy_s: Seconds = 30.0


class Billing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What accounts pay."""

    #: Charge = cost × markup, where an offer names no sell price of its own. A decimal string.
    markup: str = "1.0"
    #: Output tokens reserved for when a caller and a model name no limit.
    default_max_output_tokens: Count = 4096
    #: A picture or sound whose caller left before it came is charged: the provider bills it all the same.
    charge_abandoned_media: bool = True
    #: Running streams note what they delivered so far, for the case of a crash.
    checkpoint_interval_s: Seconds = 1.0


class Ledger(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of calls that have ended."""

    #: Each call has a row of its own for so long; then it is part of its month's sums. 0 keeps all rows.
    keep_s: SecondsOrZero = 400 * 86400.0


class Jobs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Long work, which videos are."""

    first_poll_s: Seconds = 2.0
    max_poll_s: Seconds = 20.0
    backoff_factor: Annotated[float, Meta(ge=1, le=1000)] = 1.5
    max_concurrent_polls_per_provider: Count = 8
    #: A job still running after so long is looked at rarely (its hold stays).
    slow_after_s: Seconds = 3600.0
    slow_poll_s: Seconds = 300.0
    #: After so long it is given up: a few more polls, and if none brings the last word, it has failed.
    give_up_after_s: Seconds = 3 * 86400.0
    max_open_per_key: Count = 100
    #: A job that has ended can be asked about for so long.
    keep_s: Seconds = 30 * 86400.0


class Media(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``/imgrslt`` and other results."""

    max_bytes: Count = 512 * MIB
    fetch_timeout_s: Seconds = 300.0
    max_redirects: CountOrZero = 3
    #: Copies on disk, because providers' links die within the hour.
    cache_bytes: CountOrZero = 4096 * MIB
    keep_s: Seconds = 7 * 86400.0
    #: Empty: ``$CACHE_DIRECTORY`` (systemd), else ``media`` in the data directory.
    cache_dir: str = ""
    max_concurrent_fetches: Count = 64
    #: Make the copy when the provider hands out the link, not only when somebody asks for it.
    copy_at_once: bool = True
    #: A copy whose last caller has left is finished if no more than this is missing.
    finish_alone_bytes: CountOrZero = 128 * MIB
    #: A caller who takes nothing for so long is cut off.
    stall_timeout_s: Seconds = 60.0


class Uploads(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pictures and sounds that callers send: as files, as data URIs or behind links."""

    #: Of one call.
    max_images: Count = 16
    max_image_bytes: Count = 25 * MIB
    max_audio_bytes: Count = 25 * MIB
    #: What the bytes may be, whatever their sender says that they are.
    image_types: tuple[str, ...] = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/heic")
    audio_types: tuple[str, ...] = (
        "audio/mpeg",
        "audio/mp4",
        "audio/aac",
        "audio/wav",
        "audio/flac",
        "audio/ogg",
        "audio/webm",
        "video/mp4",
        "video/webm",
        "video/quicktime",
    )
    #: Origins (``http://10.0.0.7:9000``) that links of callers may lead to although they are not public.
    trusted_origins: tuple[str, ...] = ()
    fetch_timeout_s: Seconds = 30.0


class Answers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers that are held open while long work runs, and habits of the older gateway."""

    #: After so long the head and a space go out, and further spaces after each interval, so that no proxy in between
    #: gives up. From then on an error can only stand in the body.
    keep_alive_after_s: Seconds = 15.0
    keep_alive_interval_s: Seconds = 5.0
    #: Held open no longer than this; the work itself goes on.
    max_held_s: Seconds = 1800.0
    #: Under ``/v1/openai/images`` and ``/v1/openai/videos/generations``, errors of providers and of the balance are
    #: answered with status 200 and an ``error`` in the body.
    legacy_errors_as_ok: bool = False


class Idempotency(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``Idempotency-Key``."""

    keep_s: Seconds = 86400.0
    max_answer_bytes: Count = 1 * MIB
    max_total_bytes: Count = 256 * MIB
    wait_timeout_s: Seconds = 600.0


class Responses(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``/v1/responses``."""

    #: Stored responses: how long they are kept, and how much of them. Beyond it the oldest go of who holds the most.
    keep_s: Seconds = 30 * 86400.0
    max_total_bytes: Count = 1024 * MIB
    max_context_bytes: Count = 64 * MIB
    #: Background responses under way, per account.
    max_background: Count = 100
    websocket_max_s: Seconds = 3600.0
    #: Turns that wait for the one under way, per connection.
    websocket_max_queued: Count = 16


class Sandbox(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The embedded stand-in for the providers. ``auto``: on when no provider credential is configured."""

    mode: Literal["auto", "on", "off"] = "auto"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    token_interval_ms: CountOrZero = 15
    job_duration_s: Seconds = 6.0
    #: A clip has at most so many frames, and so many pixels in each, whatever is asked: drawing is work.
    max_clip_frames: Count = 48
    max_clip_pixels: Count = 640 * 360


class Catalogue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models, offers, prices."""

    #: Directory of ``*.toml``; empty: the rows that come with the package.
    dir: str = ""
    #: More directories, read after it (an operator's own models).
    extra_dirs: tuple[str, ...] = ()


class Logging(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lines on standard error, one JSON object each, or plain text for people."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    access_log: bool = True


class Metrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``/metrics``, for Prometheus."""

    #: Who may read it, by the caller's address; nobody else learns that it is there.
    allowed_networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")


class ProviderSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's address and credential, or a further OpenAI-compatible server (``kind``)."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    kind: Literal["", "openai_compatible"] = ""
    title: str = ""
    #: Root name → base URL; ``default`` is the usual one.
    base_urls: Mapping[str, str] = msgspec.field(default_factory=dict)
    credential: str = ""
    enabled: bool = True
    max_concurrent: CountOrZero = 0
    #: Of a further server: a chat or an embedding costs what its ``usage.cost`` says, where it does.
    takes_reported_cost: bool = False


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything. See ``config/bitmesh-proxy.example.toml``."""

    http: Http = Http()
    data: Data = Data()
    auth: Auth = Auth()
    limits: Limits = Limits()
    upstream: Upstream = Upstream()
    billing: Billing = Billing()
    ledger: Ledger = Ledger()
    jobs: Jobs = Jobs()
    media: Media = Media()
    uploads: Uploads = Uploads()
    answers: Answers = Answers()
    idempotency: Idempotency = Idempotency()
    responses: Responses = Responses()
    sandbox: Sandbox = Sandbox()
    catalogue: Catalogue = Catalogue()
    logging: Logging = Logging()
    metrics: Metrics = Metrics()
    providers: tuple[ProviderSettings, ...] = ()


def resolve_data_dir(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """The data directory by the rule of ``data.dir``. Makes nothing.

    Raises SettingsError where the rule finds none.
    """
    env = os.environ if environ is None else environ
    if settings.data.dir:
        return Path(settings.data.dir).expanduser()
    if env.get("STATE_DIRECTORY"):
        return Path(env["STATE_DIRECTORY"].split(":")[0])
    if env.get("XDG_DATA_HOME"):
        return Path(env["XDG_DATA_HOME"]) / "bitmesh-proxy"
    try:
        return Path.home() / ".local" / "share" / "bitmesh-proxy"
    except RuntimeError as exc:  # a user without a name, as containers have them
        raise SettingsError("data.dir: this user has no home directory; say where the data are (--data-dir)") from exc


def resolve_media_dir(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Where copies of media are kept, by the rule of ``media.cache_dir``. Makes nothing."""
    env = os.environ if environ is None else environ
    configured = settings.media.cache_dir or env.get("CACHE_DIRECTORY", "").split(":")[0]
    return Path(configured).expanduser() if configured else resolve_data_dir(settings, env) / "media"


def resolve_credential(reference: str, environ: Mapping[str, str] | None = None) -> str:
    """The secret behind ``env:NAME``, ``file:PATH`` or ``credential:NAME``; empty when there is none.

    Raises SettingsError when a named file cannot be read, or when that cannot be a secret.
    """
    env = os.environ if environ is None else environ
    kind, _, rest = reference.partition(":")
    if kind == "env":
        return _secret(reference, env.get(rest, ""))
    if kind == "credential":
        directory = env.get("CREDENTIALS_DIRECTORY")
        if not directory or not (Path(directory) / rest).is_file():
            return ""
        path = Path(directory) / rest
    elif kind == "file":
        path = Path(rest).expanduser()
    else:
        raise SettingsError(f"not a credential reference: {kind}:…")
    try:
        return _secret(reference, path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"credential {reference}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"credential {reference}: not a text") from exc


def _secret(reference: str, text: str) -> str:
    """What goes into a header. Anything else would be found with the first call only."""
    secret = text.removeprefix("\ufeff").strip()
    if not (secret.isascii() and secret.isprintable()):
        raise SettingsError(f"credential {reference}: want one line of plain characters, without accents")
    return secret
