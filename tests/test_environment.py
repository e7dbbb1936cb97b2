"""``scripts/serve`` and what makes its environment, run for real on a small project in a temporary tree.

The project has a package of its own to depend on, its lock has the package's hash, and nothing asks the network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"

#: A build backend in the tree itself: an editable install with one program, which says how it was called.
BACKEND = """
import os, zipfile
def _wheel(directory):
    name = "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("toy.pth", os.getcwd())
        wheel.writestr("toy-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: toy\\nVersion: 1\\n")
        wheel.writestr("toy-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("toy-1.dist-info/entry_points.txt", "[console_scripts]\\nbitmesh-proxy = toy:main\\n")
        wheel.writestr("toy-1.dist-info/RECORD", "")
    return name
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return _wheel(wheel_directory)
"""
PROGRAM = """
import importlib.metadata, json, os, sys
def main():
    leaf = importlib.metadata.version("leaf")
    print(json.dumps([leaf, sys.argv[1:], os.environ.get("BITMESH_DATA__DIR")]))
"""


def make_leaf(directory: Path, version: str) -> str:
    """Write a package to depend on. Returns its line in a lock."""
    path = directory / f"leaf-{version}-py3-none-any.whl"
    information = f"leaf-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("leaf.py", "")
        wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: leaf\nVersion: {version}\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")
    return f"leaf=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "a clone" / "of it"
    (tree / "scripts" / "locks").mkdir(parents=True)
    for name in ("environment.py", "find-python", "serve", "test"):
        shutil.copy(SCRIPTS / name, tree / "scripts")
    (tree / "backend.py").write_text(BACKEND)
    (tree / "toy.py").write_text(PROGRAM)
    (tree / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "toy"\n'
    )
    for lock in ("runtime", "test"):
        (tree / "scripts" / "locks" / f"{lock}.txt").write_text(make_leaf(tmp_path, "1.0"))
    return tree


def environment(tree: Path, **more: str) -> dict[str, str]:
    """A person's shell: settings of where packages come from, which count, and others that would lead astray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "BITMESH_"))}
    astray = {"PIP_USER": "1", "PIP_TARGET": str(tree / "astray"), "PIP_REQUIRE_HASHES": "1", "PYTHONPATH": "/nowhere"}
    places = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tree.parent.parent), "PYTHON": sys.executable}
    return kept | astray | places | more


