"""Every provider that is known by name, in alphabetical order. Further servers come from the configuration."""

from bitmesh_proxy.providers import anthropic, elevenlabs, gemini, openai, runware, together

PROVIDERS = (
    anthropic.PROVIDER,
    elevenlabs.PROVIDER,
    gemini.PROVIDER,
    openai.PROVIDER,
    runware.PROVIDER,
    together.PROVIDER,
)
