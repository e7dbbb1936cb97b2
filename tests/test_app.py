"""The application put together: what stops its start, and that whatever was opened is closed again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bitmesh_proxy import keys
from bitmesh_proxy.app import make_app, make_runner
from bitmesh_proxy.auth.secrets import fingerprint_of
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.startup import StartError
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.upstream.access import ProviderAccess
from tests.journeys.gateway import chat, eventually, running_gateway, settings_for
from tests.journeys.scripted import at, write_rows


async def start(data_dir: Path, changes: dict[str, Any], environ: dict[str, str] | None = None) -> dict[str, object]:
    """Start and stop; gives what is interesting of the application in between."""
    app = make_app(settings_for(data_dir, changes), environ=environ or {})
    runner = make_runner(app)
    try:
        await runner.setup()
        access: Mapping[str, ProviderAccess] = app[keys.ACCESS]
        return {"is_sandbox": app[keys.IS_SANDBOX], "providers": sorted(access)}
    finally:
        await runner.cleanup()


def not_daemons() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.daemon and not thread.name.startswith("asyncio")}


async def test_a_start_that_fails_closes_what_it_had_opened(tmp_path: Path) -> None:
    """A thread left behind would keep the process from ending."""
    before = not_daemons()
    rows = write_rows(tmp_path / "rows", "nobody")
    with pytest.raises(StartError, match=r"journey\.toml:"):
        await start(tmp_path / "data", {"catalogue": {"dir": str(rows)}})
    # The driver's thread ends a moment after its connection was closed.
    await eventually(lambda: not_daemons() <= before, "no thread is left behind")


async def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StartError, match="data"):
        await start(tmp_path / "data", {})


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "bitmesh-proxy.db").write_text("x" * 4096)
    with pytest.raises(StartError, match=r"bitmesh-proxy\.db"):
        await start(tmp_path, {})


async def test_a_start_without_the_master_secret_of_existing_keys_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_gateway(tmp_path):  # which makes a key
        pass
    assert "master secret" not in caplog.text
    (tmp_path / "master.secret").unlink()
    for times in (1, 1):  # once it is there, nobody can tell
        await start(tmp_path, {})
        assert caplog.text.count("a new master secret was made. Consumer secrets of keys (1)") == times


async def test_a_start_with_another_master_secret_says_so_and_commands_follow_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_gateway(tmp_path) as gateway:
        first = KeyStore(gateway.app[keys.DATABASE]).secret_fingerprint()
    assert first == fingerprint_of((tmp_path / "master.secret").read_bytes().strip())
    (tmp_path / "master.secret").write_bytes(b"x" * 32)
    for times in (1, 1):
        await start(tmp_path, {})
        assert caplog.text.count("of keys (1), consumer secrets that were made with that one do not work") == times
    async with running_gateway(tmp_path, credit_usd="0") as gateway:
        assert KeyStore(gateway.app[keys.DATABASE]).secret_fingerprint() == fingerprint_of(b"x" * 32)


def test_a_limit_of_an_endpoint_nobody_knows_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        StartError, match=r"limits\.endpoint_per_minute: no endpoint is called chats \(auth_test, chat,"
    ):
        make_app(settings_for(tmp_path, {"limits": {"endpoint_per_minute": {"chat": 1, "chats": 1}}}), environ={})


@pytest.mark.parametrize("environ", [{}, {"TOGETHER_API_KEY": "sk-x"}])
async def test_the_sandbox_is_there_when_no_real_credential_is(tmp_path: Path, environ: dict[str, str]) -> None:
    found = await start(tmp_path, {"sandbox": {"mode": "auto"}}, environ)
    assert found["is_sandbox"] is not bool(environ)
    if environ:
        assert found["providers"] == ["together"]


async def test_without_a_provider_a_call_is_told_so(tmp_path: Path) -> None:
    settings = at(tmp_path / "rows")
    write_rows(tmp_path / "rows", "together")
    async with running_gateway(tmp_path / "data", settings) as gateway:
        answer = await gateway.post("/chat", {**chat(), "model": "journey-model"})
        assert answer.status == 503
        assert "Retry-After" not in answer.headers  # waiting configures none
        assert answer.json["error"]
        await gateway.check_books()


async def test_two_processes_may_share_one_database(tmp_path: Path) -> None:
    """The second neither closes what the first has open, nor misses what the first has written."""
    async with running_gateway(tmp_path) as first, running_gateway(tmp_path) as second:
        assert (await second.get("/test", headers=first.bearer)).status == 200
        assert (await second.post("/chat", chat(), headers=first.bearer)).status == 200
        assert (await first.last_row()).key_id == first.key.id
        await first.check_books()


async def test_data_are_for_nobody_elses_eyes(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data") as gateway:
        await gateway.post("/chat", chat())
        assert (tmp_path / "data").stat().st_mode & 0o077 == 0
        for path in (each for each in (tmp_path / "data").iterdir() if each.is_file()):
            assert path.stat().st_mode & 0o077 == 0, path


def test_making_it_opens_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    make_app(load_settings(environ={}, overrides={"data": {"dir": str(directory)}}), environ={})
    assert not directory.exists()


@pytest.mark.parametrize(("keep_s", "is_on"), [(100 * 86_400.0, True), (0, False)])
async def test_old_requests_are_summed_up_unless_all_are_kept(tmp_path: Path, keep_s: float, is_on: bool) -> None:
    async with running_gateway(tmp_path, {"ledger": {"keep_s": keep_s}}):
        running = {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
        assert ("Pruner.run" in running) is is_on
    assert "Pruner.run" not in {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
