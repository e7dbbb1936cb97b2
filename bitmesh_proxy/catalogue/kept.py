"""The catalogue as it was read last, kept in the data directory: to read it anew takes a tenth of a start, and with
thousands of models most of it.

What is kept holds for the very same bytes of files of the same names, the same providers, and the same code that reads
them; all of that is in its key. It is values only, read back into the types of the catalogue. A catalogue that does not
come back as it went in is not kept, and a digest over all of the file says whether it is as it was written. Anything
else, and any trouble with the file, means that the files are read as ever: nothing depends on it, and it may be deleted
at any time. A catalogue with faults is never kept.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from bitmesh_proxy import __version__
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.loader import load_catalogue
from bitmesh_proxy.catalogue.model import Model
from bitmesh_proxy.catalogue.row_files import files_in

log = logging.getLogger(__name__)

#: The file's name in the data directory.
KEPT_NAME = "catalogue.kept"
_DIGEST_BYTES = 32


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
    with _without_collector():
        kept = _read(path)
        if kept is not None and kept.key == key:
            return Catalogue.build(kept.models, version=kept.version)
        catalogue = load_catalogue(dirs, providers=providers)
        if key_of(dirs, providers) == key:  # nobody has edited a file meanwhile
            _keep(path, Kept(key=key, version=catalogue.version, models=catalogue.models))
    return catalogue


@contextmanager
def _without_collector() -> Iterator[None]:
    """What is made here stays: to look for garbage among it, again and again, takes as long as to make it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
        add("directory")  # not which: a copy of an installation has the same models
        for path in files_in(directory):
            add(path.name, path.read_bytes())
    return digest.digest()


def packed(kept: Kept) -> bytes:
    """The file's content. Raises TypeError or OverflowError for a value of TOML that cannot be kept."""
    raw = msgspec.msgpack.encode(kept)
    return _digest(raw) + raw


def unpacked(content: bytes) -> Kept:
    """What the content holds. Raises ValueError for any that is not as it was written."""
    raw = content[_DIGEST_BYTES:]
    if content[:_DIGEST_BYTES] != _digest(raw):
        raise ValueError("the digest is another one")
    return msgspec.msgpack.decode(raw, type=Kept)


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_DIGEST_BYTES).digest()


def _read(path: Path) -> Kept | None:
    try:
        return unpacked(path.read_bytes())
    except (OSError, ValueError):  # msgspec's errors are such
        return None


def _keep(path: Path, kept: Kept) -> None:
    """Write it, whole or not at all; readable for us only, like all in that directory."""
    try:
        content = packed(kept)
        if unpacked(content) != kept:
            raise ValueError("a value does not come back as it went in")
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)
            raise
    except (OSError, TypeError, ValueError, OverflowError) as exc:
        log.debug("the catalogue is not kept: %s", exc)
