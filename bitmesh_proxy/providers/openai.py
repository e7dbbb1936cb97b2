"""OpenAI. Chat, pictures, clips, speech, transcription, embeddings, moderation.

Source: the API description that OpenAI publishes (2026-08-21) and its Python SDK 3.54.0, read 2026-11.
"""

from __future__ import annotations

from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects import openai_audio, openai_chat, openai_images, openai_vectors, openai_videos
from bitmesh_proxy.dialects.provider_errors import error_reader
from bitmesh_proxy.providers.base import Provider, bearer


def _takes_response_format(offer: Offer) -> bool:
    # GPT image models always answer base64, and refuse the field (API description, "response_format").
    return offer.upstream_model.startswith("dall-e")


PROVIDER = Provider(
    name="openai",
    title="OpenAI",
    roots={"default": "https://api.openai.com/v1"},
    auth=bearer,
    credential_env="OPENAI_API_KEY",
    read_error=error_reader(),
    # Reasoning models answer 400 to max_tokens; every chat model takes max_completion_tokens.
    chat=openai_chat.dialect(rename={"max_tokens": "max_completion_tokens"}),
    image=openai_images.dialect(takes_response_format=_takes_response_format),
    video=openai_videos.dialect(),
    speech=openai_audio.speech_dialect(),
    transcription=openai_audio.transcription_dialect(),
    embedding=openai_vectors.embedding_dialect(),
    moderation=openai_vectors.moderation_dialect(),
)
