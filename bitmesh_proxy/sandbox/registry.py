"""The providers that the sandbox plays, in the order of their names. A test checks that the files agree."""

from bitmesh_proxy.sandbox import anthropic, elevenlabs, gemini, openai, runware, together

PLAYS = (anthropic.PLAY, elevenlabs.PLAY, gemini.PLAY, openai.PLAY, runware.PLAY, together.PLAY)
