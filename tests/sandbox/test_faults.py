"""The language of directives, and the book of pending faults."""

from __future__ import annotations

import pytest

from bitmesh_proxy.sandbox import faults as faults_module
from bitmesh_proxy.sandbox.faults import (
    MAX_COUNTED_TEXTS,
    MAX_PENDING_FAULTS,
    NOTHING,
    PARSERS,
    Directives,
    Fault,
    Faults,
    StallAfter,
    UnknownDirective,
    parse_directives,
    read_markers,
)


def test_a_text_without_a_marker_says_nothing() -> None:
    assert read_markers("a red fox [[not one]]") == (NOTHING, "a red fox [[not one]]")


def test_a_marker_is_read_and_cut_out() -> None:
    directives, text = read_markers("a red fox [[sandbox: status=429 retry_after=2.5]]")
    assert directives == Directives(status=429, retry_after=2.5)
    assert text == "a red fox"


def test_markers_add_up_and_the_later_wins() -> None:
    directives, text = read_markers("[[sandbox: drip tokens=3]]x[[sandbox:\n tokens=5 stall_after=2:0.5]]")
    assert directives == Directives(drip=True, tokens=5, stall_after=StallAfter(pieces=2, seconds_s=0.5))
    assert text == "x"


def test_every_directive_has_a_parser_and_a_line_in_the_docstring() -> None:
    assert faults_module.__doc__ is not None
    assert set(PARSERS) == set(Directives.__dataclass_fields__)
    for name in PARSERS:
        assert f"``{name}" in faults_module.__doc__, name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stutus=429", "unknown sandbox directive 'stutus'"),
        ("status=200", "from 400 to 599"),
        ("status=often", "invalid literal"),
        ("status", "invalid literal"),
        ("drip=yes", "takes no value"),
        ("stall=-1", "must be from 0"),
        ("stall=nan", "must be from 0"),
        ("stall_after=5", "could not convert"),
        ("code=a/b", "must be a word"),
        ("huge=99999999999999", "from 1 to"),
    ],
)
def test_what_is_not_understood_is_named(text: str, told: str) -> None:
    with pytest.raises(UnknownDirective, match=told):
        parse_directives(text)


def test_an_error_in_the_stream_comes_after_three_pieces_unless_said() -> None:
    assert parse_directives("error_in_stream").error_in_stream == 3
    assert parse_directives("error_in_stream=0").error_in_stream == 0


def test_stronger_directives_win_and_the_weaker_fill_in() -> None:
    assert Directives(status=500).over(Directives(status=429, drip=True)) == Directives(status=500, drip=True)


def test_only_binds_a_marker_to_a_provider() -> None:
    faults, marked = Faults(), Directives(status=500, only="together")
    assert faults.applicable(marked, provider="together", text="x") == marked
    assert faults.applicable(marked, provider="openai", text="x") == NOTHING


def test_times_counts_each_text_at_each_provider() -> None:
    faults, marked = Faults(), Directives(status=500, times=2)
    answers = [faults.applicable(marked, provider="openai", text="x").status for _ in range(3)]
    assert answers == [500, 500, None]
    assert faults.applicable(marked, provider="openai", text="y").status == 500
    assert faults.applicable(marked, provider="together", text="x").status == 500


def test_the_oldest_counted_text_is_forgotten() -> None:
    faults, marked = Faults(), Directives(status=500, times=1)
    for number in range(MAX_COUNTED_TEXTS + 1):
        faults.applicable(marked, provider="openai", text=str(number))
    assert faults.applicable(marked, provider="openai", text="0").status == 500
    assert faults.applicable(marked, provider="openai", text=str(MAX_COUNTED_TEXTS)).status is None


def test_pending_faults_strike_in_order_and_are_used_up() -> None:
    faults = Faults()
    faults.add(Fault(directives=Directives(status=500), times=2, path="/openai/*"))
    faults.add(Fault(directives=Directives(status=503), method="POST"))
    assert faults.take("GET", "/together/v1/models") == NOTHING
    assert [faults.take("POST", "/openai/v1/x").status for _ in range(4)] == [500, 500, 503, None]
    assert faults.pending == ()


def test_pending_faults_are_bounded_and_can_be_dropped() -> None:
    faults = Faults()
    for _ in range(MAX_PENDING_FAULTS):
        faults.add(Fault(directives=Directives(drip=True)))
    with pytest.raises(ValueError, match="pending already"):
        faults.add(Fault(directives=Directives(drip=True)))
    faults.clear()
    assert faults.take("GET", "/") == NOTHING
