"""Each case in a process of its own, for here everything has long been imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bitmesh_proxy.deferred_packages import defer


def run(script: str, *paths: Path) -> str:
    """What the script prints; everything that it writes on standard error is a failure."""
    opening = "".join(f"import sys; sys.path.insert(0, {str(path)!r})\n" for path in paths)
    ran = subprocess.run(
        [sys.executable, "-c", f"from bitmesh_proxy.deferred_packages import defer\n{opening}{script}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    return ran.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The directory of a package whose ``__init__`` says when it runs."""
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "__init__.py").write_text(
        '__version__ = "1.2.3"\nprint("init")\nfrom . import light\nfrom .light import small\nbig = small + 1\n'
    )
    (tmp_path / "heavy" / "light.py").write_text("from . import __version__ as version\nsmall = 1\n")
    (tmp_path / "heavy" / "inner").mkdir()
    (tmp_path / "heavy" / "inner" / "__init__.py").write_text('name = "inner"\n')
    return tmp_path


def test_modules_are_imported_without_the_packages_init(package: Path) -> None:
    script = """
print(defer("heavy"))
from heavy import inner
from heavy.light import small, version
import heavy.light
print(small, version, inner.name, heavy.light.small)
"""
    assert run(script, package).splitlines() == ["True", "1 1.2.3 inner 1"]


def test_a_package_inside_another_waits_too(package: Path) -> None:
    (package / "heavy" / "inner" / "__init__.py").write_text('print("inner init")\nfrom .small import name\n')
    (package / "heavy" / "inner" / "small.py").write_text('name = "inner"\n')
    script = """
print(defer("heavy"), defer("heavy.inner"))
from heavy.inner.small import name
import heavy
from heavy import inner
print(name, heavy.inner is inner)
print(heavy.inner.name)
print(heavy.big, heavy.inner.name)
"""
    assert run(script, package).splitlines() == [
        "True True",
        "inner True",
        "inner init",
        "inner",
        "init",
        "2 inner",
    ]


def test_the_first_use_of_another_name_runs_it_once(package: Path) -> None:
    script = """
import types
defer("heavy")
import heavy
from heavy import big
print(big, heavy.big, heavy.small, type(heavy) is types.ModuleType, heavy.__version__)
try:
    heavy.nothing
except AttributeError as exc:
    print(exc)
"""
    assert run(script, package).splitlines() == [
        "init",
        "2 2 1 True 1.2.3",
        "module 'heavy' has no attribute 'nothing'",
    ]


def test_a_name_that_is_nowhere_is_an_import_error(package: Path) -> None:
    script = """
defer("heavy")
try:
    from heavy import nothing
except ImportError as exc:
    print(exc.name)
"""
    assert run(script, package).splitlines() == ["init", "heavy"]


def test_an_init_that_fails_fails_at_each_use(package: Path) -> None:
    (package / "heavy" / "__init__.py").write_text('print("init")\n1 / 0\n')
    script = """
defer("heavy")
import heavy
for _ in range(2):
    try:
        heavy.big
    except ZeroDivisionError:
        print("no")
"""
    assert run(script, package).splitlines() == ["init", "no", "init", "no"]


def test_many_threads_run_it_once(package: Path) -> None:
    (package / "heavy" / "__init__.py").write_text('import time\nprint("init")\ntime.sleep(0.05)\nbig = 2\n')
    script = """
from concurrent.futures import ThreadPoolExecutor
defer("heavy")
import heavy
with ThreadPoolExecutor(8) as pool:
    print(list(pool.map(lambda _: heavy.big, range(8))))
"""
    assert run(script, package).splitlines() == ["init", "[2, 2, 2, 2, 2, 2, 2, 2]"]


def test_what_cannot_wait_is_left_alone(package: Path) -> None:
    (package / "single.py").write_text("big = 2\n")
    script = """
print(defer("nowhere"), defer("single"), defer("sys"), defer("builtins"))
import heavy
print(defer("heavy"), heavy.big)
import single
print(single.big)
"""
    assert run(script, package).splitlines() == ["False False False False", "init", "False 2", "2"]


def test_aiohttp_is_whole_when_it_is_asked_for() -> None:
    script = """
print(defer("aiohttp"))
import sys
from aiohttp import web
from aiohttp.multipart import BodyPartReader
print("aiohttp.client" in sys.modules)
import aiohttp
from aiohttp import ClientSession, ClientTimeout
print(aiohttp.ClientSession is sys.modules["aiohttp.client"].ClientSession, aiohttp.BodyPartReader is BodyPartReader)
print(sorted(set(aiohttp.__all__) - set(dir(aiohttp))), aiohttp.__version__)
"""
    import aiohttp

    assert run(script).splitlines() == ["True", "False", "True True", f"[] {aiohttp.__version__}"]


def test_limits_is_whole_when_it_is_asked_for() -> None:
    script = """
import sys
print(defer("limits"), defer("limits.storage"))
from bitmesh_proxy.limits.base import per_minute
from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage
print("limits.strategies" in sys.modules, "limits.storage.redis" in sys.modules)
from bitmesh_proxy.limits.token_bucket_strategy import TokenBucketRateLimiter
import limits
storage = limits.storage.storage_from_string("bucket+memory://")
print(TokenBucketRateLimiter(storage).hit(limits.parse("1/second"), "a"), type(storage) is BucketMemoryStorage)
"""
    assert run(script).splitlines() == ["True True", "False False", "True True"]


def test_here_it_is_too_late() -> None:
    assert not defer("asyncio")
