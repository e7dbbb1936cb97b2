"""Every example of the unified API's document, word for word, against a fresh start: shell, Python and Node.

Only what a reader would put in too is put in: the key, and the port of this very server.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.gateway import Gateway, running_gateway

pytestmark = [pytest.mark.journey, pytest.mark.timeout(60)]  # node starts slowly on a busy machine, clips are drawn

EXAMPLES = json.loads((Path(__file__).parent / "unified_examples.json").read_text(encoding="utf-8"))["examples"]
RUNNERS = {
    "bash": ["bash", "-c"],
    "python": [sys.executable, "-c"],
    "javascript": ["node", "--input-type=module", "-e"],
}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path / "data") as running:
        yield running


async def run(code: str, language: str, *, gateway: Gateway, folder: Path) -> str:
    """What the example prints."""
    program = RUNNERS[language]
    for needed in (program[0], *(["curl"] if language == "bash" else [])):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed here")
    text = code.replace("http://localhost:3000", gateway.url).replace("YOUR_API_KEY", gateway.key.token)
    process = await asyncio.create_subprocess_exec(
        *program, text, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return printed.decode()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: f"{each['title']} ({each['language']})")
async def test_the_example_works(example: dict[str, Any], gateway: Gateway, tmp_path: Path) -> None:
    picture = await gateway.sandbox.example_picture()
    await asyncio.to_thread((tmp_path / "input.jpg").write_bytes, picture)
    printed = await run(example["code"], example["language"], gateway=gateway, folder=tmp_path)
    if example["language"] != "bash":  # they print the link of what was made
        link = printed.strip()
    elif "/v1/responses" in example["code"]:
        answer = json.loads(printed)
        assert answer["object"] == "response", answer
        assert answer["status"] == "completed", answer
        assert answer["usage"]["total_cost"] > 0
        (part,) = answer["items"][0]["content"]
        link = part[part["type"]]["url"]
    else:
        answers = [json.loads(line) for line in printed.replace("}{", "}\n{").splitlines() if line.strip()]
        assert answers
        assert all("error" not in answer for answer in answers)
        return
    assert link.startswith(f"{gateway.url}/imgrslt/")
    async with gateway.http.get(link) as made:
        assert made.status == 200
        assert made.content_type.startswith(("image/", "video/"))
        assert len(await made.read()) > 1000
    await gateway.check_books()
