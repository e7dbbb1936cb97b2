"""What a start loads, and above all what not: some of these were a tenth of it each.

No clock is looked at. ``-X importtime`` says on standard error which modules a process has imported, in the end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from bitmesh_proxy.catalogue.kept import KEPT_NAME
from tests.journeys.processes import PATIENCE_S, PATIENTLY

pytestmark = PATIENTLY

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bitmesh_proxy"

#: Module (with all that is in it) → why a gateway with real providers does without it.
NOT_TO_SERVE: Mapping[str, str] = {
    "aiohttp.client": "our own connections call providers; while it is imported it reads all certificates, twice",
    "aiohttp.connector": "the same",
    "bitmesh_proxy.cli.doctor": "another command",
    "bitmesh_proxy.cli.workers": "one process serves",
    "bitmesh_proxy.limits.shared_buckets": "the same",
    "bitmesh_proxy.limits.token_bucket_strategy": "our limits ask the buckets themselves",
    "bitmesh_proxy.sandbox": "no provider is played",
    "deprecated": "only the strategies of `limits` need it",
    "importlib.metadata": "reads what is installed; nobody wants to know",
    "limits.aio": "its storages once more, for asyncio",
    "limits.storage.redis": "we use the one in memory",
    "limits.strategies": "as above",
    "PIL": "for the sandbox's pictures",
    "prometheus_client": "until somebody asks for /metrics",
}
#: The same for commands that look something up in the books.
NOT_TO_LIST_KEYS: Mapping[str, str] = {
    "aiohttp": "no server, no client",
    "bitmesh_proxy.app": "as above",
    "bitmesh_proxy.dialects": "as above",
    "bitmesh_proxy.endpoints": "as above",
    "bitmesh_proxy.upstream": "as above",
    "bitmesh_proxy.web": "as above",
    "limits": "nothing is limited",
    "oauthlib": "nothing is verified",
    "uvloop": "asyncio's own loop will do",
}
NOT_TO_SAY_THE_VERSION: Mapping[str, str] = {
    "asyncio": "nothing is waited for",
    "bitmesh_proxy.settings": "nothing is set",
    "msgspec": "as above",
    "sqlite3": "nothing is looked up",
}


def environ() -> dict[str, str]:
    ours = {"TOGETHER_API_KEY": "together-key", "PYTHONUNBUFFERED": "1"}
    return {name: value for name, value in os.environ.items() if not name.startswith("BITMESH_")} | ours


def line(data_dir: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-X", "importtime", "-m", "bitmesh_proxy", "--data-dir", str(data_dir), *arguments]


def loaded(standard_error: str) -> set[str]:
    """The modules that ``-X importtime`` names."""
    return set(re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+([\w.]+)$", standard_error, re.MULTILINE))


def too_much(names: set[str], unwanted: Mapping[str, str]) -> list[str]:
    return sorted(
        f"{name} ({reason})"
        for name in names
        for module, reason in unwanted.items()
        if name == module or name.startswith(f"{module}.")
    )


def run(data_dir: Path, *arguments: str) -> set[str]:
    """The modules that a command loads."""
    ran = subprocess.run(
        line(data_dir, *arguments), cwd=ROOT, env=environ(), capture_output=True, text=True, check=True
    )
    return loaded(ran.stderr)


def status_of(request: urllib.request.Request | str) -> int:
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:  # our own server
            return int(response.status)
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code


def test_a_start_and_first_answers_load_nothing_large_that_they_do_not_use(tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    command = line(tmp_path, "serve", "--port", "0")
    with (
        errors.open("w") as output,
        subprocess.Popen(command, cwd=ROOT, env=environ(), stdout=subprocess.PIPE, stderr=output, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, errors.read_text()
            body = json.dumps(
                {"model": "openai/gpt-oss-20b", "messages": [{"role": "user", "content": "Hello"}]}
            ).encode()
            headers = {"Authorization": "Bearer bm_nobodys", "Content-Type": "application/json"}
            answers = [
                status_of(f"{found[0]}/health"),
                status_of(f"{found[0]}/v1/models"),
                status_of(urllib.request.Request(f"{found[0]}/chat", data=body, headers=headers)),
            ]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)
    assert answers == [200, 200, 401]
    names = loaded(errors.read_text())
    assert {"aiohttp.web", "bitmesh_proxy.app", "limits.limits"} <= names, "what is meant to be there is seen"
    assert too_much(names, NOT_TO_SERVE) == []
    assert (tmp_path / KEPT_NAME).is_file(), "the next start need not read the catalogue's files"


def test_commands_do_not_load_the_server(tmp_path: Path) -> None:
    names = run(tmp_path, "key", "list")
    assert {"click", "bitmesh_proxy.storage.keys"} <= names
    assert too_much(names, NOT_TO_LIST_KEYS) == []


def test_the_version_is_said_with_next_to_nothing(tmp_path: Path) -> None:
    names = run(tmp_path, "--version")
    assert "click" in names
    assert too_much(names, NOT_TO_SAY_THE_VERSION) == []


def test_values_are_structs() -> None:
    """Each dataclass takes a millisecond of every start, and ten times as long to be made (see CONTRIBUTING.md)."""
    using = re.compile(r"^\s*(?:from|import) dataclasses\b", re.MULTILINE)
    sources = [path for path in PACKAGE.rglob("*.py") if "sandbox" not in path.parts]
    assert len(sources) > 100
    assert [str(path) for path in sources if using.search(path.read_text(encoding="utf-8"))] == []
