"""Who has to make room, where several keep things in the same room.

Everybody may use what others leave. Only when it is full do those give way who hold the most, down to one level for all
of them: who holds less than that loses nothing, however much the others bring.
"""

from __future__ import annotations

import sqlite3
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


def oldest_to_go(
    connection: sqlite3.Connection, *, totals: str, oldest: str, room_bytes: int, most: int
) -> list[tuple[str, str]]:
    """What those have to give up who hold too much, as owner and id: their oldest, ``most`` at most; none while
    everything fits.

    ``totals`` is a query of owners and ``size_bytes``, ``oldest`` one of an owner's ids and bytes, the oldest first,
    with a limit.
    """
    (held_bytes,) = connection.execute(f"SELECT coalesce(sum(size_bytes), 0) FROM ({totals})").fetchone()  # noqa: S608
    if held_bytes <= room_bytes:  # as nearly always; the owners may be many
        return []
    going: list[tuple[str, str]] = []
    for owner, over_bytes in over_fair_share(dict(connection.execute(totals)), room_bytes).items():
        left_bytes = over_bytes
        for thing, size_bytes in connection.execute(oldest, (owner, most - len(going))):
            going.append((owner, thing))
            left_bytes -= size_bytes
            if left_bytes <= 0:
                break
    return going
