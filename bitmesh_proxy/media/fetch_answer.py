"""The answer to a fetch: what its head says, and its body, by pieces that are asked for or poured out as they come.

Nothing is collected, and what is counted is what came: compression was not offered, so that it is not undone either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Final, Literal

from bitmesh_proxy.media.fetch_budget import FetchBudget
from bitmesh_proxy.media.fetch_errors import FetchBroken, FetchNotMedia, FetchTooLarge
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.heads import AnswerHead
from bitmesh_proxy.upstream.inbox import Take

Kind = Literal["image", "video", "audio", "file"]
ALL_KINDS: Final[frozenset[Kind]] = frozenset({"image", "video", "audio", "file"})

#: "Some bytes": what object stores say when nobody told them. What it is in truth, sniffing says.
_UNDECLARED: Final = frozenset({"application/octet-stream", "binary/octet-stream", "application/binary"})
_FILE_TYPES: Final = frozenset({"application/pdf"})


class Answer:
    """The final answer to a fetch. ``status`` may be an error's; then the body is that error's.

    ``media_type`` is as declared, lower case, without parameters; None when nothing useful was declared.
    ``content_length`` is that of this body; None when it was not declared.
    """

    def __init__(self, connection: ProviderConnection, head: AnswerHead, *, budget: FetchBudget) -> None:
        self.status = head.code
        self.headers: Mapping[str, str] = head.headers
        self._is_coded = head.is_coded
        self.media_type = _declared_type(self.headers)
        self.content_length = _declared_length(self.headers)
        self._connection: ProviderConnection | None = connection
        self._budget = budget

    async def read(self) -> bytes:
        """What comes next of the body, or has come meanwhile; empty at the true end.

        Nothing is read ahead beyond a small buffer. Raises FetchTooLarge, FetchTimedOut, FetchBroken.
        """
        if self._connection is None:
            raise FetchBroken("the fetch is over")
        async with self._budget:
            piece = await self._connection.read()
        self._budget.count(len(piece))
        return piece

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises as ``read``."""
        while piece := await self.read():
            yield piece

    async def pour(self, take: Take) -> None:
        """The rest of the body, each piece given to ``take`` the moment it is read.

        What ``take`` returns, if anything, is awaited before more is read, and its time is not counted. Raises as
        ``read``, and what ``take`` raises.
        """
        if self._connection is None:
            raise FetchBroken("the fetch is over")
        budget = self._budget

        def counted(piece: bytes) -> Awaitable[None] | None:
            budget.count(len(piece))
            ours = take(piece)
            return None if ours is None else budget.held(ours)

        async with budget:
            await self._connection.pour(counted)

    def close(self) -> None:
        """Nobody wants the rest: the connection is closed at once, and whoever reads gets FetchBroken."""
        if self._connection is not None and not self._connection.is_complete:
            self._connection.close()

    def detach(self) -> ProviderConnection | None:
        """The connection, which is no longer this answer's: it may be another one's soon."""
        connection, self._connection = self._connection, None
        return connection

    def check(self, kinds: frozenset[Kind], *, max_bytes: int) -> None:
        """Is the head that of a success of one of these kinds (or of none in particular), and not too long?

        Raises FetchBroken, FetchNotMedia, FetchTooLarge.
        """
        if self._is_coded:
            raise FetchBroken("the answer is compressed, although that was not offered")
        if self.media_type is not None and not _is_of(self.media_type, kinds):
            raise FetchNotMedia("the answer is not of a kind that was asked for")
        if (self.content_length or 0) > max_bytes:
            raise FetchTooLarge("the answer is larger than it may be")


def _declared_type(headers: Mapping[str, str]) -> str | None:
    declared = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return None if not declared or declared in _UNDECLARED else declared


def _declared_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "").strip()
    return int(text) if text.isascii() and text.isdecimal() else None


def _is_of(media_type: str, kinds: frozenset[Kind]) -> bool:
    if media_type in _FILE_TYPES:
        return "file" in kinds
    return media_type.partition("/")[0] in kinds
