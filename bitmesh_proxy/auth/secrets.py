"""Keys and the secrets behind them. The database holds none in the clear.

A bearer token is random and kept as its SHA-256 (256 random bits need no slow hash). A consumer secret must be known
in the clear to check an HMAC, so it is not kept but derived: from the master secret, the key's id and its generation.
Another generation makes another secret; another master secret makes every derived one worthless. (Secrets that come
from elsewhere are sealed: ``consumer_secrets.py``.)

The master secret comes from systemd (``$CREDENTIALS_DIRECTORY/master_secret``) or from a file made on first start.
"""

from __future__ import annotations

import base64
import codecs
import hmac
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:  # the interpreter's own, as to have OpenSSL set up takes longer than to hash a token
        if sys.version_info >= (3, 12):
            from _sha2 import sha256
        else:
            from _sha256 import sha256
    except ImportError:  # it is built without, or has it by another name
        from hashlib import sha256

RandomBytes = Callable[[int], bytes]

TOKEN_PREFIX = "bm_"  # noqa: S105 - a marker for secret scanners, no secret
CONSUMER_KEY_PREFIX = "ck_"
#: All of a consumer key that callers may sign with. (Those from elsewhere have other beginnings than ours.)
CONSUMER_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
CREDENTIAL_NAME = "master_secret"
MIN_MASTER_SECRET_BYTES = 32
#: A credential of systemd may be 1 MB; nothing that long is a secret of ours.
MAX_MASTER_SECRET_BYTES = 4096
#: Hashes a bearer token; the digest is what is stored of it.
hash_of_token: Final = sha256


class MasterSecretError(Exception):
    """The master secret is not there, too short, or not kept safely. Stops the start; the message says what to do."""


def new_token(*, random_bytes: RandomBytes = secrets.token_bytes) -> str:
    """A bearer token: ``bm_`` and 256 random bits in URL-safe base64 (43 characters)."""
    return TOKEN_PREFIX + _base64url(random_bytes(32))


def new_consumer_key(*, random_bytes: RandomBytes = secrets.token_bytes) -> str:
    """A consumer key: ``ck_`` and 24 hex characters. Public; clients take letters, digits and underscores only."""
    return CONSUMER_KEY_PREFIX + random_bytes(12).hex()


def token_digest(token: str) -> bytes:
    """What is stored of a bearer token, and looked up by: its SHA-256."""
    return hash_of_token(token.encode("utf-8", "surrogateescape")).digest()


def derive_consumer_secret(master: bytes, key_id: str, generation: int) -> str:
    """The OAuth consumer secret of a key: HMAC-SHA256 in URL-safe base64 (43 characters).

    ``generation`` goes up by one when the secret is rotated. The label keeps this use of the master secret apart from
    every other.
    """
    message = f"oauth1:{key_id}:{generation}".encode()
    return _base64url(hmac.digest(master, message, "sha256"))


def fingerprint_of(master: bytes) -> bytes:
    """What tells one master secret from another and says nothing of it."""
    return hmac.digest(master, b"fingerprint", "sha256")


def find_master_secret(path: Path, *, credentials_dir: Path | None = None) -> Path | None:
    """Where ``load_or_create_master_secret`` would read it; None where it would make one."""
    if credentials_dir is not None and (credentials_dir / CREDENTIAL_NAME).exists():
        return credentials_dir / CREDENTIAL_NAME
    return path if path.exists() else None


def load_or_create_master_secret(
    path: Path, *, credentials_dir: Path | None = None, random_bytes: RandomBytes = secrets.token_bytes
) -> bytes:
    """The master secret: from ``credentials_dir`` if systemd put one there, else from ``path``, made if it is missing.

    White space around the content does not count, so that ``openssl rand -hex 32`` will do, nor a byte order mark.
    ``credentials_dir`` is ``$CREDENTIALS_DIRECTORY``. Raises MasterSecretError.
    """
    found = find_master_secret(path, credentials_dir=credentials_dir)
    if found is not None and found != path:
        # No look at its mode: systemd grants access by an ACL, whose mask shows as group bits.
        return _read(found, is_private=True)
    if found is None:
        try:
            _create(path, random_bytes(32).hex().encode() + b"\n")
        except OSError as exc:
            raise MasterSecretError(f"{path}: the master secret cannot be made: {exc.strerror}") from exc
    return _read(path, is_private=False)


def _read(path: Path, *, is_private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(len(codecs.BOM_UTF8) + MAX_MASTER_SECRET_BYTES + 1)
    except OSError as exc:
        raise MasterSecretError(f"{path}: the master secret cannot be read: {exc.strerror}") from exc
    content = content.removeprefix(codecs.BOM_UTF8).strip()
    if not is_private and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise MasterSecretError(
            f"{path}: others than its owner may use the master secret (mode {stat.S_IMODE(mode):04o}). "
            f"If nobody has read it: chmod 600 {path}"
        )
    if not MIN_MASTER_SECRET_BYTES <= len(content) <= MAX_MASTER_SECRET_BYTES:
        raise MasterSecretError(
            f"{path}: the master secret must have {MIN_MASTER_SECRET_BYTES} to {MAX_MASTER_SECRET_BYTES} bytes, "
            f"not {len(content)}. If no key was ever made with it, remove the file and start again"
        )
    return content


def _create(path: Path, content: bytes) -> None:
    """Write the whole file or none, and never over one that another process has just made."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            return
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        os.unlink(name)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
