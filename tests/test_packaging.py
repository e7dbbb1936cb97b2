"""What is installed is what is in the clone: the wheel's contents, its start outside the clone, and the locks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import urllib.request
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bitmesh_proxy

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "scripts" / "locks"

pytestmark = pytest.mark.timeout(60)  # what the tests share is built within the first of them


def build(kind: str, tree: Path, directory: Path) -> Path:
    """Run the build backend as pip would, in the tree and without the network."""
    code = f"import sys, setuptools.build_meta as b; print('built', b.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-I", "-c", code, directory], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what packaging looks at: building leaves files behind, which are not to be in the clone."""
    tree = tmp_path_factory.mktemp("packaging") / "tree"
    tree.mkdir()
    for name in ("bitmesh_proxy", "config"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, tree)
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    return build("wheel", tree, tree.parent)


@pytest.mark.slow
def test_the_wheel_carries_the_package_and_its_defaults_and_nothing_else(wheel: Path) -> None:
    package = ROOT / "bitmesh_proxy"
    wanted = {
        str(path.relative_to(ROOT)): path
        for path in package.rglob("*")
        if path.is_file() and not {"__pycache__", "default_files"} & set(path.relative_to(package).parts)
    }
    for path in [*(ROOT / "config").glob("*.toml"), *(ROOT / "config" / "models").glob("*.toml")]:
        wanted[f"bitmesh_proxy/default_files/{path.relative_to(ROOT / 'config')}"] = path
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert found == set(wanted)
        for name, source in wanted.items():
            assert archive.read(name) == source.read_bytes(), name


@pytest.mark.slow
def test_the_wheel_says_what_pyproject_says(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with zipfile.ZipFile(wheel) as archive:
        information = {
            name.rpartition("/")[2]: archive.read(name) for name in archive.namelist() if ".dist-info/" in name
        }
    metadata = message_from_string(information["METADATA"].decode())
    assert (metadata["Name"], metadata["Version"]) == ("bitmesh-proxy", bitmesh_proxy.__version__)
    assert metadata["License-Expression"] == "MIT"
    assert information["LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert b"bitmesh-proxy = bitmesh_proxy.__main__:main" in information["entry_points.txt"]
    plain = {Requirement(text) for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text}
    assert plain == {Requirement(text) for text in project["dependencies"]}


@pytest.mark.slow
def test_the_source_archive_makes_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tree, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    again = build("wheel", unpacked, tmp_path)
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it, far from the clone. Its dependencies are those of the tests."""
    venv = tmp_path_factory.mktemp("elsewhere") / "venv"
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-I", "-m", "pip", "--python", str(python), "install", "-qq", "--no-index", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True, stdin=subprocess.DEVNULL)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    # A directory named in a .pth file gets none of its own .pth files read, so the clone's editable install stays out.
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site) / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")
    return venv


@pytest.mark.slow
def test_the_installed_program_finds_its_files_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    version = subprocess.run(
        [installed / "bin" / "bitmesh-proxy", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert version.returncode == 0, version.stderr
    assert bitmesh_proxy.__version__ in version.stdout

    code = "from bitmesh_proxy.defaults import defaults_dir; print(*defaults_dir().rglob('*.toml'), sep='\\n')"
    done = subprocess.run(
        [installed / "bin" / "python", "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = [Path(line) for line in done.stdout.splitlines()]
    assert all(path.is_relative_to(installed) for path in found)
    assert {path.name for path in found} == {path.name for path in (ROOT / "config").rglob("*.toml")}


@pytest.mark.slow
@pytest.mark.journey
def test_the_installed_program_serves_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "bin" / "bitmesh-proxy"), "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert address is not None, said + process.stdout.read()
            with urllib.request.urlopen(f"{address[0]}/ready", timeout=5) as answer:
                assert json.load(answer)["status"] == "ready"
        finally:
            process.terminate()
            process.communicate()


def pinned(lock: str) -> dict[str, set[str]]:
    """Package → its pinned versions (more than one where systems differ)."""
    versions: dict[str, set[str]] = {}
    for match in re.finditer(
        r"^([\w.-]+)==([^\s;\\]+)", (LOCKS / f"{lock}.txt").read_text(encoding="utf-8"), re.MULTILINE
    ):
        versions.setdefault(canonicalize_name(match[1]), set()).add(match[2])
    return versions


@pytest.mark.parametrize("lock", ["runtime", "test"])
def test_every_pin_has_hashes_and_no_lock_names_a_place(lock: str) -> None:
    text = (LOCKS / f"{lock}.txt").read_text(encoding="utf-8")
    entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text


def test_the_locks_hold_what_pyproject_asks_for() -> None:
    file = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = file["project"]
    runtime = [*project["dependencies"], *file["dependency-groups"]["build"], *file["build-system"]["requires"]]
    asked = {"runtime": runtime, "test": [*runtime, *project["optional-dependencies"]["test"]]}
    for lock, requirements in asked.items():
        versions = pinned(lock)
        for requirement in map(Requirement, requirements):
            found = versions.get(canonicalize_name(requirement.name), set())
            assert found, f"{lock}: {requirement} is missing; run scripts/lock"
            assert all(map(requirement.specifier.contains, found)), f"{lock}: {requirement}; run scripts/lock"


def test_tests_run_with_the_very_versions_that_are_shipped() -> None:
    test = pinned("test")
    assert {name: test.get(name) for name in pinned("runtime")} == pinned("runtime")
