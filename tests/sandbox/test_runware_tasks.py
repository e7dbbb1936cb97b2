"""Where a task has its pictures."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.sandbox.plays import Refused
from bitmesh_proxy.sandbox.runware_tasks import inputs_of


@pytest.mark.parametrize(
    ("task", "found"),
    [
        ({}, []),
        ({"seedImage": "a", "maskImage": "m"}, [("seedImage", "a"), ("maskImage", "m")]),
        ({"referenceImages": ["a", "b"]}, [("referenceImages", "a"), ("referenceImages", "b")]),
        ({"inputs": {"referenceImages": ["a"]}}, [("inputs.referenceImages", "a")]),
        ({"inputs": {"frameImages": [{"image": "a", "frame": "last"}]}}, [("inputs.frameImages", "a")]),
        ({"frameImages": [{"inputImage": "a"}]}, [("frameImages", "a")]),
        ({"inputs": "none"}, []),
    ],
)
def test_pictures_are_found_wherever_they_stand(task: Any, found: Any) -> None:
    assert inputs_of(task) == found


@pytest.mark.parametrize("task", [{"seedImage": 7}, {"frameImages": [{}]}, {"maskImage": "m"}])
def test_what_is_no_picture_is_refused(task: Any) -> None:
    with pytest.raises(Refused):
        inputs_of(task)
