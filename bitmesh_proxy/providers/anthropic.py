"""Anthropic. Chat, in a protocol of its own.

Source: the API description behind Anthropic's SDKs (2026-05-06) and its Python SDK 2.12.0, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping

from bitmesh_proxy.dialects import anthropic_messages
from bitmesh_proxy.dialects.provider_errors import error_reader
from bitmesh_proxy.providers.base import Provider


def _auth(credential: str) -> Mapping[str, str]:
    # The version is required with every request, whatever the path.
    return {"x-api-key": credential, "anthropic-version": "2023-06-01"}


PROVIDER = Provider(
    name="anthropic",
    title="Anthropic",
    roots={"default": "https://api.anthropic.com/v1"},
    auth=_auth,
    credential_env="ANTHROPIC_API_KEY",
    read_error=error_reader(),
    chat=anthropic_messages.dialect(),
)
