from __future__ import annotations

import re

from bitmesh_proxy.storage.ids import make_id


def test_prefix_and_sixteen_characters() -> None:
    assert make_id("acct_", lambda count: b"\0" * count) == "acct_" + "a" * 16
    assert re.fullmatch("job_[a-z2-7]{16}", make_id("job_"))


def test_all_bits_count() -> None:
    assert make_id("", lambda count: b"\0" * (count - 1) + b"\1") != make_id("", lambda count: b"\0" * count)
    assert len({make_id("x_") for _ in range(1000)}) == 1000
