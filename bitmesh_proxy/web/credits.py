"""What is left, and what was used: ``POST /v1/auth/test`` and ``GET /v1/credits``, in the older gateway's shapes.

Sums come from the books. ``credits`` counts in ten-thousandths of a US dollar, rounded down; the other sums are strings
of US dollars with four decimals.
"""

from __future__ import annotations

import datetime
import time
from typing import Any, Final

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.context import Surface
from bitmesh_proxy.errors import InternalError, InvalidRequest
from bitmesh_proxy.money import format_usd
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.storage.usage import UsageFilter, UsageReports
from bitmesh_proxy.web.replies import json_answer
from bitmesh_proxy.web.route import Route
from bitmesh_proxy.web.serve_call import caller_of, query_of

NANO_USD_PER_CREDIT: Final = 100_000
_WORDS: Final = {"true": True, "1": True, "false": False, "0": False, "": False}


async def handle_auth_test(request: web.Request) -> web.StreamResponse:
    """The key is good, and so much is left."""
    account = await AccountStore(request.app[keys.DATABASE]).get(caller_of(request).account_id)
    if account is None:
        raise InternalError("a key without an account")
    return json_answer({"success": True, "credits": account.balance_nano_usd // NANO_USD_PER_CREDIT})


async def handle_credits(request: web.Request) -> web.StreamResponse:
    """The account's sums; with ``by_api_key=true`` also what each of its keys has used."""
    asked = query_of(request).get("by_api_key", "").lower()
    if asked not in _WORDS:
        raise InvalidRequest("Invalid 'by_api_key': expected true or false.", param="by_api_key")
    account_id = caller_of(request).account_id
    accounts = AccountStore(request.app[keys.DATABASE])
    account = await accounts.get(account_id)
    if account is None:
        raise InternalError("a key without an account")
    paid_in_nano_usd = await accounts.paid_in(account_id)
    answer: dict[str, Any] = {
        "remaining_credits": format_usd(account.balance_nano_usd, places=4),
        "credit_usage": format_usd(paid_in_nano_usd - account.balance_nano_usd, places=4),
        "total_deposits": format_usd(paid_in_nano_usd, places=4),
    }
    if _WORDS[asked]:
        answer["usage_by_api_key"] = await _by_key(request, account_id)
    return json_answer(answer)


async def _by_key(request: web.Request, account_id: str) -> list[dict[str, Any]]:
    database = request.app[keys.DATABASE]
    lines = await UsageReports(database).by(["key"], UsageFilter(account_id=account_id))
    used = {line.group[0]: line for line in lines}
    now_s = time.time()
    return [
        {
            "api_key_id": record.caller.key_id,
            "api_key_name": record.caller.key_name,
            "credit_usage": format_usd(line.charge_nano_usd if line else 0, places=4),
            "total_requests": line.requests if line else 0,
            "created_at": _iso(record.created_at_s),
            "is_active": not record.is_disabled and not record.is_expired(now_s),
        }
        for record in await KeyStore(database).list(account_id)
        for line in [used.get(record.caller.key_id)]
    ]


def _iso(moment_s: float) -> str:
    moment = datetime.datetime.fromtimestamp(moment_s, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def routes() -> list[Route]:
    """Both."""
    return [
        Route(method="POST", path="/v1/auth/test", handler=handle_auth_test, name="auth_test", surface=Surface.OPENAI),
        Route(method="GET", path="/v1/credits", handler=handle_credits, name="credits", surface=Surface.OPENAI),
    ]
