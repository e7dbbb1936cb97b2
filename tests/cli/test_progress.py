"""A line of progress is for terminals."""

from __future__ import annotations

import io
import sys

import pytest

from bitmesh_proxy.cli.progress import ProgressLine
from tests.hand_clock import HandClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_it_is_shown_once_a_second_and_taken_away(
    stream: type[io.StringIO], shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, out = HandClock(), stream()
    monkeypatch.setattr(sys, "stderr", out)
    line = ProgressLine(clock=clock)
    line.say("too soon")
    clock.now_s += 1
    line.say("1 of 3")
    line.say("2 of 3")
    line.end()
    written = out.getvalue()
    assert ("1 of 3" in written, "2 of 3" in written, "too soon" in written) == (shown, False, False)
    assert written.endswith("\r") is shown


def test_it_is_taken_away_at_the_end_of_its_block_however_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = HandClock(), Terminal()
    monkeypatch.setattr(sys, "stderr", out)

    def work() -> None:
        with ProgressLine(clock=clock) as line:
            clock.now_s += 1
            line.say("1 of 3")
            assert out.getvalue().rstrip().endswith("1 of 3")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert out.getvalue().endswith("\r")
