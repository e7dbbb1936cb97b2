"""What cannot be had is said, and what was not asked for is not missed."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.dialects.unsupported import refuse_logprobs, stop_sequences
from bitmesh_proxy.errors import InvalidRequest, UnsupportedParameter


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 1}, "top_logprobs"),
    ],
)
def test_probabilities_are_refused_by_name(options: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        refuse_logprobs(options)
    assert refused.value.param == param


@pytest.mark.parametrize("options", [{}, {"logprobs": False}, {"logprobs": None, "top_logprobs": 0}])
def test_nothing_asked_is_nothing_refused(options: dict[str, Any]) -> None:
    refuse_logprobs(options)


@pytest.mark.parametrize(
    ("stop", "sequences"), [(None, []), ("", [""]), ("END", ["END"]), ([], []), (["a", " "], ["a", " "])]
)
def test_stop_is_one_text_or_several(stop: Any, sequences: list[str]) -> None:
    assert stop_sequences({"stop": stop}) == sequences


@pytest.mark.parametrize("stop", [5, True, {"a": 1}, ["a", 5], [None], [["a"]]])
def test_a_stop_that_is_no_text_is_refused(stop: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        stop_sequences({"stop": stop})
    assert refused.value.param == "stop"
