"""What is remembered of a result that was handed out, and what this room needs of whoever remembers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["image", "video", "audio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRecord:
    """One id that was handed out.

    ``url`` is the provider's link; None for a short id (its link is built from the configured origin of ``provider``)
    and for bytes, which exist on our disk only. ``created_at_s`` is Unix time.
    """

    media_id: str
    provider: str
    account_id: str
    kind: Kind
    created_at_s: float
    url: str | None = None
    is_short: bool = False
    needs_credential: bool = False


class MediaStore(Protocol):
    """Remembers ids. Both methods may raise GatewayError (the database cannot be written or read)."""

    async def remember(self, record: MediaRecord) -> bool:
        """Keep ``record``. False, and nothing is changed, if its id was handed out before."""

    async def get(self, media_id: str) -> MediaRecord | None:
        """What was remembered under an id."""


class MemoryMediaStore:
    """A store that forgets everything with the process: for tests, and for a sandbox without a data directory."""

    def __init__(self) -> None:
        self.records: dict[str, MediaRecord] = {}

    async def remember(self, record: MediaRecord) -> bool:
        """See MediaStore."""
        return self.records.setdefault(record.media_id, record) is record

    async def get(self, media_id: str) -> MediaRecord | None:
        """See MediaStore."""
        return self.records.get(media_id)
