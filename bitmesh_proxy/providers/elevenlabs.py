"""ElevenLabs. Speech and transcription.

Source: the API description that ElevenLabs publishes (2026-08-22) and its documentation, read 2026-11.
"""

from __future__ import annotations

from bitmesh_proxy.dialects import elevenlabs
from bitmesh_proxy.dialects.provider_errors import error_reader
from bitmesh_proxy.providers.base import Provider, header

PROVIDER = Provider(
    name="elevenlabs",
    title="ElevenLabs",
    roots={"default": "https://api.elevenlabs.io/v1"},
    auth=header("xi-api-key"),
    credential_env="ELEVENLABS_API_KEY",
    read_error=error_reader(),
    speech=elevenlabs.speech_dialect(),
    transcription=elevenlabs.transcription_dialect(),
)
