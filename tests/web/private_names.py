"""What a module of ours leans on that is not public."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType


def private_names_of(module: ModuleType) -> set[str]:
    """All names of attributes in its source that begin with one underscore, its own ones too."""
    return {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
