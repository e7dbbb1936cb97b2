"""Where this installation's master secret is: by settings and environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bitmesh_proxy.auth.secrets import find_master_secret, load_or_create_master_secret
from bitmesh_proxy.settings import Settings, resolve_data_dir

FILE_NAME = "master.secret"


def load_master_secret(settings: Settings, environ: Mapping[str, str] | None = None) -> bytes:
    """The master secret by the rule of ``auth.master_secret_file``, made on first use. Raises MasterSecretError."""
    path, credentials_dir = _places(settings, environ)
    return load_or_create_master_secret(path, credentials_dir=credentials_dir)


def missing_master_secret(settings: Settings, environ: Mapping[str, str] | None = None) -> Path | None:
    """Where the master secret would be made if it were loaded now; None if it is there."""
    path, credentials_dir = _places(settings, environ)
    return None if find_master_secret(path, credentials_dir=credentials_dir) else path


def on_lost_secret(consumers: int) -> str:
    """What is to be said where so many keys have consumer secrets, and there is (or was) no master secret."""
    return (
        f"Consumer secrets of keys ({consumers}) were made with another one: put that back, or rotate those keys (or"
        " import them again with --replace, where they were imported). If systemd hands it to the service as a"
        " credential, they are right there, and none are to be made here."
    )


def on_new_secret(path: Path, consumers: int) -> str:
    """What is to be said where one was made there, although so many keys have consumer secrets."""
    return f"{path}: a new master secret was made. {on_lost_secret(consumers)}"


def on_changed_secret(consumers: int) -> str:
    """What is to be said where the service has another master secret than when so many keys were made."""
    return (
        f"This is not the master secret that the service had before: of keys ({consumers}), consumer secrets that were"
        " made with that one do not work. Put it back, or rotate those keys (or import them again with --replace, where"
        " they were imported)."
    )


def on_foreign_secret(settings: Settings, environ: Mapping[str, str] | None = None) -> str:
    """What is to be said to a command that finds another master secret than the service has, or none."""
    path, _ = _places(settings, environ)
    return (
        f"this is not the service's master secret (looked for at {path}), and secrets that are made with it would not"
        " work. Give the command the service's: with the same auth.master_secret_file, or, where systemd hands it over"
        " as a credential, by systemd-run with the same LoadCredential. If that one is lost, restart the service, which"
        " says what is lost with it"
    )


def _places(settings: Settings, environ: Mapping[str, str] | None) -> tuple[Path, Path | None]:
    """The file, and the directory in which systemd may have put another that comes before it."""
    env = os.environ if environ is None else environ
    configured = settings.auth.master_secret_file
    if configured:
        return Path(configured).expanduser(), None
    directory = env.get("CREDENTIALS_DIRECTORY")
    return resolve_data_dir(settings, env) / FILE_NAME, Path(directory) if directory else None
