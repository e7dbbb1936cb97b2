"""What a start finds: models, the way to each provider, or the sandbox; and what it says where that cannot be."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bitmesh_proxy.startup import StartError, access_by, offered_by, on_missing_credentials, sandbox_port_taken
from tests.journeys.gateway import settings_for


@pytest.mark.parametrize(
    ("mode", "environ", "providers"),
    [
        ("auto", {}, None),
        ("auto", {"TOGETHER_API_KEY": "sk-x"}, ["together"]),
        ("on", {"TOGETHER_API_KEY": "sk-x"}, None),
        ("off", {}, []),
    ],
)
def test_the_sandbox_plays_when_no_real_credential_is_there_or_when_told_to(
    tmp_path: Path, mode: str, environ: dict[str, str], providers: list[str] | None
) -> None:
    access = access_by(settings_for(tmp_path, {"sandbox": {"mode": mode}}), environ)
    assert (None if access is None else sorted(access)) == providers


@pytest.mark.parametrize(("mode", "is_played"), [("auto", False), ("on", True)])
def test_nobody_is_played_for_want_of_a_credential_that_the_settings_name(
    tmp_path: Path, mode: str, is_played: bool
) -> None:
    settings = settings_for(
        tmp_path, {"sandbox": {"mode": mode}, "providers": [{"name": "openai", "credential": "credential:opneai"}]}
    )
    access = access_by(settings, {})
    assert (access is None) is is_played
    assert on_missing_credentials(settings, {}) == [
        "provider openai: there is nothing at credential:opneai, where the settings say that its credential is"
    ]


def test_gateway_and_sandbox_cannot_have_one_port(tmp_path: Path) -> None:
    changes = {"http": {"port": 4000}, "sandbox": {"mode": "on", "port": 4000}}
    with pytest.raises(StartError, match=r"sandbox\.port: must not be http\.port \(4000\)"):
        access_by(settings_for(tmp_path, changes), {})


def test_a_provider_nobody_knows_stops_the_start(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, {"providers": [{"name": "nobody"}]})
    with pytest.raises(StartError, match="nobody"):
        access_by(settings, {})


def test_models_without_a_price_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "own.toml").write_text(
        '[[model]]\nid = "own"\noperation = "chat"\n[[offer]]\nmodel = "own"\nprovider = "together"\n'
        'upstream_model = "own"\n',
        encoding="utf-8",
    )
    settings = settings_for(tmp_path, {"catalogue": {"dir": str(tmp_path / "rows")}})
    with pytest.raises(StartError, match="own") as refused:
        offered_by(settings, {})
    assert not refused.value.may_pass


@pytest.mark.parametrize(("number", "may_pass"), [(errno.ENOSPC, True), (errno.EACCES, False)])
def test_only_what_passes_by_itself_is_worth_another_try(number: int, may_pass: bool) -> None:
    error = StartError("it cannot be kept")
    error.__cause__ = OSError(number, "no")
    assert error.may_pass is may_pass


def test_a_port_of_the_sandbox_that_is_taken_is_named(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, {"sandbox": {"port": 4000}})
    said = str(sandbox_port_taken(settings, OSError(errno.EADDRINUSE, "Address already in use")))
    assert said == "sandbox.port: cannot listen on 127.0.0.1:4000: Address already in use"
