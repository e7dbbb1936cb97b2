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
    "anthropic": {
        "message": ("/v1/messages", JSON_BODY),
        "count": ("/v1/messages/count_tokens", JSON_BODY),
    },
    "elevenlabs": {
        "speech": ("/v1/text-to-speech/{voice_id}", JSON_BODY),
        "speech_stream": ("/v1/text-to-speech/{voice_id}/stream", JSON_BODY),
        "transcription": ("/v1/speech-to-text", FORM),
    },
    "gemini": {
        "generate": ("/models/{modelsId}:generateContent", JSON_BODY),
        "generate_stream": ("/models/{modelsId}:streamGenerateContent", JSON_BODY),
        "count": ("/models/{modelsId}:countTokens", JSON_BODY),
        "predict": ("/models/{modelsId}:predict", JSON_BODY),
        "predict_long_running": ("/models/{modelsId}:predictLongRunning", JSON_BODY),
    },
    "runware": {"tasks": ("/v1", JSON_BODY)},
    "together": {
        "chat": ("/chat/completions", JSON_BODY),
        "embedding": ("/embeddings", JSON_BODY),
        "image": ("/images/generations", JSON_BODY),
        "video": ("/videos", JSON_BODY),
        "speech": ("/audio/speech", JSON_BODY),
        "transcription": ("/audio/transcriptions", FORM),
        "translation": ("/audio/translations", FORM),
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
        "translation": ("/audio/translations", FORM),
    },
}

#: Our name for an answer → the component that it is.
ANSWERS: Mapping[str, Mapping[str, str]] = {
    "anthropic": {
        "count": "CountMessageTokensResponse",
        "error": "ErrorResponse",
        "message": "Message",
        "models": "ListResponse_ModelInfo_",
    },
    "elevenlabs": {
        "model": "ModelResponseModel",
        "transcription": "SpeechToTextChunkResponseModel",
        "validation_error": "HTTPValidationError",
    },
    "gemini": {
        "count": "CountTokensResponse",
        "error": "ErrorEnvelope",
        "generate": "GenerateContentResponse",
        "model": "Model",
        "models": "ListModelsResponse",
        "operation": "Operation",
        "predict": "PredictResponse",
    },
    "runware": {
        "error": "RunwareErrorItem",
        "image": "ImageInferenceResult",
        "response": "GetResponseResult",
        "video": "VideoInferenceResult",
    },
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
        "translation": "AudioTranslationJsonResponse",
        "translation_verbose": "AudioTranslationVerboseJsonResponse",
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
        "translation": "CreateTranslationResponseJson",
        "translation_verbose": "CreateTranslationResponseVerboseJson",
        "video": "VideoResource",
        "video_deleted": "DeletedVideoResource",
        "video_list": "VideoListResource",
    },
}

SDK_SHAPES = "free-form in the document: the shapes that Google's Python SDK 2.34.0 sends"
GOOGLE_PICTURE = {
    "type": "object",
    "properties": {"bytesBase64Encoded": {"type": "string"}, "mimeType": {"type": "string"}},
    "required": ["bytesBase64Encoded", "mimeType"],
}
GOOGLE_REFERENCE = {
    "type": "object",
    "properties": {"image": GOOGLE_PICTURE, "referenceType": {"enum": ["asset", "style"]}},
    "required": ["image", "referenceType"],
}
GOOGLE_PEOPLE = {"enum": ["dont_allow", "allow_adult", "allow_all"]}
GOOGLE_RATIOS = ["1:1", "3:4", "4:3", "9:16", "16:9"]
IMAGEN_PARAMETERS = {
    "sampleCount": {"type": "integer", "minimum": 1, "maximum": 4},
    "sampleImageSize": {"enum": ["1K", "2K"]},
    "aspectRatio": {"enum": GOOGLE_RATIOS},
    "personGeneration": GOOGLE_PEOPLE,
    "safetySetting": {"type": "string"},
    "includeRaiReason": {"type": "boolean"},
    "language": {"type": "string"},
    "outputOptions": {
        "type": "object",
        "properties": {"mimeType": {"type": "string"}, "compressionQuality": {"type": "integer"}},
    },
}
VEO_PARAMETERS = {
    "sampleCount": {"type": "integer", "minimum": 1, "maximum": 4},
    "durationSeconds": {"type": "integer"},
    "aspectRatio": {"enum": ["16:9", "9:16"]},
    "resolution": {"enum": ["720p", "1080p", "4k"]},
    "personGeneration": GOOGLE_PEOPLE,
    "negativePrompt": {"type": "string"},
    "enhancePrompt": {"type": "boolean"},
    "seed": {"type": "integer"},
}


