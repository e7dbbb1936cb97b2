"""The catalogue as it was read last, kept in the data directory: to read it anew takes a tenth of a start.

What is kept holds for the very same bytes of the very same files, providers, and code that reads them; all of that is
in its key. It is values only, read back into the types of the catalogue, and the catalogue's version, which covers
every field, must come out as it was. Anything else, and any trouble with the file, means that the files are read as
ever: nothing depends on it, and it may be deleted at any time. A catalogue with faults is never kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from bitmesh_proxy import __version__
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.loader import load_catalogue
from bitmesh_proxy.catalogue.model import Model

log = logging.getLogger(__name__)

#: The file's name in the data directory.
KEPT_NAME = "catalogue.kept"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds."""

    key: bytes
    version: str
    models: tuple[Model, ...]


def load_kept_catalogue(dirs: Sequence[Path], *, providers: Collection[str], directory: Path) -> Catalogue:
    """``load_catalogue``, from what is kept in ``directory`` if that still holds. Raises CatalogueError as it does."""
    path = directory / KEPT_NAME
    try:
        key = key_of(dirs, providers)
    except OSError:  # whatever it is, the loader says it better
        return load_catalogue(dirs, providers=providers)
    kept = _read(path)
    if kept is not None and kept.key == key:
        catalogue = Catalogue.build(kept.models)
        if catalogue.version == kept.version:
            return catalogue
    catalogue = load_catalogue(dirs, providers=providers)
    if key_of(dirs, providers) == key:  # nobody has edited a file meanwhile
        _keep(path, Kept(key=key, version=catalogue.version, models=catalogue.models))
    return catalogue


def key_of(dirs: Sequence[Path], providers: Collection[str], *, code: Path = Path(__file__).parent) -> bytes:
    """Of all that the catalogue is made from; ``code`` is where the modules are that make it."""
    digest = hashlib.blake2b(digest_size=32)

    def add(*parts: object) -> None:
        for part in parts:
            raw = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
            digest.update(len(raw).to_bytes(8, "big") + raw)

    add(__version__, *sorted(providers))
    for source in sorted(code.glob("*.py")):
        found = source.stat()
        add(source.name, found.st_size, found.st_mtime_ns)
    for directory in dirs:
        add("directory", directory)
        for path in sorted(directory.glob("*.toml")):
            add(path.name, path.read_bytes())
    return digest.digest()


def _read(path: Path) -> Kept | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError):
        return None


def _keep(path: Path, kept: Kept) -> None:
    """Write it, whole or not at all; readable for us only, like all in that directory."""
    try:
        raw = msgspec.msgpack.encode(kept)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)
            raise
    except (OSError, TypeError, OverflowError) as exc:  # a value of TOML that msgpack does not know
        log.debug("the catalogue is not kept: %s", exc)
