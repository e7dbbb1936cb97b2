"""What cannot be had is said, and what was not asked for is not missed."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.dialects.unsupported import refuse_logprobs
from bitmesh_proxy.errors import UnsupportedParameter


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