def prediction(fields: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a prediction: one instance with its ``fields``, and the parameters."""
    instance = {
        "type": "object",
        "properties": {"prompt": {"type": "string", "minLength": 1}, **fields},
        "required": ["prompt"],
    }
    return {
        "instances": {"type": "array", "items": instance, "minItems": 1, "maxItems": 1},
        "parameters": {"type": "object", "properties": dict(parameters)},
    }


CORRECTIONS: Mapping[str, tuple[Correction, ...]] = {
    "anthropic": (),
    "elevenlabs": (),
    "gemini": (
        Correction(("PredictRequest", "properties"), prediction({}, IMAGEN_PARAMETERS), SDK_SHAPES),
        Correction(("PredictRequest", "required"), ["instances"], SDK_SHAPES),
        Correction(
            ("PredictLongRunningRequest", "properties"),
            prediction(
                {
                    "image": GOOGLE_PICTURE,
                    "lastFrame": GOOGLE_PICTURE,
                    "referenceImages": {"type": "array", "items": GOOGLE_REFERENCE, "maxItems": 3},
                },
                VEO_PARAMETERS,
            ),
            SDK_SHAPES,
        ),
        Correction(("PredictLongRunningRequest", "required"), ["instances"], SDK_SHAPES),
        Correction(("GenerateContentRequest", "required"), ["contents"], "the server refuses a request without"),
    ),
    "runware": (
        Correction(
            ("Task", "oneOf"),
            [{}],
            "each task is checked by itself, against the schema of its model or its kind, so that a refused task does "
            "not refuse the others",
        ),
    ),
    "together": (
        Correction(
            ("ToolChoice", "required"),
            ["type", "function"],
            "an assistant message's tool calls carry no index, and a named tool_choice neither index nor id",
        ),
        Correction(
            ("ToolChoice", "properties", "function", "required"), ["name"], "a named tool_choice has no arguments"
        ),
        *(
            Correction(
                (name, "properties", "file"),
                {"type": "string"},
                "upload or address: both are strings, so that no string is exactly one of them",
            )
            for name in ("AudioTranscriptionRequest", "AudioTranslationRequest")
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

#: Servers that refuse members which a schema does not name, on every level, although the document leaves it open.
CLOSED = frozenset({"gemini"})

CLOSING = {"place": "every object", "reason": "closed: the server refuses members that a schema does not name"}

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


def close(value: Any) -> None:
    """Let no object have members that its schema does not name."""
    if isinstance(value, dict):
        if isinstance(value.get("properties"), dict):
            value.setdefault("additionalProperties", False)
        for item in value.values():
            close(item)
    elif isinstance(value, list):
        for item in value:
            close(item)


def models_of(document: Mapping[str, Any], schemas: Mapping[str, Any], found: dict[str, Any]) -> dict[str, str]:
    """Models with a request schema of their own (Runware): model → component, which is put into ``found``."""
    models = dict(document["x-models"])
    kinds = {"ImageInferenceParams", "VideoInferenceParams", "GetResponseParams"}
    played = {
        model: name
        for model, name in models.items()
        if schemas[name]["properties"]["taskType"]["enum"][0] in ("imageInference", "videoInference")
    }
    for name in sorted(kinds | set(played.values())):
        found[name] = schemas[name]
        collect(schemas[name], schemas, found)
    return played


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
    if provider in CLOSED and part == "requests":
        close(schemas)
    found: dict[str, Any] = {}
    collect(operations, schemas, found)
    models = models_of(document, schemas, found) if "x-models" in document and part == "requests" else {}
    source = document["info"]["x-provenance"]
    return {
        "provenance": {
            "source": f"{source['repo']} {source['path']}" + (f" @ {source['commit']}" if "commit" in source else ""),
            "version": document["info"].get("version"),
            "date": source["date"],
            "trimmed": f"the {part} below and what they refer to, without prose, by scripts/trim_schemas.py",
            "corrections": [
                {"place": "/".join(correction.place), "reason": correction.reason}
                for correction in CORRECTIONS[provider]
                if correction.place[0] in found
            ]
            + ([CLOSING] if provider in CLOSED and part == "requests" else []),
        },
        "operations": operations,
        **({"models": models} if models else {}),
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
