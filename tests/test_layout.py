"""The house keeps its shape: imports run one way, pure rooms stay pure, every module has its tests, nothing leaks.

``python -m tests.test_layout`` prints what breaks the directions and sets the exit status; pytest holds all of it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from bitmesh_proxy.providers import PROVIDERS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bitmesh_proxy"

#: The rooms and single modules of the package, from the lowest floor to the highest. Who stands on a floor may import
#: what stands on it or below; on one floor imports may not go in a circle.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {"awaitables", "counting", "defaults", "deferred_packages", "discreet", "draining", "errors", "freed_memory"}
        | {"log_outlet", "money", "nesting", "service_manager", "shared_memory", "shielded"}
    ),
    frozenset({"calls", "context", "plain_chats", "settings", "settings_sources", "logs", "metrics", "shared_metrics"}),
    frozenset({"storage", "limits", "auth", "catalogue", "billing", "dialects", "providers", "endpoints"}),
    frozenset({"upstream", "media", "jobs", "idempotency"}),
    frozenset({"pipeline", "straight", "work", "worker"}),
    frozenset({"web", "keys"}),
    frozenset({"app", "startup"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
#: Plays the providers from outside: it knows nothing of the gateway, and only what starts the gateway knows it.
SANDBOX_MAY_IMPORT = frozenset({"sandbox", "money"})
MAY_IMPORT_SANDBOX = frozenset({"sandbox", "keys", "app", "startup", "cli"})
#: Callers' formats and providers' formats meet in calls.py and nowhere else: N + M, not N × M.
APART = (frozenset({"endpoints", "dialects"}), frozenset({"endpoints", "providers"}))

#: Rooms that turn values and bytes into values and bytes. They neither do I/O nor look at a clock.
PURE_ROOMS = frozenset({"dialects", "endpoints", "providers"})
IMPURE_ROOMS = frozenset({"storage", "limits", "auth", "billing", "upstream", "media", "jobs", "idempotency"})
IMPURE_LIBRARIES = (
    frozenset(
        {"aiohttp", "aiosqlite", "http", "multiprocessing", "socket", "sqlite3", "ssl", "subprocess", "urllib.request"}
    )
    | frozenset({"asyncio", "concurrent", "threading"})
    | frozenset({"io", "logging", "os", "pathlib", "shutil", "tempfile"})
    | frozenset({"random", "secrets", "time", "uuid"})
)
SQL_LIBRARIES = frozenset({"aiosqlite", "sqlite3"})

DRAWERS = frozenset({"common", "helper", "helpers", "lib", "misc", "shared", "stuff", "util", "utilities", "utils"})

#: Modules without a test file of their own, each with its reason.
WITHOUT_OWN_TEST = {
    "calls.py": "values only; every room that makes or reads them tests what it puts there",
    "context.py": "values only",
    "endpoints/endpoint.py": "types only",
    "auth/nonces.py": "types only",
    "catalogue/model.py": "values only; what the loader fills them with is tested there",
    "__main__.py": "two lines; tests/test_packaging.py and the journeys start the program",
    "dialects/base.py": "types only",
    "keys.py": "names only",
    "media/store.py": "types only",
    "pipeline.py": "the journeys walk it from end to end; its decisions stand in upstream/failover.py and outcomes.py",
    "upstream/reply.py": "types only",
    "web/lane/entry.py": "values only; known_heads.py, lane.py and call.py fill them",
    "work.py": "the journeys ask offers for every kind of work",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import statement's target. ``for_types`` says that it stands under ``if TYPE_CHECKING``."""

    source: Path
    line: int
    target: str
    for_types: bool

    def __str__(self) -> str:
        return f"{self.source.relative_to(ROOT)}:{self.line} imports {self.target}"


def modules(directory: Path = PACKAGE) -> list[Path]:
    return sorted(directory.rglob("*.py"))


def name_of(module: Path) -> str:
    """``bitmesh_proxy/web/routes.py`` → ``bitmesh_proxy.web.routes``."""
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(name: str) -> str:
    """``bitmesh_proxy.web.routes`` → ``web``; empty for what is not ours, or the package itself."""
    parts = name.split(".")
    return parts[1] if parts[0] == "bitmesh_proxy" and len(parts) > 1 else ""


@pytest.fixture(scope="module", autouse=True)
def trees_are_felled() -> Iterator[None]:
    """The collector of garbage would look at half a million nodes whenever a later test calls it."""
    yield
    parsed.cache_clear()


@cache
def parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"), filename=str(module))


