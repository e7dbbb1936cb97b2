"""Every provider that is known by name, in alphabetical order. Further servers come from the configuration."""

from bitmesh_proxy.providers import anthropic, gemini, openai, together

PROVIDERS = (anthropic.PROVIDER, gemini.PROVIDER, openai.PROVIDER, together.PROVIDER)
