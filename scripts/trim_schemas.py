"""Make the sandbox's request schemas, and its tests' answer schemas, from a provider's published OpenAPI document.

    python scripts/trim_schemas.py requests PROVIDER OPENAPI.json > bitmesh_proxy/sandbox/schemas/PROVIDER.json
    python scripts/trim_schemas.py answers PROVIDER OPENAPI.json > tests/sandbox/answers/PROVIDER.json

Keeps the bodies of the operations that the sandbox plays and the component schemas they reach, without prose
and examples. ``CORRECTIONS`` are applied where a document contradicts what the provider's own documentation and SDK
send; each is written into the file with its reason. ``info.x-provenance`` of the document (repo, path, commit, date)
says where it is from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

JSON_BODY = "application/json"
FORM = "multipart/form-data"


class Correction(NamedTuple):
    """``place`` is a path into ``components.schemas``."""

    place: tuple[str, ...]
    value: Any
    reason: str


OPERATIONS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "together": {
        "chat": ("/chat/completions", JSON_BODY),
        "embedding": ("/embeddings", JSON_BODY),
        "image": ("/images/generations", JSON_BODY),
        "video": ("/videos", JSON_BODY),
        "speech": ("/audio/speech", JSON_BODY),
        "transcription": ("/audio/transcriptions", FORM),
    },
    "openai": {
        "chat": ("/chat/completions", JSON_BODY),
        "embedding": ("/embeddings", JSON_BODY),
        "moderation": ("/moderations", JSON_BODY),
        "image": ("/images/generations", JSON_BODY),
        "image_edit": ("/images/edits", JSON_BODY),
        "image_edit_form": ("/images/edits", FORM),
        "video": ("/videos", JSON_BODY),
        "video_form": ("/videos", FORM),
        "video_remix": ("/videos/{video_id}/remix", JSON_BODY),
        "video_remix_form": ("/videos/{video_id}/remix", FORM),
        "speech": ("/audio/speech", JSON_BODY),
        "transcription": ("/audio/transcriptions", FORM),
    },
}

#: Our name for an answer → the component that it is.
ANSWERS: Mapping[str, Mapping[str, str]] = {
    "together": {
        "chat": "ChatCompletionResponse",
        "chat_chunk": "ChatCompletionChunk",
        "embedding": "EmbeddingsResponse",
        "error": "ErrorData",
        "image": "ImageResponse",
        "models": "ModelInfoList",
        "speech_chunk": "AudioSpeechStreamChunk",
        "transcription": "AudioTranscriptionJsonResponse",
        "transcription_verbose": "AudioTranscriptionVerboseJsonResponse",
        "video": "VideoJob",
    },
    "openai": {
        "chat": "CreateChatCompletionResponse",
        "chat_chunk": "CreateChatCompletionStreamResponse",
        "embedding": "CreateEmbeddingResponse",
        "error": "ErrorResponse",
        "image": "ImagesResponse",
        "image_completed": "ImageGenCompletedEvent",
        "image_edit_completed": "ImageEditCompletedEvent",
        "image_partial": "ImageGenPartialImageEvent",
        "model": "Model",
        "models": "ListModelsResponse",
        "moderation": "CreateModerationResponse",
        "speech_delta": "SpeechAudioDeltaEvent",
        "speech_done": "SpeechAudioDoneEvent",
        "transcription": "CreateTranscriptionResponseJson",
        "transcription_diarized": "CreateTranscriptionResponseDiarizedJson",
        "transcription_verbose": "CreateTranscriptionResponseVerboseJson",
        "transcript_delta": "TranscriptTextDeltaEvent",
        "transcript_done": "TranscriptTextDoneEvent",
        "video": "VideoResource",
        "video_deleted": "DeletedVideoResource",
        "video_list": "VideoListResource",
    },
}

CORRECTIONS: Mapping[str, tuple[Correction, ...]] = {
    "together": (
        Correction(
            ("ToolChoice", "required"),
            ["type", "function"],
            "an assistant message's tool calls carry no index, and a named tool_choice neither index nor id",
        ),
        Correction(
            ("ToolChoice", "properties", "function", "required"), ["name"], "a named tool_choice has no arguments"
        ),
        Correction(
            ("AudioTranscriptionRequest", "properties", "file"),
            {"type": "string"},
            "upload or address: both are strings, so that no string is exactly one of them",
        ),
        Correction(
            ("VideoStatus", "enum"),
            ["queued", "in_progress", "completed", "failed", "cancelled"],
            "the documentation's states of a video job",
        ),
        Correction(
            ("VideoJob", "properties", "outputs", "properties", "cost"),
            {"type": "number"},
            "US dollars: the documentation's example is 0.28",
        ),
    ),
    "openai": (),
}

PROSE = frozenset(
    {"description", "example", "examples", "externalDocs", "summary", "discriminator", "deprecated", "title"}
)


def without_prose(value: Any, *, holds_names: bool = False) -> Any:
    """The schema without what only people read. ``holds_names``: the keys of this object are fields, not keywords."""
    if isinstance(value, dict):
        return {
            key: without_prose(item, holds_names=key == "properties" and not holds_names)
            for key, item in value.items()
            if holds_names or (key not in PROSE and not key.startswith("x-"))
        }
    if isinstance(value, list):
        return [without_prose(item) for item in value]
    return value


def collect(value: Any, schemas: Mapping[str, Any], found: dict[str, Any]) -> None:
    """Put every component schema that ``value`` refers to, directly or not, into ``found``."""
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            name = reference.removeprefix("#/components/schemas/")
            if name not in found:
                found[name] = schemas[name]
                collect(schemas[name], schemas, found)
        for item in value.values():
            collect(item, schemas, found)
    elif isinstance(value, list):
        for item in value:
            collect(item, schemas, found)


def correct(schemas: dict[str, Any], correction: Correction) -> None:
    *parents, last = correction.place
    target: Any = schemas
    for key in parents:
        target = target[key]
    target[last] = correction.value


def trim(provider: str, document: Mapping[str, Any], *, part: str) -> dict[str, Any]:
    """``part`` is ``requests`` or ``answers``."""
    schemas: dict[str, Any] = without_prose(document["components"]["schemas"], holds_names=True)
    for correction in CORRECTIONS[provider]:
        correct(schemas, correction)
    if part == "requests":
        operations = {
            name: without_prose(document["paths"][path]["post"]["requestBody"]["content"][media_type]["schema"])
            for name, (path, media_type) in OPERATIONS[provider].items()
        }
    else:
        operations = {name: {"$ref": f"#/components/schemas/{schema}"} for name, schema in ANSWERS[provider].items()}
    found: dict[str, Any] = {}
    collect(operations, schemas, found)
    source = document["info"]["x-provenance"]
    return {
        "provenance": {
            "source": f"{source['repo']} {source['path']} @ {source['commit']}",
            "version": document["info"].get("version"),
            "date": source["date"],
            "trimmed": f"the {part} below and what they refer to, without prose, by scripts/trim_schemas.py",
            "corrections": [
                {"place": "/".join(correction.place), "reason": correction.reason}
                for correction in CORRECTIONS[provider]
                if correction.place[0] in found
            ],
        },
        "operations": operations,
        "components": {"schemas": dict(sorted(found.items()))},
    }


def main(part: str, provider: str, path: str) -> None:
    if part not in ("requests", "answers"):
        sys.exit("the first argument is `requests` or `answers`")
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    json.dump(trim(provider, document, part=part), sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
