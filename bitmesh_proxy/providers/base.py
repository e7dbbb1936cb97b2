"""What a provider is: data, plus the pure functions of its dialects.

A ``Provider`` does no I/O and holds no secret; the upstream room joins it with the configured address and credential
(``ProviderAccess``). A dialect is a frozen struct of functions: build the request, read the answer, read the error.
``None`` for an operation means that the provider cannot do it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bitmesh_proxy.dialects.base import (
    ChatDialect,
    EmbeddingDialect,
    ErrorReader,
    ImageDialect,
    ModerationDialect,
    SpeechDialect,
    TranscriptionDialect,
    VideoDialect,
)


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One provider. See the module's docstring.

    ``roots`` maps names to base URLs without a slash at the end; ``"default"`` is required.
    ``auth`` turns a credential into headers. ``credential_env`` names the environment variable that holds it.
    ``short_url`` matches, in full, links that may be handed out under the id in its first group (Together's
    ``/shrt/{id}``). ``short_path`` is what such a link has between its host and its id; it counts from the host that
    the default base URL has by itself, so that a configured one (with a prefix, perhaps) has its short links beside it.
    ``probe_path`` is a cheap GET for ``doctor``.
    """

    name: str
    title: str
    roots: Mapping[str, str]
    auth: Callable[[str], Mapping[str, str]]
    credential_env: str
    read_error: ErrorReader
    chat: ChatDialect | None = None
    image: ImageDialect | None = None
    video: VideoDialect | None = None
    speech: SpeechDialect | None = None
    transcription: TranscriptionDialect | None = None
    embedding: EmbeddingDialect | None = None
    moderation: ModerationDialect | None = None
    short_url: re.Pattern[str] | None = None
    short_path: str = ""
    probe_path: str = "/models"

    def dialect_for(self, operation: str) -> Any:
        """The dialect of an operation, or None. The caller knows the class from the operation."""
        return getattr(self, operation)


def bearer(credential: str) -> Mapping[str, str]:
    """``Authorization: Bearer …``, what most providers take."""
    return {"Authorization": f"Bearer {credential}"}


def header(name: str) -> Callable[[str], Mapping[str, str]]:
    """The bare credential in a header of the provider's own."""
    return lambda credential: {name: credential}
