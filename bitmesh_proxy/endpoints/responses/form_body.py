"""A form as the JSON body that it stands for: ``multipart/form-data`` and ``application/x-www-form-urlencoded``.

Fields of a form are text. What has to be JSON (``messages``, ``tools``) is parsed; numbers and booleans are read where
the field is one; ``input`` is parsed only where it looks like a list. Files become media of the last user's message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.endpoints.responses.media_parts import data_uri
from bitmesh_proxy.errors import InvalidRequest, UnsupportedMediaType
from bitmesh_proxy.nesting import is_deeper

# fmt: off
_JSON: Final = frozenset((
    "messages", "tools", "tool_choice", "text", "reasoning", "include", "stream_options", "metadata", "images",
))
_NUMBERS: Final = frozenset((
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "max_output_tokens", "max_tokens",
    "max_completion_tokens", "max_tool_calls", "max_items", "seconds", "seed", "steps", "fps", "speed",
))
# fmt: on
_BOOLEANS: Final = frozenset(("stream", "background", "store", "parallel_tool_calls"))
_WORDS: Final = {"true": True, "false": False, "1": True, "0": False}
_FILE_NAMES: Final = ("image", "mask", "video", "audio", "file")


class FormFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a form. ``media_type`` is what its bytes are, or None for what nobody knows."""

    name: str
    filename: str
    data: bytes
    media_type: str | None


def body_of_form(
    fields: Sequence[tuple[str, str]], files: Sequence[FormFile] = (), *, max_depth: int
) -> dict[str, Any]:
    """The body. Raises InvalidRequest for a field that is not what it has to be, or a file under an unknown name.

    ``max_depth`` is how deep the body may be.
    """
    body: dict[str, Any] = {}
    for name, text in fields:
        if name in body:
            raise InvalidRequest(f"The field '{name}' stands in the form twice.", param=name)
        body[name] = value = _value(name, text)
        if is_deeper(value, max_depth - 1):
            raise InvalidRequest(f"The field '{name}' is nested too deep: {max_depth} levels are taken.", param=name)
    parts = [_part(file) for file in files]
    if parts:
        _add(body, parts)
    return body


def _value(name: str, text: str) -> Any:
    looks_like_json = name in ("input", "response_format") and text.lstrip()[:1] in ("[", "{")
    if name in _JSON and not (name == "tool_choice" and text.lstrip()[:1] != "{"):
        looks_like_json = True
    if looks_like_json or name in _NUMBERS:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            if name in _NUMBERS:
                return text  # the field's own rule says what is wrong
            raise InvalidRequest(f"The field '{name}' must be JSON: {exc.msg}.", param=name) from exc
    if name in _BOOLEANS:
        return _WORDS.get(text.strip().lower(), text)
    return text


def _part(file: FormFile) -> JsonObject:
    name = file.name.removesuffix("[]")
    if name not in _FILE_NAMES:
        raise InvalidRequest(f"Files are sent as one of: {', '.join(_FILE_NAMES)}.", param=name[:64])
    if file.media_type is None:
        raise UnsupportedMediaType(f"The file '{name}' is none that is known here.")
    url = data_uri(file.data, file.media_type)
    kind = file.media_type.partition("/")[0]
    if name == "mask":
        return {"type": "input_image", "image_url": url, "mask": True}
    wanted = kind if name == "file" else name
    if wanted != kind:
        raise UnsupportedMediaType(f"The file '{name}' is no {name}: it is {file.media_type}.")
    if kind == "image":
        return {"type": "input_image", "image_url": url}
    if kind == "video":
        return {"type": "input_video", "video_url": url}
    return {"type": "input_file", "file_data": url, "filename": file.filename}


def _add(body: dict[str, Any], parts: Sequence[JsonObject]) -> None:
    """Put the files at the end of the last user's message, or into a message of their own."""
    name = "messages" if "messages" in body else "input"
    said = body.get(name)
    if said is None:
        said = []
    elif isinstance(said, str):
        said = [{"role": "user", "content": said}]
    if not isinstance(said, list):
        raise InvalidRequest(f"'{name}' must be a list.", param=name)
    for index in range(len(said) - 1, -1, -1):
        message = said[index]
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content") or []
            listed = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if not isinstance(listed, list):
                raise InvalidRequest("'content' must be a string or a list.", param=f"{name}[{index}].content")
            said[index] = {**message, "content": [*listed, *parts]}
            break
    else:
        said = [*said, {"role": "user", "content": list(parts)}]
    body[name] = said
