"""The official Node client and the Vercel AI SDK (``node/calls.mjs``), where node and npm are there.

The packages are pinned by the lock beside the script, and installed once into the system's temporary directory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.files import png
from tests.journeys.gateway import CHAT_MODEL, IMAGE_MODEL, VIDEO_MODEL, Gateway

# The first test installs the packages.
pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(90)]

SOURCE = Path(__file__).parent / "node"
OLDEST_NODE = 20
INSTALL_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 30.0


@pytest.fixture(scope="session")
def node_project() -> Path:
    """A directory with the script and its packages. Skips where they cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node or npm is not there")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.strip().removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node is older than {OLDEST_NODE}: {version.strip()}")
    lock = SOURCE / "package-lock.json"
    known_as = hashlib.sha256(lock.read_bytes() + version.encode()).hexdigest()[:16]
    project = Path(tempfile.gettempdir()) / f"bitmesh-proxy-node-{os.getuid()}-{known_as}"
    if not project.exists():
        install(npm, project)
    shutil.copy(SOURCE / "calls.mjs", project)
    return project


def install(npm: str, project: Path) -> None:
    """Install beside, then move into place, so that a broken or parallel run leaves nothing half done."""
    fresh = Path(tempfile.mkdtemp(prefix="bitmesh-proxy-node-"))
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCE / name, fresh)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    try:
        subprocess.run(command, cwd=fresh, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)
        fresh.rename(project)
    except subprocess.SubprocessError:
        shutil.rmtree(fresh)
        pytest.skip("the packages cannot be installed: no package registry within reach")
    except OSError:  # another run was faster
        shutil.rmtree(fresh)


class Node:
    """``calls.mjs``, which makes one call after the other. It is started when first needed, and again when it died."""

    def __init__(self, project: Path, log: Path) -> None:
        self._project = project
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    async def call(self, gateway: Gateway, name: str) -> dict[str, Any]:
        """What came of one call. Checks the books."""
        asked = {
            "name": name,
            "url": gateway.url,
            "apiKey": gateway.key.token,
            "CHAT_MODEL": CHAT_MODEL,
            "IMAGE_MODEL": IMAGE_MODEL,
            "VIDEO_MODEL": VIDEO_MODEL,
            "PICTURE": base64.b64encode(png()).decode(),
        }
        said = asyncio.create_task(asyncio.to_thread(self._ask, json.dumps(asked).encode() + b"\n"))
        done, _ = await asyncio.wait([said], timeout=CALL_TIMEOUT_S)
        if not done:
            self.end()
        line = await said
        outcome: dict[str, Any] = json.loads(line) if line else {"error": "no answer"}
        assert "error" not in outcome, f"{outcome['error']}\n{self._log.read_text()[-2000:]}"
        await gateway.check_books()
        result: dict[str, Any] = outcome["result"]
        return result

    def _ask(self, line: bytes) -> bytes:
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "AI_SDK_LOG_WARNINGS": "false"}
        pipe = subprocess.PIPE
        with self._log.open("ab") as log:
            return subprocess.Popen(
                ["node", "calls.mjs"], cwd=self._project, env=environment, stdin=pipe, stdout=pipe, stderr=log
            )

    def end(self) -> None:
        """End the process, and with it a call that is under way."""
        if self._process is not None:
            with self._process:  # waits for it, and closes the pipes
                self._process.kill()


@pytest.fixture(scope="module")
def node(node_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(node_project, tmp_path_factory.mktemp("node") / "stderr.log")
    yield node
    node.end()


async def test_openai_chat(node: Node, gateway: Gateway) -> None:
    answer = await node.call(gateway, "openai_chat")
    assert answer["text"]
    assert answer["tokens"] == (await gateway.last_row()).output_tokens


async def test_openai_chat_streamed(node: Node, gateway: Gateway) -> None:
    answer = await node.call(gateway, "openai_chat_stream")
    assert answer["text"]
    assert answer["withoutChoices"] == 0
    assert (await gateway.last_row()).output_tokens > 0


async def test_openai_images(node: Node, gateway: Gateway) -> None:
    answer = await node.call(gateway, "openai_images")
    assert answer["bytes"] > 100
    assert answer["link"].startswith(gateway.url)
    assert answer["edited"] > 100


async def test_openai_videos(node: Node, gateway: Gateway) -> None:
    assert await node.call(gateway, "openai_videos") == {"status": "completed", "brand": "ftyp"}


async def test_openai_sound(node: Node, gateway: Gateway) -> None:
    answer = await node.call(gateway, "openai_sound")
    assert answer["sound"] > 1000
    assert answer["text"]


async def test_openai_embeddings_moderations_and_models(node: Node, gateway: Gateway) -> None:
    answer = await node.call(gateway, "openai_rest")
    assert answer == {"dimensions": 16, "flagged": True, "isListed": True, "retrieved": "openai/dall-e-3"}


async def test_openai_errors(node: Node, gateway: Gateway) -> None:
    answer = await node.call(gateway, "openai_errors")
    assert answer["codes"] == [[404, "model_not_found", "model"], [400, "invalid_value", "messages"]]


async def test_vercel_compatible_chat(node: Node, gateway: Gateway) -> None:
    answer = await node.call(gateway, "vercel_compatible_chat")
    assert answer["text"]
    assert answer["streamed"]
    assert (answer["tokens"], answer["reason"]) == (8, "length")


async def test_vercel_compatible_image_and_vector(node: Node, gateway: Gateway) -> None:
    answer = await node.call(gateway, "vercel_compatible_image_and_vector")
    assert min(answer["bytes"], answer["edited"]) > 100
    assert answer["dimensions"] == 1536


async def test_vercel_openai_chat_and_image(node: Node, gateway: Gateway) -> None:
    answer = await node.call(gateway, "vercel_openai_chat_and_image")
    assert answer["text"]
    assert answer["bytes"] > 100


async def test_vercel_openai_responses(node: Node, gateway: Gateway) -> None:
    answer = await node.call(gateway, "vercel_openai_responses")
    assert answer["text"]
    assert answer["streamed"]
