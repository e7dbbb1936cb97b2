"""Who calls and from where: the two frozen values that travel beside a call."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from bitmesh_proxy.money import NanoUsd


class Surface(StrEnum):
    """Which family of callers a route serves; decides how errors look."""

    BITMESH = "bitmesh"
    PUBLIC_MEDIA = "public_media"
    UNIFIED = "unified"
    OPEN_RESPONSES = "open_responses"
    OPENAI = "openai"


class Caller(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """An authenticated API key and its account, as they are in the books at this moment.

    ``bound_model`` (an id or alias): the key speaks to this model only, and Bitmesh's dialect prohibits ``model`` in a
    request then. Rates are requests per minute; ``None`` means the default of the settings. Budgets are nano-dollars
    per day and month in UTC. ``expires_at_s`` is Unix time.
    """

    # In memory, many keys stand as JSON lists of these fields (``storage/packed_keys.py``), which are short as long as
    # what most keys do not have stands last.
    account_id: str
    key_id: str
    key_name: str = ""
    #: The rows of account and key in the books, so that an opening need not look for them; None where nobody knows.
    row_numbers: tuple[int, int] | None = None
    bound_model: str | None = None
    allowed_models: frozenset[str] | None = None
    rate_per_minute: int | None = None
    max_concurrent: int | None = None
    budget_day_nano_usd: NanoUsd | None = None
    budget_month_nano_usd: NanoUsd | None = None
    expires_at_s: float | None = None


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request as the rest of the program sees it.

    ``request_id`` is ours (``req_`` + 24 hexadecimal digits, the time first). ``address`` is the caller's, taken from
    trusted proxies only.
    ``public_base_url`` is scheme and host as the caller saw them, without a slash at the end.
    ``received_at_s`` is Unix time; ``started_s`` is of the monotonic clock.
    """

    request_id: str
    address: str
    public_base_url: str
    received_at_s: float
    started_s: float
    surface: Surface = Surface.BITMESH
