"""Where the files of ``config/`` are, in a clone and in an installed wheel alike.

``bitmesh_proxy/default_files`` is a link to ``config/`` in the clone; the wheel carries the files themselves under that
name. So there is one source, and no code asks which of the two it runs from.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def defaults_dir() -> Path:
    """The directory that holds ``models/*.toml`` and ``bitmesh-proxy.example.toml``.

    Raises FileNotFoundError when they are not there as files: the package runs from a zip archive, or the clone was
    copied without its symbolic links.
    """
    path = files("bitmesh_proxy") / "default_files"
    if not isinstance(path, Path) or not path.is_dir():
        raise FileNotFoundError(f"{path}: the package's default files are missing; install it again, links included")
    return path
