"""Runware. Pictures and clips of many makers, in tasks.

Source: the task types of Runware's Python SDK 1.8.0 (schemas 20261012), read 2026-11.
"""

from __future__ import annotations

from bitmesh_proxy.dialects import runware
from bitmesh_proxy.dialects.provider_errors import error_reader
from bitmesh_proxy.providers.base import Provider, bearer

PROVIDER = Provider(
    name="runware",
    title="Runware",
    roots={"default": "https://api.runware.ai/v1"},
    auth=bearer,
    credential_env="RUNWARE_API_KEY",
    read_error=error_reader(),
    image=runware.image_dialect(),
    video=runware.video_dialect(),
    probe_path="",
)