def statements(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All statements, those within others too. Expressions, which are most of a tree and hold none, are not walked."""
    for node in nodes:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from statements(getattr(node, part, ()))


@cache
def imports_of(module: Path) -> tuple[Import, ...]:
    every = list(statements(parsed(module).body))
    typing_only = {
        id(inner)
        for node in every
        if isinstance(node, ast.If) and is_for_types(node.test)
        for inner in statements(node.body)
    }
    found = []
    for node in every:
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative imports hide their direction"
            # `from bitmesh_proxy import keys` imports a module, `from bitmesh_proxy.money import ZERO` a name of one.
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for_types = id(node) in typing_only
        found += [
            Import(source=module, line=node.lineno, target=resolved(target), for_types=for_types) for target in targets
        ]
    return tuple(found)


def is_for_types(test: ast.expr) -> bool:
    """Is this what stands behind the ``if`` of imports for types alone?"""
    return isinstance(test, ast.Name | ast.Attribute) and ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def is_ours(name: str | None) -> bool:
    return name is not None and name.split(".")[0] == "bitmesh_proxy"


@cache
def resolved(target: str) -> str:
    """The module behind a dotted name, so that ``bitmesh_proxy.money.NanoUsd`` counts as ``bitmesh_proxy.money``."""
    if not is_ours(target):
        return target
    path = ROOT.joinpath(*target.split("."))
    if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
        return target
    return target.rpartition(".")[0]


def floor_of(room: str) -> int | None:
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), None)


def wrong_directions() -> Iterator[str]:
    """Every import of the package that goes up, round the sandbox, or out of a pure room; one sentence each."""
    for module in modules():
        room = room_of(name_of(module))
        for found in imports_of(module):
            if is_ours(found.target):
                yield from wrong_direction(found, room, room_of(found.target))
            elif room in PURE_ROOMS and any(is_within(found.target, library) for library in IMPURE_LIBRARIES):
                yield f"{found}: {room}/ is pure, it does no I/O and reads no clock"
            elif room != "storage" and found.target.split(".")[0] in SQL_LIBRARIES:
                yield f"{found}: storage/ is the only room with SQL"


def wrong_direction(found: Import, source: str, target: str) -> Iterator[str]:
    if not target or not source:  # the package itself holds the version, and imports nothing
        if not source:
            yield f"{found}: bitmesh_proxy/__init__.py imports nothing"
    elif source == "sandbox" or target == "sandbox":
        if (source == "sandbox" and target not in SANDBOX_MAY_IMPORT) or source not in MAY_IMPORT_SANDBOX:
            yield f"{found}: the sandbox stands apart"
    elif {source, target} in APART:
        yield f"{found}: callers' and providers' formats meet in calls.py"
    elif source in PURE_ROOMS and target in IMPURE_ROOMS:
        yield f"{found}: {source}/ is pure, {target} is not"
    else:
        up, down = floor_of(source), floor_of(target)
        if up is None or down is None:
            yield f"{found}: say in FLOORS of tests/test_layout.py where {source if up is None else target} stands"
        elif up < down:
            yield f"{found}: {source} stands below {target}"


def is_within(module: str, library: str) -> bool:
    return module == library or module.startswith(f"{library}.")


def test_imports_run_one_way() -> None:
    assert list(wrong_directions()) == []


#: What a string begins with that is a statement of SQL, or a part of one.
SQL = re.compile(r"""["'](?:SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE \w+|PRAGMA|VACUUM)\b""")


def test_sql_is_written_in_storage_alone() -> None:
    found = [
        f"{module.relative_to(ROOT)}: {match[0]}"
        for module in modules()
        if room_of(name_of(module)) != "storage"
        for match in SQL.finditer(module.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_no_imports_go_in_a_circle() -> None:
    """So any module can be the first to be imported. Packages' registries count, which Python imports on the way."""
    graph = {
        name_of(module): {
            needed
            for found in imports_of(module)
            if is_ours(found.target) and not found.for_types
            for needed in [found.target, *packages_on_the_way(name_of(module), found.target)]
        }
        for module in modules()
    }
    finished: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in finished:
            for target in sorted(graph.get(name, ())):
                walk(target, (*path, name))
            finished.add(name)

    for name in graph:
        walk(name, ())


def packages_on_the_way(source: str, target: str) -> Iterator[str]:
    """The packages that are imported before ``target`` is, but for those that ``source`` itself is in."""
    parts = target.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        if not f"{source}.".startswith(f"{package}."):
            yield package


def test_no_file_is_a_drawer() -> None:
    names = [path for path in [*PACKAGE.rglob("*"), *(ROOT / "tests").rglob("*")] if path.suffix in ("", ".py")]
    assert [str(path.relative_to(ROOT)) for path in names if path.stem.removeprefix("test_") in DRAWERS] == []


def test_init_files_are_empty_or_lists() -> None:
    """A docstring, imports, plain assignments: no code hides where nobody looks for it."""
    allowed = ast.Expr | ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign
    for module in PACKAGE.rglob("__init__.py"):
        for node in parsed(module).body:
            assert isinstance(node, allowed), f"{module}:{node.lineno}"


def test_every_module_states_its_rules() -> None:
    silent = [
        name_of(module)
        for module in modules()
        if module.name != "__init__.py" and not ast.get_docstring(parsed(module))
    ]
    assert silent == []


def test_every_module_has_its_tests() -> None:
    missing = []
    for module in modules():
        path = module.relative_to(PACKAGE)
        has_test = (ROOT / "tests" / path.parent / f"test_{path.name}").is_file()
        if module.name != "__init__.py" and not has_test and str(path) not in WITHOUT_OWN_TEST:
            missing.append(str(Path("tests", path.parent, f"test_{path.name}")))
        assert not (has_test and str(path) in WITHOUT_OWN_TEST), f"{path}: has a test now; take it off the list"
    assert missing == []
    assert [path for path in WITHOUT_OWN_TEST if not (PACKAGE / path).is_file()] == []


def named_providers() -> set[str]:
    """The modules of providers/ that hold a ``PROVIDER``; the others are what providers are made of."""
    return {
        path.stem
        for path in (PACKAGE / "providers").glob("*.py")
        if re.search(r"^PROVIDER\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_the_registry_and_the_folder_of_providers_agree() -> None:
    names = [provider.name for provider in PROVIDERS]
    assert names == sorted(names)
    assert set(names) == named_providers()


def test_the_core_never_names_a_provider() -> None:
    """``if provider == "…"`` has no place outside providers/: differences are data there, or functions in dialects/."""
    names = named_providers()
    found = []
    for module in modules():
        if room_of(name_of(module)) in ("providers", "sandbox"):
            continue
        for node in ast.walk(parsed(module)):
            operands: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                operands = [node.left, *node.comparators]
            elif isinstance(node, ast.MatchValue):
                operands = [node.value]
            for operand in operands:
                values = {inner.value for inner in ast.walk(operand) if isinstance(inner, ast.Constant)}
                if values & names:
                    found.append(f"{module.relative_to(ROOT)}:{operand.lineno}")
    assert found == []


def test_applications_and_requests_are_asked_by_typed_keys() -> None:
    found = []
    for module in modules():
        for node in ast.walk(parsed(module)):
            if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Constant):
                continue
            if isinstance(node.slice.value, str) and re.fullmatch(r"(.*\.)?(app|request)", ast.unparse(node.value)):
                found.append(f"{module.relative_to(ROOT)}:{node.lineno}")
    assert found == []


#: In no file: paths of somebody's machine, and addresses of package registries, which everybody sets for themselves.
LEAKS = re.compile(
    r"(?<![\w./-])/(?:home|root|Users|work)/[\w.]"
    r"|\b(?:pypi|pythonhosted|npmjs|yarnpkg|debian|ubuntu)\.(?:org|com|io|net)\b"
)


def shipped_files() -> Iterable[Path]:
    """The files of the repository; without git (an unpacked archive), those of its folders."""
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    folders = ("bitmesh_proxy", "config", "scripts", "systemd", "tests", ".ci")
    return [*ROOT.glob("*.*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for path in shipped_files():
        if not path.is_file() or path.is_symlink():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in LEAKS.finditer(text)]
    assert found == []


@pytest.mark.parametrize("parts", [("/home", "anna/x"), ("https://files.pythonhosted", "org/x"), ('"/root', '.cache"')])
def test_leaks_are_seen(parts: tuple[str, str]) -> None:
    """In two parts, so that this very file holds none."""
    separator = "." if parts[0].startswith("https") else "/"
    assert LEAKS.search(separator.join(parts))
    assert not LEAKS.search(" ".join(parts))


if __name__ == "__main__":
    faults = list(wrong_directions())
    print(*faults, sep="\n" if faults else "")
    print(f"{len(modules())} modules, {len(faults)} imports in a wrong direction")
    sys.exit(bool(faults))
