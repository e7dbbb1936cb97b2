"""What one fetch may still take, over all its hops, and the one place where the client library's errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from bitmesh_proxy.media.fetch_errors import FetchBroken, FetchTimedOut, FetchTooLarge, FetchUnreachable


class FetchBudget:
    """Bytes, and seconds spent waiting for the other side. What our own reader takes is not counted."""

    def __init__(self, *, max_bytes: int, total_timeout_s: float) -> None:
        self.max_bytes = max_bytes
        self._bytes_left = max_bytes
        self._s_left = total_timeout_s

    def count(self, size_bytes: int) -> None:
        """Take what came off the budget. Raises FetchTooLarge."""
        self._bytes_left -= size_bytes
        if self._bytes_left < 0:
            raise FetchTooLarge("the answer is larger than it may be")

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Run what waits for the other side. Raises FetchTimedOut, FetchUnreachable, FetchBroken."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        try:
            async with asyncio.timeout(max(self._s_left, 0.0)):
                yield
        except TimeoutError as exc:  # aiohttp's own timeouts are TimeoutErrors as well
            raise FetchTimedOut("the other side did not answer in time") from exc
        except (aiohttp.InvalidURL, aiohttp.ClientConnectorCertificateError) as exc:
            raise FetchUnreachable("the other side's address or certificate is not good") from exc
        except aiohttp.ClientConnectorError as exc:
            raise FetchUnreachable("the other side cannot be reached") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise FetchBroken("the answer broke off") from exc
        finally:
            self._s_left -= loop.time() - started_s
