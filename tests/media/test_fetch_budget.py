"""The budget of a fetch, and the client library's errors in our words."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from bitmesh_proxy.media.fetch_budget import FetchBudget
from bitmesh_proxy.media.fetch_errors import (
    FetchBroken,
    FetchError,
    FetchRefused,
    FetchTimedOut,
    FetchTooLarge,
    FetchUnreachable,
)

_KEY = ConnectionKey("host.test", 443, True, True, None, None, None)


def budget(*, max_bytes: int = 100, total_timeout_s: float = 10.0) -> FetchBudget:
    return FetchBudget(max_bytes=max_bytes, total_timeout_s=total_timeout_s)


async def wait_for(spending: FetchBudget, duration_s: float) -> None:
    async with spending.waiting():
        await asyncio.sleep(duration_s)


async def fail_with(error: BaseException) -> None:
    async with budget().waiting():
        raise error


def test_bytes_are_counted_to_the_last() -> None:
    spending = budget(max_bytes=100)
    spending.count(60)
    spending.count(40)
    with pytest.raises(FetchTooLarge):
        spending.count(1)


async def test_waiting_adds_up_and_pausing_does_not() -> None:
    spending = budget(total_timeout_s=0.4)
    await wait_for(spending, 0.01)
    await asyncio.sleep(0.5)
    await wait_for(spending, 0.01)
    with pytest.raises(FetchTimedOut):
        await wait_for(spending, 5)
    with pytest.raises(FetchTimedOut):
        await wait_for(spending, 5)


async def test_what_is_there_already_may_be_taken_when_the_time_is_up() -> None:
    spending = budget(total_timeout_s=0.01)
    with pytest.raises(FetchTimedOut):
        await wait_for(spending, 5)
    async with spending.waiting():
        pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), FetchTimedOut),
        (aiohttp.ConnectionTimeoutError(), FetchTimedOut),
        (aiohttp.SocketTimeoutError(), FetchTimedOut),
        (aiohttp.ClientConnectorDNSError(_KEY, OSError("no such name")), FetchUnreachable),
        (aiohttp.ClientConnectorError(_KEY, OSError("refused")), FetchUnreachable),
        (aiohttp.ClientConnectorCertificateError(_KEY, ssl.SSLCertVerificationError("wrong")), FetchUnreachable),
        (aiohttp.ClientConnectorSSLError(_KEY, OSError("no TLS")), FetchUnreachable),
        (aiohttp.InvalidURL("x"), FetchUnreachable),
        (aiohttp.ServerDisconnectedError(), FetchBroken),
        (aiohttp.ClientPayloadError("half"), FetchBroken),
        (aiohttp.ClientOSError(104, "reset"), FetchBroken),
        (ConnectionResetError(), FetchBroken),
    ],
)
async def test_the_librarys_errors_are_ours(error: Exception, expected: type[FetchError]) -> None:
    with pytest.raises(expected) as caught:
        await fail_with(error)
    assert caught.value.__cause__ is error
    assert "host.test" not in str(caught.value)


async def test_our_own_errors_and_cancellation_pass_through() -> None:
    with pytest.raises(FetchRefused):
        await fail_with(FetchRefused("no"))
    with pytest.raises(asyncio.CancelledError):
        await fail_with(asyncio.CancelledError())