def run(tree: Path, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [str(tree / "scripts" / script), *arguments]
    return subprocess.run(command, env=environment(tree, **more), cwd=tree.parent, capture_output=True, text=True)


def make_venv(directory: Path) -> Path:
    """An environment as a person may have made it, with the pip that is here already. Returns where packages go."""
    command = [sys.executable, "-I", "-m", "venv", "--without-pip", "--system-site-packages", str(directory)]
    subprocess.run(command, check=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    pip = importlib.util.find_spec("pip")
    if pip is not None and pip.origin is not None:
        (packages / "pip.pth").write_text(f"{Path(pip.origin).parents[1]}\n")
    return packages


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_the_environment_is_made_ready_once_and_made_anew_for_another_lock(tree: Path) -> None:
    by_hand = make_venv(tree / ".venv") / "by-hand"
    by_hand.touch()
    command = [sys.executable, "-I", str(tree / "scripts" / "environment.py"), "runtime"]
    runs = [subprocess.Popen(command, env=environment(tree), stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[1] for process in runs]
    assert [process.returncode for process in runs] == [0, 0, 0]
    assert sum("Making the environment" in text for text in said) == 1
    assert not (tree / "astray").exists()
    assert by_hand.exists()

    first = run(tree, "serve", "--port", "0", "with a space")
    assert json.loads(first.stdout) == ["1.0", ["serve", "--port", "0", "with a space"], str(tree / ".data")]
    second = run(tree, "serve", "--config", "own.toml")
    assert json.loads(second.stdout) == ["1.0", ["serve", "--config", "own.toml"], None]
    assert first.stderr + second.stderr == ""

    # A package that is not the locked one is refused, until it is.
    lock = tree / "scripts" / "locks" / "runtime.txt"
    right = make_leaf(tree.parent.parent, "2.0")
    lock.write_text(right[:-65] + "0" * 64 + "\n")
    refused = run(tree, "serve")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert "Run the same command again" in refused.stderr
    assert not by_hand.exists()

    made = (tree / ".venv" / "pyvenv.cfg").stat().st_mtime_ns
    lock.write_text(right)
    third = run(tree, "serve", BITMESH_DATA__DIR="/data")
    assert json.loads(third.stdout) == ["2.0", ["serve"], "/data"]
    assert "Making the environment" in third.stderr
    assert (tree / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == made, "it goes on with what there is"


@pytest.mark.parametrize("script", ["serve", "test", "bench"])
def test_the_clone_is_found_however_a_script_is_called(tmp_path: Path, script: str) -> None:
    """The programs that it would start say with what words, where, and with which data."""
    clone = tmp_path / "a clone"
    shutil.copytree(SCRIPTS, clone / "scripts", ignore=shutil.ignore_patterns("benchmarks", "__pycache__"))
    (clone / "scripts" / "environment.py").write_text("")
    (clone / ".venv" / "bin").mkdir(parents=True)
    for name in ("bitmesh-proxy", "python"):
        program = clone / ".venv" / "bin" / name
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$(pwd -P)" "${BITMESH_DATA__DIR:-}" "$*"\n')
        program.chmod(0o755)

    elsewhere = tmp_path / "else where"
    (elsewhere / "scripts").mkdir(parents=True)  # what a CDPATH may lead to
    (elsewhere / "absolute").symlink_to(clone / "scripts" / script)
    (elsewhere / "relative").symlink_to(f"../a clone/scripts/{script}")
    (elsewhere / "of a link").symlink_to("relative")
    (elsewhere / "directory").symlink_to(clone / "scripts")
    (elsewhere / "-n").symlink_to(clone / "scripts" / script)
    calls = [
        ([str(clone / "scripts" / script)], elsewhere),
        ([f"scripts/{script}"], clone),
        ([f"./{script}"], clone / "scripts"),
        (["sh", script], clone / "scripts"),
        ([str(elsewhere / "absolute")], tmp_path),
        (["else where/relative"], tmp_path),
        (["./of a link"], elsewhere),
        ([f"directory/{script}"], elsewhere),
        (["sh", "relative"], elsewhere),
        (["sh", "--", "-n"], elsewhere),
        (["relative"], tmp_path),  # found on the PATH
    ]
    more = {"CDPATH": str(elsewhere), "PATH": f"{elsewhere}:{os.environ['PATH']}"}
    for command, cwd in calls:
        done = subprocess.run(
            [*command, "a word"], env=environment(clone, **more), cwd=cwd, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), command
        found_in, data_dir, words = done.stdout.splitlines()
        if script == "serve":
            assert (found_in, data_dir) == (str(cwd), str(clone / ".data")), command
        else:
            assert found_in == str(clone), command
        assert words.endswith(" a word"), command


#: A line of a .pth file, which Python runs as it starts.
WITHOUT_ENSUREPIP = (
    "import importlib.util as util; "
    "util.find_spec = lambda name, find=util.find_spec: None if name == 'ensurepip' else find(name)\n"
)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_python_that_cannot_make_a_pip_of_its_own_uses_the_one_it_has(tree: Path, tmp_path: Path) -> None:
    """Some systems come with the module ensurepip in a package of its own. There is no environment yet."""
    (make_venv(tmp_path / "system") / "without-ensurepip.pth").write_text(WITHOUT_ENSUREPIP)
    python = str(tmp_path / "system" / "bin" / "python")
    done = run(tree, "serve", PYTHON=python)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0] == "1.0"
    assert not list(tree.glob(".venv/lib/python*/site-packages/pip"))


def test_without_a_fitting_python_it_is_said_what_is_needed(tree: Path, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("python3", "python3.12"):  # too old, and a launcher without that version behind it
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    shell = shutil.which("sh") or ""
    done = subprocess.run(
        [shell, tree / "scripts" / "find-python"], env={"PATH": str(programs)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Python 3.11 or newer is needed" in done.stderr

    named = run(tree, "serve", PYTHON=str(programs / "python3"))
    assert (named.returncode, named.stdout) == (1, "")
    assert "is no Python 3.11 or newer" in named.stderr


def test_the_first_python_that_fits_is_taken(tree: Path, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").write_text("#!/bin/sh\nexit 1\n")
    (programs / "python3").chmod(0o755)
    (programs / "python3.12").symlink_to(sys.executable)
    shell = shutil.which("sh") or ""
    done = subprocess.run(
        [shell, tree / "scripts" / "find-python"], env={"PATH": str(programs)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(programs / "python3.12"))
