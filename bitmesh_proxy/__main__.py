"""``python -m bitmesh_proxy`` and the console script."""

from __future__ import annotations

from bitmesh_proxy.cli.main import main

if __name__ == "__main__":
    main()
