"""Every provider that is known by name, in alphabetical order. Further servers come from the configuration."""

from bitmesh_proxy.providers import anthropic, openai, together

PROVIDERS = (anthropic.PROVIDER, openai.PROVIDER, together.PROVIDER)
