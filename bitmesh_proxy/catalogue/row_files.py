"""Reading the files of the catalogue into typed rows that know where they stand, and collecting what is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from bitmesh_proxy.catalogue.rows import ModelRow, OfferRow

_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*(model|offer)[ \t]*\]\]")

Row = TypeVar("Row", ModelRow, OfferRow)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. ``line`` is that of the row's header, None when the fault is the whole file's."""

    path: Path
    line: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}" if self.line else f"{self.path}: {self.reason}"


class CatalogueError(Exception):
    """The catalogue cannot be used. ``problems`` holds every fault that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class Placed(msgspec.Struct, Generic[Row], frozen=True, kw_only=True):
    """A row and where it stands."""

    row: Row
    path: Path
    line: int | None
    problems: list[Problem]

    @property
    def place(self) -> str:
        """``file:line``, for pointing at it from elsewhere."""
        return f"{self.path}:{self.line}" if self.line else str(self.path)

    def complain(self, reason: str) -> None:
        """Note a fault of this row."""
        self.problems.append(Problem(path=self.path, line=self.line, reason=reason))


class RowFiles(msgspec.Struct, frozen=True, kw_only=True):
    """All rows of all files. ``claimed`` are the models that any offer row names, also one that could not be read."""

    models: list[Placed[ModelRow]] = msgspec.field(default_factory=list)
    offers: list[Placed[OfferRow]] = msgspec.field(default_factory=list)
    claimed: set[str] = msgspec.field(default_factory=set)
    problems: list[Problem] = msgspec.field(default_factory=list)


def files_in(directory: Path) -> list[Path]:
    """Its ``*.toml``, by name. Raises OSError where the directory cannot be read: a glob would find nothing there."""
    return sorted(path for path in directory.iterdir() if path.match("*.toml"))


def read_row_files(dirs: Sequence[Path]) -> RowFiles:
    """Read every ``*.toml`` of the directories in order, files by name. Raises nothing: faults are in ``problems``."""
    files = RowFiles()
    for directory in dirs:
        try:
            found = files_in(directory)
        except (FileNotFoundError, NotADirectoryError):
            files.problems.append(Problem(path=directory, line=None, reason="not a directory"))
            continue
        except OSError as exc:
            files.problems.append(Problem(path=directory, line=None, reason=f"cannot be read: {exc.strerror}"))
            continue
        for path in found:
            _read_file(path, files)
    return files


def _read_file(path: Path, files: RowFiles) -> None:
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark may be there
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        line = re.search(r"at line (\d+)", str(exc))
        files.problems.append(Problem(path=path, line=int(line[1]) if line else None, reason=f"cannot be read: {exc}"))
        return
    files.problems.extend(
        Problem(path=path, line=None, reason=f"unknown table {key!r}: want [[model]] and [[offer]]")
        for key in sorted(values.keys() - {"model", "offer"})
    )
    found = [(match[1], number) for number, line in enumerate(text.split("\n"), 1) if (match := _HEADER.match(line))]
    lines = {kind: [number for name, number in found if name == kind] for kind in ("model", "offer")}
    raw_offers = values.get("offer", [])
    if isinstance(raw_offers, list):
        files.claimed.update(str(raw.get("model")) for raw in raw_offers if isinstance(raw, dict))
    files.models.extend(_rows(values, "model", ModelRow, lines["model"], path=path, problems=files.problems))
    files.offers.extend(_rows(values, "offer", OfferRow, lines["offer"], path=path, problems=files.problems))


def _rows(
    values: Mapping[str, Any],
    kind: str,
    row_type: type[Row],
    lines: Sequence[int],
    *,
    path: Path,
    problems: list[Problem],
) -> Iterator[Placed[Row]]:
    raw_rows = values.get(kind, [])
    if not isinstance(raw_rows, list):
        problems.append(Problem(path=path, line=None, reason=f"{kind}: want [[{kind}]] rows"))
        return
    for index, raw in enumerate(raw_rows):
        # Headers inside a multi-line string, or rows written inline, shift the count: no line then, not a wrong one.
        line = lines[index] if len(lines) == len(raw_rows) else None
        try:
            row = msgspec.convert(raw, row_type)
        except msgspec.ValidationError as exc:
            problems.append(Problem(path=path, line=line, reason=_explain(kind, raw, exc)))
            continue
        yield Placed(row=row, path=path, line=line, problems=problems)


def _explain(kind: str, raw: object, exc: msgspec.ValidationError) -> str:
    name = (raw.get("id") or raw.get("model")) if isinstance(raw, dict) else None
    text = str(exc).replace("`$.", "`")
    if "usd_per_" in text and ("got `float`" in text or "got `int`" in text):
        text += ' (a price is a decimal string: write "0.15", with quotes)'
    return f"{kind} {name}: {text}" if name else f"{kind}: {text}"
