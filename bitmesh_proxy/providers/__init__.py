"""Every provider that is known by name, in alphabetical order. Further servers come from the configuration."""

from bitmesh_proxy.providers import openai, together

PROVIDERS = (openai.PROVIDER, together.PROVIDER)
