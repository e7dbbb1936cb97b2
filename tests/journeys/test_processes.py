"""The program as a process: first run, kill -9 and start again, drain, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from bitmesh_proxy.calls import Basis
from bitmesh_proxy.cli.new_key import NewKey
from bitmesh_proxy.sandbox.faults import Fault, parse_directives
from bitmesh_proxy.sandbox.server import Sandbox
from bitmesh_proxy.sandbox.stage import Options
from tests.journeys.gateway import bearer, chat, open_books, video
from tests.journeys.processes import PATIENCE_S, PATIENTLY, Served, environment, make_key, run, serving
from tests.journeys.scripted import write_rows

#: Several starts of the program, each of which takes a second or two on a busy machine.
pytestmark = [pytest.mark.journey, PATIENTLY]


def config_of(sandbox: Sandbox, directory: Path) -> Path:
    """Settings of a gateway whose provider is a sandbox that outlives it."""
    path = directory / "settings.toml"
    url = f"{sandbox.url}/together"
    path.write_text(
        '[sandbox]\nmode = "off"\n\n[[providers]]\nname = "together"\n'
        f'base_urls = {{ default = "{url}/v1", v2 = "{url}/v2" }}\n'
    )
    return path


async def test_a_stream_killed_in_the_middle_is_charged_once_at_the_next_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    key = await make_key(data)
    async with aiohttp.ClientSession(headers=bearer(key)) as http:
        async with serving(data, env={"BITMESH_SANDBOX__TOKEN_INTERVAL_MS": "20"}) as served:
            body = chat("Hello [[sandbox: tokens=2000]]", stream=True, max_tokens=2000)
            async with http.post(served.url + "/chat", json=body) as answer:
                async with open_books(data) as books:
                    while not (rows := await books.rows()) or not rows[0].accrued_charge_nano_usd:
                        assert await answer.content.readany()
                await served.kill()
        async with serving(data) as served:
            async with open_books(data) as books:
                (row,) = await books.rows()
                assert (row.state, row.outcome, row.basis) == ("settled", "interrupted", Basis.ESTIMATED)
                assert 0 < row.charge_nano_usd == row.accrued_charge_nano_usd < row.hold_nano_usd
                await books.check()
            async with http.post(served.url + "/chat", json=chat()) as answer:
                assert answer.status == 200
            async with open_books(data) as books:
                assert [each.outcome for each in await books.rows()] == ["interrupted", "completed"]
                await books.check()


async def test_a_clip_goes_on_after_a_kill_and_is_charged_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with (
        Sandbox(options=Options(job_duration_s=3.0)) as sandbox,
        aiohttp.ClientSession() as http,
    ):
        env = {"TOGETHER_API_KEY": "sk-planted-secret-0123456789abcdef"}
        arguments = ["--config", str(config_of(sandbox, tmp_path))]
        key = await make_key(data)
        async with serving(data, arguments=arguments, env=env) as served:
            async with http.post(served.url + "/video", json=video(), headers=bearer(key)) as answer:
                assert answer.status == 200
                job_id = (await answer.json())["id"]
            await served.kill()
        async with open_books(data) as books:
            (row,) = await books.rows()
            assert (row.state, row.outcome) == ("open", None)
        async with serving(data, arguments=arguments, env=env) as served:
            async with open_books(data) as books:
                await served.until(books.all_closed, "the clip is there")
                row = await books.last_row()
                assert (row.state, row.outcome, row.provider_request_id) == ("settled", "completed", job_id)
                assert row.charge_nano_usd > 0
                await books.check()
            async with http.get(f"{served.url}/video/{job_id}", headers=bearer(key)) as answer:
                assert (answer.status, (await answer.json())["status"]) == (200, "completed")
            assert len([each for each in sandbox.requests if each.method == "POST"]) == 1
        assert "sk-planted" not in (tmp_path / "serve.log").read_text()


async def test_a_call_whose_process_was_killed_may_be_repeated_under_its_key(tmp_path: Path) -> None:
    data = tmp_path / "data"
    key = await make_key(data)
    headers = {**bearer(key), "Idempotency-Key": "once"}
    async with Sandbox() as sandbox, aiohttp.ClientSession(headers=headers) as http:
        arguments = ["--config", str(config_of(sandbox, tmp_path))]
        env = {"TOGETHER_API_KEY": "sk-planted-secret-0123456789abcdef"}
        sandbox.faults.add(Fault(directives=parse_directives("stall=60")))
        async with serving(data, arguments=arguments, env=env) as served:
            first = asyncio.create_task(post(http, served, "/chat", chat()))

            async def is_called() -> bool:
                return len(sandbox.requests) == 1

            await served.until(is_called, "the upstream is called")
            await served.kill()
            with pytest.raises(aiohttp.ClientError):
                await first
        async with serving(data, arguments=arguments, env=env) as served:
            assert await post(http, served, "/chat", chat()) == 200
            assert await post(http, served, "/chat", chat()) == 200
            assert len(sandbox.requests) == 2
            async with open_books(data) as books:
                assert [row.outcome for row in await books.rows()] == ["interrupted", "completed"]
                await books.check()


async def post(http: aiohttp.ClientSession, served: Served, path: str, body: object) -> int:
    async with http.post(served.url + path, json=body) as answer:
        await answer.read()
        return answer.status


async def test_a_signal_drains_running_streams_and_lets_nobody_else_in(tmp_path: Path) -> None:
    data = tmp_path / "data"
    key = await make_key(data)
    async with (
        aiohttp.ClientSession(headers=bearer(key)) as http,
        serving(data, env={"BITMESH_SANDBOX__TOKEN_INTERVAL_MS": "20"}) as served,
    ):
        body = chat("Hello [[sandbox: tokens=60]]", stream=True, max_tokens=60)
        async with http.post(served.url + "/chat", json=body) as answer:
            first = await answer.content.readany()
            served.process.send_signal(signal.SIGTERM)
            await served.until_it_says("draining")
            with pytest.raises(aiohttp.ClientConnectionError):
                async with aiohttp.ClientSession() as another:
                    await post(another, served, "/test", {})
            rest = await answer.content.read()
        assert (first + rest).endswith(b"data: [DONE]\n\n")
        assert await served.ended() == 0
        async with open_books(data) as books:
            assert [row.outcome for row in await books.rows()] == ["completed"]
            await books.check()


@pytest.mark.parametrize(
    ("arguments", "lane", "path", "more"),
    [
        ([], "true", "/chat", {}),
        ([], "true", "/chat", {"model": "anthropic/claude-haiku-5-5"}),
        ([], "true", "/v1/responses", {}),
        ([], "false", "/chat", {}),
        (["--workers", "2"], "true", "/chat", {}),
    ],
    ids=["lane", "translated", "responses", "plain", "workers"],
)
async def test_a_stream_that_outlives_the_patience_is_cut_and_charged(
    tmp_path: Path, arguments: list[str], lane: str, path: str, more: dict[str, str]
) -> None:
    data = tmp_path / "data"
    key = await make_key(data)
    env = {
        "BITMESH_SANDBOX__TOKEN_INTERVAL_MS": "20",
        "BITMESH_HTTP__SHUTDOWN_TIMEOUT_S": "0.3",
        "BITMESH_HTTP__LANE": lane,
    }
    async with (
        aiohttp.ClientSession(headers=bearer(key)) as http,
        serving(data, arguments=arguments, env=env) as served,
    ):
        body = chat("Hello [[sandbox: tokens=3000]]", stream=True, max_tokens=3000, **more)
        async with http.post(served.url + path, json=body) as answer:
            await answer.content.readany()
            served.process.send_signal(signal.SIGINT)
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.content.read()
        assert await served.ended() == 0
        assert "Traceback" not in served.text()
        async with open_books(data) as books:
            (row,) = await books.rows()
            assert (row.state, row.outcome, row.http_status) == ("settled", "interrupted", 503)
            assert 0 < row.charge_nano_usd < row.hold_nano_usd
            await books.check()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are for curl")
async def test_the_examples_of_the_first_run_work_when_pasted(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as served:
        text = served.text()
        assert "sandbox" in text
        for word in ("bearer token", "consumer key", "consumer secret"):
            assert re.search(rf"{word} +\S{{10,}}", text)
        examples = text.partition("Try it from another terminal:\n")[2].partition("Stop with Ctrl-C")[0]
        chat_example, image_example, video_example = examples.strip().split("\n# ")
        outputs = [
            await asyncio.to_thread(bash, example)
            for example in (chat_example, "# " + image_example, "# " + video_example.replace("sleep 10", "sleep 1"))
        ]
        assert outputs[0].strip().endswith("data: [DONE]")
        assert "/imgrslt/" in outputs[1]
        assert '"status":"completed"' in outputs[2]
        async with open_books(tmp_path / "data") as books:
            assert [row.endpoint for row in await books.rows()] == ["chat", "image", "video"]
            await books.last_row()
            await books.check()


def bash(script: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, timeout=PATIENCE_S, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_command_line(data_dir: Path) -> NewKey:
    """A key as an operator makes it."""
    account = run(data_dir, "account", "create", "journey", "--credit", "10")
    assert account.returncode == 0, account.stderr
    made = run(data_dir, "key", "create", "--json")
    assert made.returncode == 0, made.stderr
    return NewKey(**json.loads(made.stdout))


async def test_secrets_are_shown_once_and_are_nowhere_else(tmp_path: Path) -> None:
    data = tmp_path / "data"
    key = await asyncio.to_thread(by_command_line, data)
    prompt = "planted-prompt-4711"
    async with aiohttp.ClientSession() as http:
        async with serving(data, env={"BITMESH_LOGGING__LEVEL": "debug"}) as served:
            for headers in (bearer(key), {"x-api-key": key.token}, {"Authorization": f"Bearer {key.token}x"}):
                for body in (
                    chat(prompt),
                    chat(prompt, stream=True),
                    {"messages": prompt},
                    chat(f"{prompt} [[sandbox: status=500]]"),
                ):
                    async with http.post(served.url + "/chat", json=body, headers=headers) as answer:
                        await answer.read()
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(f"POST /chat HTTP/1.1\r\nAuthorization: Bearer {key.token}\x01\r\n\r\n".encode())
            await reader.read()
            writer.close()
            served.process.send_signal(signal.SIGTERM)
            await served.ended()
    said = served.text()
    assert "POST /chat 200" in said
    for secret in (key.token, key.consumer_secret, prompt, (data / "master.secret").read_text().strip()):
        assert secret not in said
    for path in data.iterdir():
        if path.is_file() and path.name != "master.secret":
            kept = path.read_bytes()
            for secret in (key.token, key.consumer_secret, prompt):
                assert secret.encode() not in kept, path


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[http]\nprot = 3000\n", "prot"),
        ("[http]\nport = 99999\n", "http.port"),
        ("[htp]\n", "htp"),
        ("[http\n", "TOML"),
        ('[[providers]]\nname = "together"\ncredential = "sk-planted-secret-0123456789abcdef"\n', "credential"),
        ('[[providers]]\nname = "nobody"\n', "nobody"),
    ],
)
async def test_settings_that_cannot_be_stop_the_start_with_their_name(tmp_path: Path, text: str, word: str) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(text)
    done = await asyncio.to_thread(run, tmp_path / "data", "serve", "--port", "0", "--config", str(config))
    assert done.returncode == 78, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert "sk-planted" not in done.stderr


async def test_an_unpriced_model_stops_the_start_with_its_file_and_line(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows", "together")
    file = rows / "journey.toml"
    lines = [line for line in file.read_text().splitlines() if "usd_per" not in line]
    file.write_text("\n".join(lines))
    env = {"BITMESH_CATALOGUE__DIR": str(rows)}
    done = await asyncio.to_thread(run, tmp_path / "data", "serve", "--port", "0", env=env)
    assert done.returncode == 78, done.stderr
    assert f"{file}:{lines.index('[[offer]]') + 1}" in done.stderr
    assert "price" in done.stderr.lower()
    assert "Traceback" not in done.stderr


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as served:
        again = await asyncio.to_thread(run, tmp_path / "other", "serve", "--port", str(served.port))
        assert again.returncode == 1
        assert f"127.0.0.1:{served.port}" in again.stderr
        assert "Traceback" not in again.stderr


def timer_of(client: socket.socket) -> str:
    """The kernel's timer at the server's end of a connection: "02" is that of SO_KEEPALIVE (proc_net_tcp.txt)."""
    ends = [f":{port:04X}" for port in (client.getpeername()[1], client.getsockname()[1])]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(ends[0]) and fields[2].endswith(ends[1]):
            return fields[5].partition(":")[0]
    return ""


@pytest.mark.skipif(sys.platform != "linux", reason="it is the kernel that is asked")
@pytest.mark.parametrize("arguments", [[], ["--workers", "2"]])
async def test_callers_that_vanish_are_noticed(tmp_path: Path, arguments: list[str]) -> None:
    async with serving(tmp_path / "data", arguments=["--sandbox", *arguments]) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as client:

            async def are_asked_after() -> bool:
                return timer_of(client) == "02"

            await served.until(are_asked_after, "the kernel asks now and then whether we are there")
