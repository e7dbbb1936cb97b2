"""Settings: order of sources, refusals that name the key, and the example file that cannot go stale."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bitmesh_proxy.catalogue.loader import load_catalogue
from bitmesh_proxy.settings import (
    ProviderSettings,
    Settings,
    SettingsError,
    load_settings,
    resolve_credential,
    resolve_data_dir,
)

EXAMPLE = Path(__file__).parents[1] / "config" / "bitmesh-proxy.example.toml"


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ=environ)


# ---------------------------------------------------------------- the example file


def example_with_every_key() -> dict[str, Any]:
    """The example file with each ``#key`` and ``#[[table]]`` line taken at its word."""
    return tomllib.loads(re.sub(r"^#(?=[a-z_\[])", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE))


def settings_keys() -> Iterator[tuple[str, str, Any]]:
    """Table, key and default of every setting outside ``[[providers]]``, in TOML's own types."""
    for table, values in msgspec.to_builtins(Settings()).items():
        if isinstance(values, Mapping):
            for key, value in values.items():
                yield table, key, list(value) if isinstance(value, tuple) else value


def test_the_example_changes_nothing_as_it_stands() -> None:
    assert load_settings(EXAMPLE, environ={}) == Settings()


def test_the_example_shows_every_setting_with_its_default() -> None:
    tables = example_with_every_key()
    missing = [f"{table}.{key}" for table, key, _ in settings_keys() if key not in tables.get(table, {})]
    assert missing == []
    for table, key, default in settings_keys():
        shown = tables[table][key]
        assert (shown, type(shown)) == (default, type(default)), f"{table}.{key}"


def test_the_example_shows_nothing_that_is_no_setting() -> None:
    tables = example_with_every_key()
    known = {(table, key) for table, key, _ in settings_keys()}
    shown = {(table, key) for table, values in tables.items() if table != "providers" for key in values}
    assert shown - known == set()


def test_the_example_shows_every_key_of_a_provider_and_is_itself_valid(tmp_path: Path) -> None:
    providers = example_with_every_key()["providers"]
    assert {key for provider in providers for key in provider} == {
        field.encode_name for field in msgspec.structs.fields(ProviderSettings)
    }
    text = re.sub(r"^#(?=[a-z_\[])", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [provider.name for provider in load(tmp_path, text).providers] == ["together", "workshop"]


def test_every_key_of_the_example_is_explained() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for before, line in pairwise(lines):
        if re.match(r"#[a-z_]+ = ", line):
            assert before.startswith("# "), f"no explanation above: {line}"


def test_the_rows_that_the_example_shows_are_good_rows(tmp_path: Path) -> None:
    rows = re.findall(r"^#     (.*)$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (tmp_path / "own.toml").write_text("\n".join(rows), encoding="utf-8")
    (offer,) = load_catalogue([tmp_path], providers={"workshop"}).get("workshop/llama").offers
    assert offer.markup_nano == 1_500_000_000


# ---------------------------------------------------------------- where values come from


def test_without_a_file_the_defaults_hold() -> None:
    assert load_settings(environ={}) == Settings()


def test_later_sources_win(tmp_path: Path) -> None:
    text = "[http]\nport = 1\nhost = '10.0.0.1'\nmax_json_depth = 5\n"
    path = tmp_path / "settings.toml"
    path.write_text(text)
    settings = load_settings(
        path,
        environ={"BITMESH_HTTP__PORT": "2", "BITMESH_HTTP__HOST": "10.0.0.2"},
        overrides={"http": {"port": 3}},
    )
    assert (settings.http.port, settings.http.host, settings.http.max_json_depth) == (3, "10.0.0.2", 5)


@pytest.mark.parametrize(
    ("name", "text", "path", "expected"),
    [
        ("BITMESH_HTTP__PORT", "3001", "http.port", 3001),
        ("BITMESH_HTTP__HOST", "0.0.0.0", "http.host", "0.0.0.0"),
        ("BITMESH_HTTP__PUBLIC_URL", "https://ai.example.org", "http.public_url", "https://ai.example.org"),
        ("BITMESH_HTTP__TRUSTED_PROXIES", '["10.0.0.0/8"]', "http.trusted_proxies", ("10.0.0.0/8",)),
        ("BITMESH_UPSTREAM__IDLE_TIMEOUT_S", "2.5", "upstream.idle_timeout_s", 2.5),
        ("BITMESH_LOGGING__ACCESS_LOG", "False", "logging.access_log", False),
        ("BITMESH_BILLING__MARKUP", "1.20", "billing.markup", "1.20"),
        ("BITMESH_LIMITS__ENDPOINT_PER_MINUTE", '{"chat": 5}', "limits.endpoint_per_minute", {"chat": 5}),
        ("BITMESH_SANDBOX__MODE", "off", "sandbox.mode", "off"),
    ],
)
def test_the_environment_sets_any_key(name: str, text: str, path: str, expected: object) -> None:
    settings = load_settings(environ={name: text})
    table, _, key = path.partition(".")
    assert getattr(getattr(settings, table), key) == expected


def test_variables_of_others_are_left_alone() -> None:
    environ = {"BITMESH_TOKEN": "x", "BITMESH": "y", "HTTP__PORT": "5", "PATH": "/bin"}
    assert load_settings(environ=environ) == Settings()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[http]\nporty = 1", "porty"),
        ("[htpp]\nport = 1", "htpp"),
        ("[http]\nport = 65536", "http.port"),
        ("[http]\nport = '3000'", "http.port"),
        ("[http]\nport = true", "http.port"),
        ("[http]\nmax_body_bytes = 0", "http.max_body_bytes"),
        ("[http]\npublic_url = 'ai.example.org'", "http.public_url"),
        ("[http]\npublic_url = 'https://ai.example.org/'", "http.public_url"),
        ("[http]\ntrusted_proxies = ['10.0.0.0/33']", "http.trusted_proxies"),
        ("[http]\ntrusted_proxies = '10.0.0.0/8'", "http.trusted_proxies"),
        ("[upstream]\nidle_timeout_s = 0", "upstream.idle_timeout_s"),
        ("[upstream]\nidle_timeout_s = -1.5", "upstream.idle_timeout_s"),
        ("[billing]\nmarkup = 1.2", "billing.markup"),
        ("[billing]\nmarkup = 'much'", "billing.markup"),
        ("[billing]\nmarkup = '-1'", "billing.markup"),
        ("[billing]\nmarkup = '1001'", "billing.markup"),
        ("[ledger]\nkeep_s = -1.0", "ledger.keep_s"),
        ("[ledger]\nkeep_s = 1.0", "ledger.keep_s"),
        ("[ledger]\nkeep_s = 5443199.0", "ledger.keep_s"),
        ("[jobs]\nfirst_poll_s = 30.0", "jobs.max_poll_s"),
        ("[jobs]\nbackoff_factor = 0.5", "jobs.backoff_factor"),
        ("[limits]\nkey_per_minute = -1", "limits.key_per_minute"),
        ("[limits.endpoint_per_minute]\nchat = -1", "limits.endpoint_per_minute.chat"),
        ("[sandbox]\nmode = 'sometimes'", "sandbox.mode"),
        ("[logging]\nlevel = 'loud'", "logging.level"),
        ("[[providers]]\nname = 'Together AI'", "name"),
        ("[[providers]]\ncredential = 'env:X'", "name"),
        ("[[providers]]\nname = 'a'\n[[providers]]\nname = 'a'", "a stands there twice"),
        ("[[providers]]\nname = 'a'\nkind = 'openai_compatible'", "providers.a.base_urls"),
        ("[[providers]]\nname = 'a'\nkind = 'magic'", "kind"),
        ("[[providers]]\nname = 'a'\ncredential = 'sk-secret-123'", "providers.a.credential"),
        ("providers = 5", "providers"),
        ("http = 5", "http"),
        ("not toml", "not valid TOML"),
    ],
)
def test_what_cannot_be_stops_the_start_and_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert named in str(caught.value)


