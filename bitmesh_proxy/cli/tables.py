"""Output: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click
import orjson


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Columns as wide as what stands in them; those named in ``right`` are set to the right, as numbers are read.

    What a terminal would act on instead of showing it (names are anybody's texts) is written as its escape.
    """
    texts = [["" if value is None else shown(str(value)) for value in row] for row in rows]
    widths = [max([len(heading), *(len(row[place]) for row in texts)]) for place, heading in enumerate(headings)]
    sides = [">" if heading in right else "<" for heading in headings]
    for row in [list(headings), *texts]:
        cells = (f"{text:{side}{width}}" for text, side, width in zip(row, sides, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def shown(text: str) -> str:
    """The text with what a terminal would act on written as its escape."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def print_json(value: Any) -> None:
    """One JSON document: in UTF-8, whatever the terminal speaks."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))
