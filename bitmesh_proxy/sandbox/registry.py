"""The providers that the sandbox plays, in the order of their names. A test checks that the files agree."""

from bitmesh_proxy.sandbox import anthropic, openai, together

PLAYS = (anthropic.PLAY, openai.PLAY, together.PLAY)