@pytest.mark.parametrize("keep_s", [0, 5_443_200.0])
def test_the_ledger_keeps_what_budgets_need_or_all(tmp_path: Path, keep_s: float) -> None:
    assert load(tmp_path, f"[ledger]\nkeep_s = {keep_s}").ledger.keep_s == keep_s


def test_a_secret_that_was_put_in_the_file_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, "[[providers]]\nname = 'a'\ncredential = 'sk-secret-123'")
    assert "sk-secret-123" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BITMESH_HTTP__PORTY", "1"),
        ("BITMESH_HTPP__PORT", "1"),
        ("BITMESH_HTTP__PORT", "many"),
        ("BITMESH_HTTP__PORT", "70000"),
        ("BITMESH_HTTP__TRUSTED_PROXIES", "[1"),
        ("BITMESH_LOGGING__ACCESS_LOG", "perhaps"),
        ("BITMESH_PROVIDERS__NAME", "x"),
    ],
)
def test_a_variable_that_cannot_be_is_named(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={name: text})
    assert name in str(caught.value)


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(SettingsError, match="porty"):
        load_settings(environ={}, overrides={"http": {"porty": 1}})


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        load_settings(tmp_path / "nowhere.toml", environ={})
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"x\.toml"):
        load_settings(tmp_path / "x.toml", environ={})


# ---------------------------------------------------------------- directories and credentials


def test_the_data_directory_by_its_rule(tmp_path: Path) -> None:
    chosen = load(tmp_path, f"[data]\ndir = '{tmp_path}/mine'")
    assert resolve_data_dir(chosen, {"STATE_DIRECTORY": "/s"}) == tmp_path / "mine"
    plain = Settings()
    assert resolve_data_dir(plain, {"STATE_DIRECTORY": "/s:/t", "XDG_DATA_HOME": "/x"}) == Path("/s")
    assert resolve_data_dir(plain, {"XDG_DATA_HOME": "/x"}) == Path("/x/bitmesh-proxy")
    assert resolve_data_dir(plain, {}) == Path.home() / ".local/share/bitmesh-proxy"


def test_a_credential_is_read_from_where_it_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "together").write_text("  secret\n")
    environ = {"KEY": " from-env ", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert resolve_credential("env:KEY", environ) == "from-env"
    assert resolve_credential("env:MISSING", environ) == ""
    assert resolve_credential(f"file:{tmp_path}/together", environ) == "secret"
    assert resolve_credential("credential:together", environ) == "secret"
    assert resolve_credential("credential:other", environ) == ""
    assert resolve_credential("credential:together", {}) == ""


def test_a_credential_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        resolve_credential(f"file:{tmp_path}/nowhere", {})
    with pytest.raises(SettingsError) as caught:
        resolve_credential("sk-secret:123", {})
    assert "123" not in str(caught.value)
