"""Any server that speaks OpenAI's protocol (vLLM, Ollama, llama.cpp, LocalAI …), by configuration alone.

``make`` is what the settings call for an entry with ``kind = "openai_compatible"``. What such servers have beyond
OpenAI's protocol is passed on; what a server does not know, it ignores. Source: the documentation of the named
projects, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bitmesh_proxy.dialects import openai_audio, openai_chat, openai_images, openai_vectors, openai_videos
from bitmesh_proxy.dialects.provider_errors import error_reader
from bitmesh_proxy.providers.base import Provider, bearer

_CHAT_EXTRAS: Final = frozenset(
    {
        "chat_template_kwargs",
        "ignore_eos",
        "min_p",
        "min_tokens",
        "repetition_penalty",
        "stop_token_ids",
        "thinking",
        "top_k",
        # Local servers have no tiers and no prices, so that these may pass.
        "audio",
        "modalities",
    }
)
#: Of pictures and clips. Servers call the steps by either name.
_DIFFUSION: Final = frozenset({"steps", "num_inference_steps", "seed", "negative_prompt", "guidance_scale"})


def make(name: str, *, title: str = "", base_urls: Mapping[str, str], reads_cost: bool = False) -> Provider:
    """A provider from its configuration. ``base_urls`` needs ``default`` (``http://host:8000/v1``).

    ``reads_cost``: what a chat or an embedding cost is what the server says (``usage.cost``), if it does.
    Raises ValueError when that is missing or is no http address.
    """
    roots = {root: url.rstrip("/") for root, url in base_urls.items()}
    if not roots.get("default", "").startswith(("http://", "https://")):
        raise ValueError(f"providers.{name}.base_urls.default: want an address, http(s)://host[:port]/v1")
    return Provider(
        name=name,
        title=title or name,
        roots=MappingProxyType(roots),
        auth=bearer,
        credential_env="",
        read_error=error_reader(),
        chat=openai_chat.dialect(extra=_CHAT_EXTRAS, reads_cost=reads_cost),
        image=openai_images.dialect(
            takes_response_format=lambda _offer: True,
            takes_image_urls=False,
            gives_links=False,  # vLLM-Omni and SGLang refuse to be asked for them; all know base64
            extra=_DIFFUSION,
        ),
        # vLLM-Omni takes nothing but a form.
        video=openai_videos.dialect(takes_image_urls=False, takes_json=False, extra=_DIFFUSION | {"fps"}),
        speech=openai_audio.speech_dialect(),
        transcription=openai_audio.transcription_dialect(),
        embedding=openai_vectors.embedding_dialect(reads_cost=reads_cost),
        moderation=openai_vectors.moderation_dialect(),
    )
