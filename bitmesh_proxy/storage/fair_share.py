"""Who has to make room, where several keep things in the same room.

Everybody may use what others leave. Only when it is full do those give way who hold the most, down to one level for all
of them: who holds less than that loses nothing, however much the others bring.
"""

from __future__ import annotations

from collections.abc import Mapping


def over_fair_share(held_bytes: Mapping[str, int], room_bytes: int) -> dict[str, int]:
    """How many bytes each of those has to give up who hold too much, the most first; empty while everything fits."""
    left_bytes = room_bytes
    ascending = sorted(held_bytes.items(), key=lambda owner: owner[1])
    for place, (_, size_bytes) in enumerate(ascending):
        share_bytes = left_bytes // (len(ascending) - place)
        if size_bytes > share_bytes:
            return {owner: held - share_bytes for owner, held in reversed(ascending[place:])}
        left_bytes -= size_bytes
    return {}
