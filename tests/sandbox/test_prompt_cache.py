"""What is cached, for how long, and how much of it."""

from __future__ import annotations

from bitmesh_proxy.sandbox.prompt_cache import PromptCache


def test_a_prompt_is_known_until_its_time_is_over_and_each_use_prolongs_it() -> None:
    cache = PromptCache(max_prompts=9)
    assert [cache.touch(b"a", now, lifetime_s=10) for now in (0.0, 9.0, 18.0, 28.0)] == [False, True, True, False]


def test_the_oldest_goes_first() -> None:
    cache = PromptCache(max_prompts=2)
    assert not any(cache.touch(digest, 0.0, lifetime_s=10) for digest in (b"a", b"b", b"c"))
    assert [cache.touch(digest, 1.0, lifetime_s=10) for digest in (b"c", b"b", b"a")] == [True, True, False]
