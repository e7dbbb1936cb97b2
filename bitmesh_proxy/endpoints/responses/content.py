"""Parts of messages as callers write them, in either vocabulary, and their one form in the middle.

A part is an Open Responses part: ``input_text``, ``input_image``, ``input_video``, ``input_file``, ``output_text`` or
``refusal``. Sound is an ``input_file`` with ``media_type`` ``audio/…``, because the specification has no part for it.
The unified document's ``text``, ``image_url``, ``video_url``, ``audio_url`` and OpenAI's ``input_audio`` and ``file``
are read as the same. What is not understood is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.endpoints.responses.fields import MAX_TEXT_CHARACTERS, Fields

MAX_IMAGE_URL_CHARACTERS: Final = 20_971_520
MAX_FILE_DATA_CHARACTERS: Final = 33_554_432
MAX_PARTS: Final = 2_000

_DETAILS: Final = ("auto", "low", "high")
_AUDIO_ENDINGS: Final = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "m4a": "audio/mp4",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm16": "audio/pcm",
    "pcm": "audio/pcm",
}


def text_part(text: str, *, is_output: bool = False) -> JsonObject:
    """A text, as a caller (or system) says it or (``is_output``) as the model did."""
    if is_output:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def read_content(message: Fields, *, role: str) -> list[JsonObject]:
    """The parts of a message's ``content``: a string is one text. Raises InvalidRequest."""
    content = message.values.get("content")
    is_output = role == "assistant"
    if content is None:
        raise message.missing("content")
    if isinstance(content, str):
        text = message.required_string("content")
        return [text_part(text, is_output=is_output)]
    if not isinstance(content, list):
        message.fail("content", f"'{message.param('content')}' must be a string or a list of parts.")
    parts = message.objects("content", max_items=MAX_PARTS) or []
    return [read_part(part, role=role) for part in parts]


def read_part(part: Fields, *, role: str) -> JsonObject:
    """One part. Raises InvalidRequest for a type that this role may not say."""
    name = part.required_string("type", max_characters=64)
    if name in ("text", "input_text", "output_text", "summary_text", "reasoning_text"):
        text = part.required_string("text", max_characters=MAX_TEXT_CHARACTERS)
        return text_part(text, is_output=role == "assistant")
    if name == "refusal" and role == "assistant":
        return {"type": "refusal", "refusal": part.required_string("refusal")}
    reader = _MEDIA_PARTS.get(name)
    if reader is None or role in ("system", "developer"):
        part.fail("type", f"A message of the role '{role}' cannot have a part of the type '{name[:64]}'.")
    return reader(part)


def is_audio(part: JsonObject) -> bool:
    """Is this file a sound?"""
    return part["type"] == "input_file" and str(part.get("media_type", "")).startswith("audio/")


def is_media(part: JsonObject) -> bool:
    """Is this anything but words?"""
    return part["type"] in ("input_image", "input_video", "input_file")


def _read_image(part: Fields) -> JsonObject:
    if part.has("file_id"):
        _no_file_ids(part)
    url = _link(part, "image_url", max_characters=MAX_IMAGE_URL_CHARACTERS)
    holder = part.values.get("image_url")
    details = Fields(holder, part.param("image_url")) if isinstance(holder, Mapping) else part
    image: dict[str, Any] = {
        "type": "input_image",
        "image_url": url,
        "detail": details.choice("detail", _DETAILS) or "auto",
    }
    if part.boolean("mask"):
        image["mask"] = True
    return image


def _read_video(part: Fields) -> JsonObject:
    return {"type": "input_video", "video_url": _link(part, "video_url", max_characters=MAX_FILE_DATA_CHARACTERS)}


def _read_audio_url(part: Fields) -> JsonObject:
    url = _link(part, "audio_url", max_characters=MAX_FILE_DATA_CHARACTERS)
    return {"type": "input_file", "file_url": url, "media_type": audio_type_of(url) or "audio/mpeg"}


def _read_input_audio(part: Fields) -> JsonObject:
    audio = part.object("input_audio")
    if audio is None:
        raise part.missing("input_audio")
    data = audio.required_string("data", min_characters=1, max_characters=MAX_FILE_DATA_CHARACTERS)
    form = audio.choice("format", tuple(_AUDIO_ENDINGS)) or "wav"
    url = data if data.startswith("data:") else f"data:{_AUDIO_ENDINGS[form]};base64,{data}"
    return {"type": "input_file", "file_url": url, "media_type": _AUDIO_ENDINGS[form]}


def _read_file(part: Fields) -> JsonObject:
    inner = part.object("file") or part
    if inner.has("file_id"):
        _no_file_ids(inner)
    filename = inner.string("filename", max_characters=255)
    data = inner.string("file_data", max_characters=MAX_FILE_DATA_CHARACTERS)
    if data is None:
        url = _link(inner, "file_url", max_characters=MAX_FILE_DATA_CHARACTERS)
    elif inner.has("file_url"):
        inner.fail("file_url", "A file is given by 'file_data' or by 'file_url', not by both.")
    else:
        url = data if data.startswith("data:") else f"data:application/octet-stream;base64,{data}"
    file: dict[str, Any] = {"type": "input_file", "file_url": url}
    if filename is not None:
        file["filename"] = filename
    if media_type := audio_type_of(url) or audio_type_of(filename or ""):
        file["media_type"] = media_type
    return file


def _no_file_ids(part: Fields) -> NoReturn:
    part.fail("file_id", "There are no uploaded files here: send a URL, a data URI or the file itself.")


def _link(part: Fields, name: str, *, max_characters: int) -> str:
    """A link or data URI, bare or as ``{"url": …}``."""
    holder = part.values.get(name)
    if isinstance(holder, Mapping):
        part, name = Fields(holder, part.param(name)), "url"
    url = part.required_string(name, max_characters=max_characters)
    if not url[:8].lower().startswith(("https://", "http://", "data:")):
        part.fail(name, f"'{part.param(name)}' must be an http(s) URL or a data URI.")
    if url[:5].lower() == "data:" and "," not in url[:512]:
        part.fail(name, f"'{part.param(name)}' is not a data URI.")
    return url


def audio_type_of(name: str) -> str | None:
    """The media type of a sound by its data URI, or by the ending of its name; None for what is no sound."""
    if name[:11].lower() == "data:audio/":
        return name[5:].partition(",")[0].partition(";")[0].lower()
    if name[:5].lower() == "data:":
        return None
    return _AUDIO_ENDINGS.get(name.partition("?")[0].rpartition(".")[2].lower())


_MEDIA_PARTS: Final[Mapping[str, Callable[[Fields], JsonObject]]] = {
    "input_image": _read_image,
    "image_url": _read_image,
    "input_video": _read_video,
    "video_url": _read_video,
    "audio_url": _read_audio_url,
    "input_audio": _read_input_audio,
    "input_file": _read_file,
    "file": _read_file,
}
