"""Reading files: rows that know where they stand, and files that are no catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bitmesh_proxy.catalogue.row_files import CatalogueError, Problem, read_row_files

MODEL = '[[model]]\nid = "acme/{name}"\noperation = "chat"\n'
OFFER = '[[offer]]\nmodel = "acme/{name}"\nprovider = "alpha"\nupstream_model = "{name}"\nfree = true\n'


def write(directory: Path, **texts: str) -> None:
    for name, text in texts.items():
        (directory / f"{name}.toml").write_text(text, encoding="utf-8")


def test_rows_come_in_order_of_directories_names_and_lines(tmp_path: Path) -> None:
    first, second = tmp_path / "z", tmp_path / "a"
    for directory in (first, second):
        directory.mkdir()
    write(first, b=MODEL.format(name="3") + "\n" + MODEL.format(name="4"), a=MODEL.format(name="1"))
    write(second, a="# a comment\n\n  [[ model ]] # spaced\nid = 'acme/5'\noperation = 'chat'\n")
    (first / "notes.txt").write_text("not a catalogue")
    files = read_row_files([first, second])
    assert files.problems == []
    assert [(placed.row.id, placed.place) for placed in files.models] == [
        ("acme/1", f"{first}/a.toml:1"),
        ("acme/3", f"{first}/b.toml:1"),
        ("acme/4", f"{first}/b.toml:5"),
        ("acme/5", f"{second}/a.toml:3"),
    ]


def test_among_many_rows_each_has_its_line(tmp_path: Path) -> None:
    write(tmp_path, a="".join(MODEL.format(name=number) + OFFER.format(name=number) for number in range(300)))
    files = read_row_files([tmp_path])
    assert [placed.line for placed in files.models] == [number * 8 + 1 for number in range(300)]
    assert [placed.line for placed in files.offers] == [number * 8 + 4 for number in range(300)]


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, a="\ufeff" + MODEL.format(name="1"))
    files = read_row_files([tmp_path])
    assert (files.problems, [placed.line for placed in files.models]) == ([], [1])


def test_tables_under_a_row_belong_to_it(tmp_path: Path) -> None:
    text = OFFER.format(name="1") + '[offer.sell]\nusd_per_request = "1"\n' + OFFER.format(name="2")
    write(tmp_path, a=text)
    first, second = read_row_files([tmp_path]).offers
    assert first.row.sell is not None
    assert second.row.sell is None
    assert (first.line, second.line) == (1, 8)


@pytest.mark.parametrize(
    "text",
    [
        OFFER.format(name="1") + 'options = { note = """\n[[offer]]\n""" }\n',  # a header inside a string
        'offer = [{ model = "acme/1", provider = "alpha", upstream_model = "x", free = true }]\n',  # no header at all
    ],
)
def test_where_the_line_is_not_sure_none_is_given(tmp_path: Path, text: str) -> None:
    write(tmp_path, a=text)
    (placed,) = read_row_files([tmp_path]).offers
    assert (placed.line, placed.place) == (None, f"{tmp_path}/a.toml")


def test_a_row_that_cannot_be_read_is_a_problem_and_the_others_are_there(tmp_path: Path) -> None:
    write(tmp_path, a=MODEL.format(name="1") + "[[offer]]\nmodel = 'acme/1'\n" + OFFER.format(name="2"))
    files = read_row_files([tmp_path])
    assert [placed.row.model for placed in files.offers] == ["acme/2"]
    (problem,) = files.problems
    assert (problem.line, problem.reason) == (4, "offer acme/1: Object missing required field `provider`")
    assert files.claimed == {"acme/1", "acme/2"}


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"\xff\xfe", None, "cannot be read: 'utf-8' codec"),
        (b"[[model]]\nid = \n", 2, "cannot be read: Invalid value (at line 2, column 6)"),
        (b"[[models]]\n", None, "unknown table 'models': want [[model]] and [[offer]]"),
        (b"model = 5\n", None, "model: want [[model]] rows"),
        (b"[offer]\n", None, "offer: want [[offer]] rows"),
        (b"model = [5]\n", None, "model: Expected `object`, got `int`"),
    ],
)
def test_a_file_that_is_no_catalogue_is_named(tmp_path: Path, content: bytes, line: int | None, reason: str) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    (problem,) = read_row_files([tmp_path]).problems
    assert (problem.path, problem.line) == (tmp_path / "a.toml", line)
    assert problem.reason.startswith(reason)


def test_a_directory_that_cannot_be_read_is_named_and_not_taken_for_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert [str(problem) for problem in read_row_files([tmp_path]).problems] == [
        f"{tmp_path}: cannot be read: Permission denied"
    ]


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert [str(problem) for problem in read_row_files([tmp_path / "no"]).problems] == [
        f"{tmp_path}/no: not a directory"
    ]


def test_the_error_says_every_problem_on_a_line_of_its_own() -> None:
    error = CatalogueError(
        [Problem(path=Path("a.toml"), line=3, reason="bad"), Problem(path=Path("b.toml"), line=None, reason="worse")]
    )
    assert str(error) == "a.toml:3: bad\nb.toml: worse"
    assert len(error.problems) == 2
