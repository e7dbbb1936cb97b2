"""Text as a language model of the sandbox says it: the same for the same seed, told apart at once from a real one.

A *token* here is a word with the space before it, or eight letters of a longer word, or one sign. ``"".join(tokens)``
is the text again, so that a streamed answer and a whole one are the same, and counting is exact.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

TOKEN = re.compile(r"\s?\w{1,8}|\s?[^\w\s]|\s", re.UNICODE)
QUOTED_CHARACTERS = 160
NATURAL_SENTENCES = (2, 6)

SUBJECTS = (
    "The kettle", "A careful reader", "The lighthouse", "Every second stone", "The old map", "A patient gardener",
    "The morning train", "One small lantern", "The river", "A well-kept ledger", "The tallest mast", "The quiet quay",
)  # fmt: skip
VERBS = (
    "remembers", "measures", "carries", "counts", "follows", "repairs", "describes", "outlasts", "balances", "answers",
)  # fmt: skip
OBJECTS = (
    "the first snow", "a row of blue doors", "what the tide left", "three borrowed books", "the sound of rain",
    "a letter without a stamp", "the way home", "an even number of birds", "the price of bread", "its own shadow",
)  # fmt: skip
MANNERS = (
    "before noon",
    "without hurry",
    "once again",
    "to the last drop",
    "in good order",
    "by lamplight",
    "for free",
)


def tokenize(text: str) -> list[str]:
    """All of the text, in tokens."""
    return TOKEN.findall(text)


def count_tokens(text: str) -> int:
    return len(tokenize(text))


def quote(text: str) -> str:
    """The text in one line, shortened, in quotation marks."""
    line = " ".join(text.split())
    return f"“{line if len(line) <= QUOTED_CHARACTERS else line[: QUOTED_CHARACTERS - 1] + '…'}”"


def sentences(rng: random.Random) -> Iterator[str]:
    """Sentences without end."""
    while True:
        yield (f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)} {rng.choice(MANNERS)}.")


def compose(prompt: str, *, player: str, rng: random.Random) -> str:
    """A short answer to a prompt that says what it is."""
    heard = f"You said {quote(prompt)}" if prompt else "You said nothing"
    opening = f"{heard}. This is the sandbox playing {player}; no model was asked."
    more = sentences(rng)
    return " ".join([opening, *(next(more) for _ in range(rng.randint(*NATURAL_SENTENCES)))])


def compose_tokens(prompt: str, count: int, *, player: str, rng: random.Random) -> list[str]:
    """An answer of exactly ``count`` tokens."""
    tokens = tokenize(compose(prompt, player=player, rng=rng))
    more = sentences(rng)
    while len(tokens) < count:
        tokens += tokenize(" " + next(more))
    return tokens[:count]
