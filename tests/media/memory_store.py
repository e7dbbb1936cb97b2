"""The ids that were handed out, remembered without a database."""

from __future__ import annotations

from bitmesh_proxy.storage.media import MediaRecord


class MemoryMediaStore:
    """A ``MediaStore`` that forgets everything with the process."""

    def __init__(self) -> None:
        self.records: dict[str, MediaRecord] = {}

    async def remember(self, record: MediaRecord) -> bool:
        """See MediaStore."""
        return self.records.setdefault(record.media_id, record) is record

    async def get(self, media_id: str) -> MediaRecord | None:
        """See MediaStore."""
        return self.records.get(media_id)

    async def forget(self, media_id: str) -> None:
        """See MediaStore."""
        self.records.pop(media_id, None)
