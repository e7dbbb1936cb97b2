"""Together AI. Chat, pictures, clips, speech, transcription, embeddings.

Source: the API description that Together publishes (togethercomputer/openapi, 2026-04-28), read 2026-11. Base URLs and
result links are met under ``together.ai`` and, in older documents, ``together.xyz``.
"""

from __future__ import annotations

import re
from typing import Any, Final

from bitmesh_proxy.dialects import openai_audio, openai_chat, openai_vectors, together_media
from bitmesh_proxy.dialects.provider_errors import error_reader
from bitmesh_proxy.providers.base import Provider, bearer

_CHAT_EXTRAS: Final = frozenset(
    {
        "chat_template_kwargs",
        "context_length_exceeded_behavior",
        "echo",
        "min_p",
        "reasoning",
        "repetition_penalty",
        "top_k",
    }
)
#: Fields of OpenAI's that are not in Together's description.
_CHAT_LACKS: Final = frozenset(
    {
        "functions",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "store",
        "user",
        "verbosity",
    }
)
_EFFORTS: Final = {"minimal": "low", "xhigh": "high", "max": "high"}


def adapt_chat(body: dict[str, Any]) -> dict[str, Any]:
    """What Together wants in another form than OpenAI: its published schema, field by field."""
    if isinstance(body.get("stop"), str):
        body["stop"] = [body["stop"]]
    # A number of alternatives here, a switch and a number there.
    alternatives = body.pop("top_logprobs", None)
    if isinstance(body.get("logprobs"), bool) and body.pop("logprobs"):
        body["logprobs"] = alternatives or 1
    effort = body.get("reasoning_effort")
    if effort == "none":
        del body["reasoning_effort"]
        body["reasoning"] = {"enabled": False}
    elif isinstance(effort, str):
        body["reasoning_effort"] = _EFFORTS.get(effort, effort)
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        name = choice.get("function", {}).get("name", "")
        body["tool_choice"] = _tool_call({"function": {"name": name}}, 0)
    body["messages"] = [_adapt_message(message) for message in body["messages"]]
    return body


def _adapt_message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    adapted = dict(message)
    if adapted.get("role") == "developer":
        adapted["role"] = "system"
    if adapted.get("role") != "user" and isinstance(adapted.get("content"), list):
        # Only the user's content may have parts.
        parts = [part.get("text", "") for part in adapted["content"] if isinstance(part, dict)]
        adapted["content"] = "".join(text for text in parts if isinstance(text, str))
    if isinstance(adapted.get("tool_calls"), list):
        adapted["tool_calls"] = [_tool_call(call, place) for place, call in enumerate(adapted["tool_calls"])]
    return adapted


def _tool_call(call: Any, place: int) -> Any:
    """A tool call with every member that the schema requires."""
    if not isinstance(call, dict):
        return call
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    return {
        "index": call.get("index", place),
        "id": call.get("id", ""),
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": function.get("arguments", "")},
    }


PROVIDER = Provider(
    name="together",
    title="Together AI",
    roots={"default": "https://api.together.ai/v1", "v2": "https://api.together.ai/v2"},
    auth=bearer,
    credential_env="TOGETHER_API_KEY",
    # 403 is what an input that is too long gets (docs, "Error codes").
    read_error=error_reader(refusal_codes=frozenset({"invalid_request_error"})),
    chat=openai_chat.dialect(
        rename={"max_completion_tokens": "max_tokens"},
        drop=_CHAT_LACKS,
        extra=_CHAT_EXTRAS,
        stream_options=False,  # not in the description; usage comes unasked on the last chunk
        adapt=adapt_chat,
        adapts_plain_chats=False,
    ),
    image=together_media.image_dialect(),
    video=together_media.video_dialect(),
    speech=openai_audio.speech_dialect(
        options=frozenset({"bit_rate", "language", "response_encoding", "sample_rate"}),
        takes_instructions=False,
        takes_speed=False,
        default_format="wav",
    ),
    transcription=openai_audio.transcription_dialect(),
    embedding=openai_vectors.embedding_dialect(options=frozenset()),
    short_url=re.compile(r"https://api\.together\.(?:ai|xyz)/shrt/([A-Za-z0-9]{1,64})"),
    short_path="/shrt/",
)
