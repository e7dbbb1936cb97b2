"""A command's database is opened, closed on every path, and its faults are said in a line."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from bitmesh_proxy.cli.books import with_database
from bitmesh_proxy.errors import NotFound
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import DATABASE_NAME, Database
from bitmesh_proxy.storage.lock_files import lock_directory
from tests.first_start import make_older_database


def settings(directory: Path) -> Settings:
    return load_settings(environ={}, overrides={"data": {"dir": str(directory)}})


async def count_accounts(database: Database) -> int:
    return int((await database.read("SELECT count(*) FROM accounts"))[0][0])


async def make_account(database: Database) -> None:
    await AccountStore(database).create("acme")


def test_who_reads_where_nothing_is_hears_that_nothing_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_database(settings(tmp_path / "own"), make_account)
    assert capsys.readouterr().err == "", "a first account is nothing to wonder about"
    for said in (f"bitmesh-proxy: there was no database in {tmp_path / 'other'}: a new one was made\n", ""):
        assert with_database(settings(tmp_path / "other"), count_accounts) == 0
        assert capsys.readouterr().err == said


def test_the_work_gets_a_database_that_is_made_and_closed(tmp_path: Path) -> None:
    seen: list[Database] = []

    async def work(database: Database) -> int:
        seen.append(database)
        return await count_accounts(database)

    assert with_database(settings(tmp_path / "new"), work) == 0
    assert (tmp_path / "new" / "bitmesh-proxy.db").stat().st_mode & 0o077 == 0
    with pytest.raises(Exception, match="closed"):
        seen[0].data_version()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files in another user's directory")
def test_root_is_told_what_the_service_could_not_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_database(settings(tmp_path / "own"), make_account)
    assert capsys.readouterr().err == ""
    os.chown(tmp_path, 54321, -1)
    with_database(settings(tmp_path), make_account)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "chown 54321 bitmesh-proxy.db bitmesh-proxy.db.key-changes there" in said
    with_database(settings(tmp_path), count_accounts)
    assert capsys.readouterr().err == ""


def test_a_command_that_may_be_writing_cannot_be_stopped_with_ctrl_z(tmp_path: Path) -> None:
    async def work(database: Database) -> object:
        return signal.getsignal(signal.SIGTSTP)

    before = signal.getsignal(signal.SIGTSTP)
    assert with_database(settings(tmp_path), work) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTSTP) is before


@pytest.mark.parametrize("fault", [NotFound("No such thing"), ValueError("No such thing")])
def test_an_error_of_the_work_ends_the_program_with_its_message(
    fault: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(database: Database) -> int:
        raise fault

    with pytest.raises(SystemExit) as end:
        with_database(settings(tmp_path), work)
    assert end.value.code == 1
    assert "No such thing" in capsys.readouterr().err


def test_a_database_that_an_older_service_has_in_use_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / DATABASE_NAME
    make_older_database(path)
    lock_directory(path).mkdir()
    with (lock_directory(path) / "of_a_service.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            with_database(settings(tmp_path), count_accounts)
    said = capsys.readouterr().err
    assert str(path) in said
    assert "Restart that service" in said
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [DATABASE_NAME, DATABASE_NAME + ".instances"]
    assert with_database(settings(tmp_path), count_accounts) == 0


def test_what_keeps_a_command_from_writing_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_database(settings(tmp_path), make_account)
    impatient = load_settings(environ={}, overrides={"data": {"dir": str(tmp_path), "busy_timeout_s": 0.05}})
    intruder = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    with pytest.raises(SystemExit):
        with_database(impatient, make_account)
    intruder.close()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("bitmesh-proxy: the database cannot be written: ")
    assert said[-1] == "bitmesh-proxy: The books cannot be written at the moment. Please try again."
    assert all(line.startswith("bitmesh-proxy: ") for line in said)


def test_a_directory_that_cannot_be_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        with_database(settings(tmp_path / "file" / "data"), count_accounts)
    assert str(tmp_path / "file" / "data") in capsys.readouterr().err
