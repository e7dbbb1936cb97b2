"""What this room needs of whoever remembers the ids that were handed out."""

from __future__ import annotations

from typing import Protocol

from bitmesh_proxy.storage.media import MediaRecord


class MediaStore(Protocol):
    """Remembers ids; ``storage.media.SqliteMedia`` does. All methods may raise GatewayError (a broken database)."""

    async def remember(self, record: MediaRecord) -> bool:
        """Keep ``record``. False, and nothing is changed, if its id was handed out before."""

    async def get(self, media_id: str) -> MediaRecord | None:
        """What was remembered under an id."""

    async def forget(self, media_id: str) -> None:
        """Take an id back."""
