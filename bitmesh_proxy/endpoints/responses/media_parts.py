"""What a model made, as parts of a message of its own. The standard calls them ``input_…`` in either direction."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from bitmesh_proxy.calls import JsonObject, MediaOutput

_AUDIO_ENDINGS: Final = {
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/opus": "opus",
    "audio/aac": "aac",
    "audio/mp4": "m4a",
    "audio/pcm": "pcm",
}
_DEFAULT_TYPES: Final = {"image": "image/png", "video": "video/mp4", "audio": "audio/mpeg"}


def output_part(url: str, kind: str, media_type: str | None) -> JsonObject:
    """The part for a result behind a link or in a data URI."""
    if kind == "image":
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    if kind == "video":
        return {"type": "input_video", "video_url": url}
    plain = (media_type or _DEFAULT_TYPES["audio"]).partition(";")[0].strip().lower()
    return {
        "type": "input_file",
        "filename": f"speech.{_AUDIO_ENDINGS.get(plain, 'bin')}",
        "file_url": url,
        "media_type": plain,
    }


def caption(part: JsonObject, kind: str) -> str:
    """The words that stand beside a result, for callers that show nothing but text: Markdown where there is a link."""
    url: str = part.get("image_url") or part.get("video_url") or part["file_url"]
    if url[:5].lower() == "data:":
        return f"[{kind}]"
    return f"![image]({url})" if kind == "image" else f"[{kind}]({url})"


def output_link(output: MediaOutput) -> str | None:
    """A link that a caller may see; None for one that only our key opens."""
    if output.data is not None:
        return data_uri(output.data, output.media_type or _DEFAULT_TYPES[output.kind])
    return None if output.needs_credential else output.url


def data_uri(data: bytes, media_type: str) -> str:
    """Bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def logprob(raw: Mapping[str, Any]) -> JsonObject:
    """A token's probability: providers may leave out what the standard requires, or say it in types of their own."""
    others = raw.get("top_logprobs")
    listed = others if isinstance(others, list) else ()
    return _token(raw) | {"top_logprobs": [_token(each) for each in listed if isinstance(each, Mapping)]}


def _token(raw: Mapping[str, Any]) -> dict[str, Any]:
    token = raw.get("token")
    token = token if isinstance(token, str) else ""
    known, number = raw.get("bytes"), raw.get("logprob")
    is_known = isinstance(known, list) and all(type(each) is int for each in known)
    return {
        "token": token,
        "logprob": number if type(number) in (int, float) else 0.0,
        "bytes": known if is_known else list(token.encode("utf-8", "replace")),
    }
