"""Google's Gemini API. Chat, pictures (Gemini image models, Imagen), clips (Veo).

Source: Google's discovery document of generativelanguage v1beta (2026-08-22) and its Python SDK, read 2026-11. The key
goes in a header: as a query parameter, which the API takes too, it would land in logs.
"""

from __future__ import annotations

from bitmesh_proxy.dialects import gemini_chat, gemini_media
from bitmesh_proxy.dialects.provider_errors import error_reader
from bitmesh_proxy.providers.base import Provider, header

PROVIDER = Provider(
    name="gemini",
    title="Google Gemini",
    roots={"default": "https://generativelanguage.googleapis.com/v1beta"},
    auth=header("x-goog-api-key"),
    credential_env="GEMINI_API_KEY",
    read_error=error_reader(),
    chat=gemini_chat.dialect(),
    image=gemini_media.image_dialect(),
    video=gemini_media.video_dialect(),
)
