"""Later sources win, and what cannot be is refused by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitmesh_proxy.media.origins import origin_of
from bitmesh_proxy.settings import ProviderSettings, Settings, SettingsError
from bitmesh_proxy.settings_sources import find_ignored_variables, load_settings


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ=environ)


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


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    assert load(tmp_path, "\ufeff[http]\nport = 3001\n").http.port == 3001
    with pytest.raises(SettingsError, match=r"at line 1, column 8"):
        load(tmp_path, "\ufeffport = \n")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BITMESH_HTTP_PORT", "BITMESH_HTTP__PORT"),
        ("BITMESH_DATA_DIR", "BITMESH_DATA__DIR"),
        ("BITMESH_HTTP_PROT", "BITMESH_HTTP__PORT"),
        ("BITMESH_HTTP_TRUSTED_PROXY", "BITMESH_HTTP__TRUSTED_PROXIES"),
        ("BITMESH_PROXY_HTTP_PORT", "BITMESH_HTTP__PORT"),
        ("bitmesh_http__port", "BITMESH_HTTP__PORT"),
    ],
)
def test_a_variable_that_only_looks_like_ours_is_found(name: str, meant: str) -> None:
    environ = {name: "3001"}
    assert load_settings(environ=environ) == Settings()
    assert find_ignored_variables(Settings(), environ) == {name: meant}


def test_variables_that_do_something_or_are_of_others_are_not_found() -> None:
    provider = ProviderSettings(name="together", credential="env:BITMESH_HTTP_PORT")
    names = [
        "BITMESH_HTTP__PORT",
        "BITMESH_HTTP_PORT",  # the provider's
        "BITMESH_CONFIG",
        "BITMESH_TOKEN",
        "BITMESH_HTTP_PROXY",
        "BITMESH_PROXY_SERVICE_PORT",  # of an orchestrator that names services
        "BITMESH_PORT_3000_TCP",
        "HTTP_PORT",
    ]
    assert find_ignored_variables(Settings(providers=(provider,)), dict.fromkeys(names, "x")) == {}


# ---------------------------------------------------------------- what is refused

NO_ADDRESSES = (
    *("ftp://h", "h:8000/v1", "http://", "http:///v1", "http://a b/v1", "http://me:secret@h/v1", "http://h/v1?x=1"),
    *("http://h/v1#f", "http://h:0", "http://h:65536/v1", "http://h:8000000/v1", "http://h:/v1", "http://[::1/v1"),
    *("http://[x]/v1", "http://ä.test/v1", "http://h/ä", "http://256.1.1.1/v1", "http://127.1/v1", "http://0x7f000001"),
)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8000/v1", "http://[::1]:8000/v1/", "http://[fe80::1%25eth0]/v1", "https://ai.example.org"),
        *("http://vllm_1:65535/v1", "https://h/openai/deployments/my-model(1)/%7Ev1", "https://1password.com:443/"),
    ],
)
def test_where_a_provider_may_be(tmp_path: Path, url: str) -> None:
    text = f"[[providers]]\nname = 'a'\nkind = 'openai_compatible'\nbase_urls.default = {url!r}"
    assert load(tmp_path, text).providers[0].base_urls == {"default": url}
    assert origin_of(url).host, "those who fetch results read it too"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[http]\nporty = 1", "porty"),
        ("[htpp]\nport = 1", "htpp"),
        ("[http]\nport = 65536", "http.port"),
        ("[http]\nport = '3000'", "http.port"),
        ("[http]\nport = true", "http.port"),
        ("[http]\nmax_body_bytes = 0", "http.max_body_bytes"),
        ("[http]\ncors_origins = ['https://app.example.org/']", "http.cors_origins"),
        ("[http]\ncors_origins = ['app.example.org']", "http.cors_origins"),
        ("[http]\ncors_origins = ['*', 'https://App.example.org']", "http.cors_origins"),
        ("[http]\npublic_url = 'ai.example.org'", "http.public_url"),
        ("[http]\npublic_url = 'https://ai.example.org/'", "http.public_url"),
        ("[http]\npublic_url = 'https://'", "http.public_url"),
        ("[http]\npublic_url = 'https://ai example.org'", "http.public_url"),
        ("[http]\npublic_url = 'https://ai.example.org?x'", "http.public_url"),
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
        # What no database holds is refused here, and not with the first call.
        ("[ledger]\nkeep_s = inf", "ledger.keep_s"),
        ("[jobs]\nkeep_s = inf", "jobs.keep_s"),
        ("[jobs]\nbackoff_factor = inf", "jobs.backoff_factor"),
        ("[media]\nkeep_s = 1e11", "media.keep_s"),
        ("[http]\nbody_timeout_s = nan", "http.body_timeout_s"),
        ("[idempotency]\nmax_total_bytes = 99999999999999999999999", "idempotency.max_total_bytes"),
        ("[limits]\nkey_burst = 9223372036854775807", "limits.key_burst"),
        ("[limits.endpoint_per_minute]\nchat = 9223372036854775807", "limits.endpoint_per_minute.chat"),
        ("[limits]\nkey_per_minute = -1", "limits.key_per_minute"),
        ("[limits.endpoint_per_minute]\nchat = -1", "limits.endpoint_per_minute.chat"),
        ("[sandbox]\nmode = 'sometimes'", "sandbox.mode"),
        ("[data]\ndir = '~nobody-has-this-name/x'", "data.dir"),
        ('[media]\ncache_dir = "a\\u0000b"', "media.cache_dir"),
        ("[catalogue]\nextra_dirs = ['.', '']", "catalogue.extra_dirs[1]"),
        ("[[providers]]\nname = 'a'\ncredential = 'file:~nobody-has-this-name/x'", "providers.a.credential"),
        ("[logging]\nlevel = 'loud'", "logging.level"),
        ("[[providers]]\nname = 'Together AI'", "name"),
        ("[[providers]]\ncredential = 'env:X'", "name"),
        ("[[providers]]\nname = 'a'\n[[providers]]\nname = 'a'", "a stands there twice"),
        ("[[providers]]\nname = 'a'\nkind = 'openai_compatible'", "providers.a.base_urls"),
        *(
            (f"[[providers]]\nname = 'a'\nkind = 'openai_compatible'\nbase_urls.default = {url!r}", "base_urls.default")
            for url in NO_ADDRESSES
        ),
        *((f"[uploads]\ntrusted_origins = [{url!r}]", "uploads.trusted_origins") for url in NO_ADDRESSES),
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
        ("BITMESH_HTTP__PORT", ""),
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


@pytest.mark.parametrize("name", ["BITMESH_HTTP__PROT", "BITMESH__HTTP__PORT", "BITMESH_PROXY_HTTP__PORT"])
def test_the_variable_that_was_probably_meant_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} names no setting: is BITMESH_HTTP__PORT meant"):
        load_settings(environ={name: "3001"})


def test_a_list_is_said_to_be_json() -> None:
    with pytest.raises(SettingsError, match="a list is JSON"):
        load_settings(environ={"BITMESH_HTTP__TRUSTED_PROXIES": "10.0.0.0/8"})


def test_the_few_words_that_may_be_said_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"`logging\.level` \(want debug or info or warning or error\)"):
        load(tmp_path, "[logging]\nlevel = 'INFO'")
    with pytest.raises(SettingsError, match=r"BITMESH_SANDBOX__MODE: .* \(want auto or on or off\)"):
        load_settings(environ={"BITMESH_SANDBOX__MODE": "true"})


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(SettingsError, match="porty"):
        load_settings(environ={}, overrides={"http": {"porty": 1}})


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        load_settings(tmp_path / "nowhere.toml", environ={})
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"x\.toml"):
        load_settings(tmp_path / "x.toml", environ={})
