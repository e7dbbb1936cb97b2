"""Make ``.venv`` from a lock with hashes, and again only when the lock has changed.

    python3 -I scripts/environment.py runtime|test

For ``scripts/serve`` and ``scripts/test``, which find the Python. Only the standard library is used, and nothing is
said when there is nothing to do. ``test`` holds all of ``runtime``, so the two share one environment. An environment
that was made here from another lock is made anew; one made by hand is kept, and the lock is installed into it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

LOCKS = ("runtime", "test")
#: pip settings that would put packages elsewhere or take others than the lock's. Where to fetch from stays the user's.
REFUSED_PIP_SETTINGS = frozenset(
    {
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_ROOT",
        "PIP_PYTHON",
        "PIP_REQUIREMENT",
        "PIP_EDITABLE",
        "PIP_NO_DEPS",
        "PIP_DRY_RUN",
    }
)
#: The same for those that a configuration file can set and only a value overrides.
OVERRIDDEN_PIP_SETTINGS = {
    "PIP_USER": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_REQUIRE_HASHES": "0",
    "PIP_CONSTRAINT": os.devnull,
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
}


class EnvironmentFailed(Exception):
    """The environment could not be made. The message is for the person at the terminal."""


def ensure(root: Path, lock: str) -> bool:
    """Make ``root/.venv`` hold what ``scripts/locks/<lock>.txt`` names, and the project itself, editable.

    Returns whether there was anything to do. Raises EnvironmentFailed. Safe to call from several processes at once.
    """
    wanted = {name: fingerprint(root, name) for name in LOCKS[: LOCKS.index(lock) + 1]}
    if _is_made(root, wanted[lock], lock):
        return False
    with _only_one(root):
        if _is_made(root, wanted[lock], lock):  # by whoever was waited for
            return False
        _say(f"Making the environment in {root / '.venv'} (only now, and when scripts/locks changes) …")
        pip = _make_venv(root, lock)
        install = [*pip, "install", "-qq", "--progress-bar", "off"]  # -qq: errors only
        file = root / "scripts" / "locks" / f"{lock}.txt"
        _run(
            [*install, "--require-hashes", "--only-binary", ":all:", "-r", str(file)], "installing the packages failed"
        )
        _run([*install, "--no-deps", "--no-build-isolation", "--editable", str(root)], "installing the project failed")
        _stamp(root).write_text(json.dumps(_stamps(root) | wanted), encoding="utf-8")
    return True


def fingerprint(root: Path, lock: str) -> str:
    """What the environment depends on, as one word: the lock, the project's own description, and the place.

    The place counts because programs in an environment hold its absolute path: a moved clone needs a new one.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    described = {table: project.get(table) for table in ("build-system", "project")}
    text = json.dumps([str(root), described, (root / "scripts" / "locks" / f"{lock}.txt").read_text(encoding="utf-8")])
    return hashlib.sha256(text.encode()).hexdigest()


def pip_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment with pip's settings kept to where packages come from, not what or where to install."""
    kept = {name: value for name, value in environ.items() if name not in REFUSED_PIP_SETTINGS}
    return kept | OVERRIDDEN_PIP_SETTINGS


def _make_venv(root: Path, lock: str) -> list[str]:
    """Make the environment if there is none, or one of another lock. Returns the command that runs pip for it."""
    venv, python = root / ".venv", root / ".venv" / "bin" / "python"
    own_pip = [str(python), "-I", "-m", "pip"]
    works = _succeeds([*own_pip, "--version"])
    if works and lock not in _stamps(root):
        return own_pip
    command = [sys.executable, "-I", "-m", "venv", "--clear"]
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        _run([*command, str(venv)], "making the environment failed")
        return own_pip
    if importlib.util.find_spec("venv") and _succeeds([sys.executable, "-I", "-m", "pip", "--version"]):
        _run([*command, "--without-pip", str(venv)], "making the environment failed")
        return [sys.executable, "-I", "-m", "pip", "--python", str(python)]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise EnvironmentFailed(
        f"{sys.executable} comes without the modules venv and pip.\n"
        f"Debian and Ubuntu: apt install python{version}-venv. Elsewhere: set PYTHON to a Python that has them."
    )


def _is_made(root: Path, wanted: str, lock: str) -> bool:
    # Path.exists follows the link: a Python that was removed from the system shows here.
    return _stamps(root).get(lock) == wanted and (root / ".venv" / "bin" / "python").exists()


def _stamp(root: Path) -> Path:
    return root / ".venv" / "locks.json"


def _stamps(root: Path) -> dict[str, str]:
    """Lock name → fingerprint of what was installed last; empty for an environment made by hand or half made."""
    try:
        stamps = json.loads(_stamp(root).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    with (root / ".venv.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Waiting for another run that makes the environment …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], failure: str) -> None:
    done = subprocess.run(command, env=pip_environment(os.environ), stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if done.returncode != 0:
        raise EnvironmentFailed(f"{failure} (see above). Run the same command again once the cause is mended.")


def _succeeds(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """The command line; see the top of the file. Returns the exit status."""
    if len(arguments) != 1 or arguments[0] not in LOCKS:
        _say(f"usage: environment.py {'|'.join(LOCKS)}")
        return 64
    try:
        ensure(Path(__file__).resolve().parent.parent, arguments[0])
    except EnvironmentFailed as exc:
        _say(str(exc))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
