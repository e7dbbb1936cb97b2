"""Text in tokens that join to the text again."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.sandbox.words import compose, compose_tokens, count_tokens, quote, tokenize


@given(st.text())
def test_tokens_join_to_the_text(text: str) -> None:
    assert "".join(tokenize(text)) == text


def test_a_token_is_a_word_with_its_space_or_a_piece_of_a_long_one() -> None:
    assert tokenize("A red fox, internationally") == ["A", " red", " fox", ",", " internat", "ionally"]
    assert count_tokens("") == 0


def test_an_answer_quotes_the_prompt_and_says_what_it_is() -> None:
    text = compose("hello\n there", player="OpenAI", rng=random.Random(1))
    assert text.startswith("You said “hello there”. This is the sandbox playing OpenAI; no model was asked. ")
    assert text == compose("hello\n there", player="OpenAI", rng=random.Random(1))
    assert text != compose("hello\n there", player="OpenAI", rng=random.Random(2))


def test_a_long_prompt_is_quoted_in_part() -> None:
    assert len(quote("word " * 1000)) < 200
    assert quote("word " * 1000).endswith("…”")


def test_as_many_tokens_as_asked() -> None:
    for count in (0, 1, 30, 1000):
        assert len(compose_tokens("hello", count, player="OpenAI", rng=random.Random(1))) == count
