from __future__ import annotations

import threading

from bitmesh_proxy.upstream.off_loop import THREAD_PARSE_BYTES, in_thread_if_large


async def test_large_answers_are_looked_at_off_the_loop() -> None:
    def where(data: bytes) -> threading.Thread:
        return threading.current_thread()

    assert await in_thread_if_large(where, b"x" * THREAD_PARSE_BYTES) is threading.main_thread()
    assert await in_thread_if_large(where, b"x" * (THREAD_PARSE_BYTES + 1)) is not threading.main_thread()
