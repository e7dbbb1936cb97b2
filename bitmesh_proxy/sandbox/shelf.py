"""Result files by id: recipes, not bytes, with the time they die. The oldest goes first when the shelf is full."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from bitmesh_proxy.sandbox.studio import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelvedFile:
    """``expires_at`` in seconds since 1970. ``huge``: serve it padded to so many bytes."""

    recipe: Recipe
    expires_at: float
    huge: int | None = None


class Shelf:
    def __init__(self, *, max_files: int) -> None:
        self._max_files = max_files
        self._files: OrderedDict[str, ShelvedFile] = OrderedDict()
        #: Is told of each file that comes.
        self.on_put: Callable[[str, ShelvedFile], None] = lambda file_id, file: None

    def __len__(self) -> int:
        return len(self._files)

    def put(self, file_id: str, file: ShelvedFile) -> None:
        self._files[file_id] = file
        while len(self._files) > self._max_files:
            self._files.popitem(last=False)
        self.on_put(file_id, file)

    def find(self, file_id: str) -> ShelvedFile | None:
        """The file, also when it is past its time: the caller decides what that means."""
        return self._files.get(file_id)
