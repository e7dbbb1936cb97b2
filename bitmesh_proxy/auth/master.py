"""Where this installation's master secret is: by settings and environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bitmesh_proxy.auth.secrets import load_or_create_master_secret
from bitmesh_proxy.settings import Settings, resolve_data_dir

FILE_NAME = "master.secret"


def load_master_secret(settings: Settings, environ: Mapping[str, str] | None = None) -> bytes:
    """The master secret by the rule of ``auth.master_secret_file``, made on first use. Raises MasterSecretError."""
    env = os.environ if environ is None else environ
    configured = settings.auth.master_secret_file
    if configured:
        return load_or_create_master_secret(Path(configured).expanduser())
    directory = env.get("CREDENTIALS_DIRECTORY")
    return load_or_create_master_secret(
        resolve_data_dir(settings, env) / FILE_NAME, credentials_dir=Path(directory) if directory else None
    )
