"""Tokens, consumer keys and secrets, and where the master secret comes from."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bitmesh_proxy.auth.secrets import (
    MasterSecretError,
    derive_consumer_secret,
    fingerprint_of,
    load_or_create_master_secret,
    new_consumer_key,
    new_token,
    token_digest,
)

MASTER = b"m" * 32


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestKeys:
    def test_token(self) -> None:
        assert re.fullmatch(r"bm_[A-Za-z0-9_-]{43}", new_token())
        assert new_token(random_bytes=bytes) == "bm_" + "A" * 43
        assert len({new_token() for _ in range(100)}) == 100

    def test_the_whole_randomness_is_in_the_token(self) -> None:
        random = bytes(range(32))
        text = new_token(random_bytes=lambda count: random[:count]).removeprefix("bm_")
        assert base64.urlsafe_b64decode(text + "=") == random

    def test_consumer_key(self) -> None:
        assert re.fullmatch(r"ck_[0-9a-f]{24}", new_consumer_key())
        assert new_consumer_key(random_bytes=bytes) == "ck_" + "0" * 24

    def test_digest(self) -> None:
        assert token_digest("bm_x") == hashlib.sha256(b"bm_x").digest()

    def test_digest_takes_any_text_that_a_header_can_hold(self) -> None:
        assert len(token_digest("\udce9")) == 32


def test_fingerprints_tell_master_secrets_apart_and_stay() -> None:
    """Books hold them."""
    assert fingerprint_of(MASTER) == hmac.new(MASTER, b"fingerprint", "sha256").digest()
    assert fingerprint_of(MASTER) != fingerprint_of(b"n" * 32)


class TestConsumerSecret:
    def test_value(self) -> None:
        """It must never change: callers hold it, and we do not."""
        digest = hmac.new(MASTER, b"oauth1:key_1:3", "sha256").digest()
        assert derive_consumer_secret(MASTER, "key_1", 3) == base64.urlsafe_b64encode(digest).decode().rstrip("=")
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", derive_consumer_secret(MASTER, "key_1", 3))

    def test_each_part_counts(self) -> None:
        secrets = {
            derive_consumer_secret(master, key_id, generation)
            for master in (MASTER, b"n" * 32)
            for key_id in ("key_1", "key_2", "key_1:1")
            for generation in (1, 2, 11)
        }
        assert len(secrets) == 18


class TestMasterSecret:
    def test_made_on_first_start_and_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "data" / "master.secret"
        first = load_or_create_master_secret(path)
        assert len(first) == 64
        assert mode_of(path) == 0o600
        assert mode_of(path.parent) == 0o700
        assert load_or_create_master_secret(path) == first
        assert [entry.name for entry in path.parent.iterdir()] == ["master.secret"]

    def test_a_wide_umask_does_not_widen_it(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            load_or_create_master_secret(tmp_path / "s")
        finally:
            os.umask(before)
        assert mode_of(tmp_path / "s") == 0o600

    def test_starting_twice_at_once_gives_one_secret(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(lambda _: load_or_create_master_secret(tmp_path / "s"), range(32)))
        assert len(found) == 1
        assert [entry.name for entry in tmp_path.iterdir()] == ["s"]

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
    def test_a_file_that_others_may_use_is_refused(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "s"
        load_or_create_master_secret(path)
        path.chmod(mode)
        with pytest.raises(MasterSecretError, match=rf"mode {mode:04o}.*chmod 600 {re.escape(str(path))}"):
            load_or_create_master_secret(path)

    def test_a_credential_of_systemd_comes_first(self, tmp_path: Path) -> None:
        credential = tmp_path / "credentials" / "master_secret"
        credential.parent.mkdir()
        credential.write_bytes(b"c" * 40 + b"\n")
        credential.chmod(0o440)  # systemd's ACL shows so
        found = load_or_create_master_secret(tmp_path / "s", credentials_dir=credential.parent)
        assert found == b"c" * 40
        assert not (tmp_path / "s").exists()

    def test_without_that_credential_the_file_counts(self, tmp_path: Path) -> None:
        found = load_or_create_master_secret(tmp_path / "s", credentials_dir=tmp_path)
        assert found == load_or_create_master_secret(tmp_path / "s")

    @pytest.mark.parametrize("secret", [b"s" * 32, b"s" * 4096])
    def test_neither_white_space_nor_a_byte_order_mark_is_part_of_it(self, tmp_path: Path, secret: bytes) -> None:
        path = tmp_path / "s"
        path.write_bytes(b"\xef\xbb\xbf" + secret + b"\r\n")
        path.chmod(0o600)
        assert load_or_create_master_secret(path) == secret

    @pytest.mark.parametrize("content", [b"", b"short\n", b" " * 40, b"x" * 5000])
    def test_impossible_content_is_refused_and_left_alone(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "s"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(MasterSecretError, match="must have 32 to 4096 bytes"):
            load_or_create_master_secret(path)
        assert path.read_bytes() == content

    def test_a_directory_in_its_place(self, tmp_path: Path) -> None:
        with pytest.raises(MasterSecretError, match="cannot be read"):
            load_or_create_master_secret(tmp_path)

    def test_a_place_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(MasterSecretError, match="cannot be made"):
            load_or_create_master_secret(tmp_path / "file" / "s")

    def test_errors_do_not_hold_the_secret(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        path.write_bytes(b"planted")
        path.chmod(0o600)
        with pytest.raises(MasterSecretError) as failure:
            load_or_create_master_secret(path)
        assert "planted" not in str(failure.value)
