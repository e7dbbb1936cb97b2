"""Is the database built as the migrations build it? Whoever changes books by hand begins by dropping a rule.

Each statement that SQLite keeps is compared with what the same migrations make of an empty database, by its words:
white space, comments, quotes around names and their case do not count. Only the schema is read, however large the file.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from bitmesh_proxy.storage.database import Snapshot
from bitmesh_proxy.storage.migrations import migrate

#: By kind and name, the statement.
_Structure: TypeAlias = dict[tuple[str, str], str]

#: SQLite's own names begin so: what it remembers of sizes (ANALYZE), and indexes of constraints, which tables say.
_STATEMENTS: Final = (
    "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
)
_WORD: Final = re.compile(
    r"""(?P<ignored>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))|(?P<text>'(?:[^']|'')*')|"(?P<name>(?:[^"]|"")*)"|\w+|.""", re.DOTALL
)
_NAMES: Final = {"trigger": "rule"}


class Deviations(msgspec.Struct, frozen=True):
    """In words. ``faults``: what is not there or has been changed, and rules of somebody else; ``foreign``: what else
    is not ours, and does no harm."""

    faults: tuple[str, ...]
    foreign: tuple[str, ...]


async def compare_structure(snapshot: Snapshot) -> Deviations:
    """How the database deviates from what it should be."""
    ours = await asyncio.to_thread(_ours)
    found = _read(await snapshot.rows(_STATEMENTS))
    faults = [f"the database lacks the {_show(*each)}" for each in ours if each not in found]
    faults += [
        f"the database's {_show(*each)} has been changed"
        for each, sql in ours.items()
        if each in found and found[each] != sql and _words_of(found[each]) != _words_of(sql)
    ]
    strangers = [each for each in found if each not in ours]
    faults += [f"the database has a {_show(*each)} that is not ours" for each in strangers if each[0] == "trigger"]
    return Deviations(tuple(faults), tuple(_show(*each) for each in strangers if each[0] != "trigger"))


@cache
def _ours() -> _Structure:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(connection, Path(":memory:"))
        return _read(connection.execute(_STATEMENTS).fetchall())
    finally:
        connection.close()


def _read(rows: list[tuple[str, str, str]]) -> _Structure:
    return {(kind, name): sql for kind, name, sql in sorted(rows)}


def _words_of(sql: str) -> tuple[str, ...]:
    words = []
    for match in _WORD.finditer(sql):
        if match["text"] is not None:
            words.append(match[0])
        elif match["ignored"] is None:
            words.append((match[0] if match["name"] is None else match["name"]).lower())
    return tuple(words)


def _show(kind: str, name: str) -> str:
    return f"{_NAMES.get(kind, kind)} {name}"
