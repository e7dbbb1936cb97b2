"""Where settings come from, and what is wrong with them.

Order, later wins: the defaults of ``settings.py``, one TOML file, ``BITMESH_<TABLE>__<KEY>`` variables
(``BITMESH_HTTP__PORT=3001``; lists and tables as JSON), command-line options. Unknown keys and impossible values stop
the start with the key's name.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from bitmesh_proxy.money import parse_usd
from bitmesh_proxy.settings import LEAST_LEDGER_KEEP_S, MOST, Settings, SettingsError


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Read the file (if any), the environment and ``overrides`` (the command line) into checked settings.

    Raises SettingsError naming the key.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            # Some editors put a byte order mark in front, and nobody sees it.
            tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"{path}: {exc}") from exc
        except tomllib.TOMLDecodeError as exc:
            raise SettingsError(f"{path}: not valid TOML: {exc}") from exc
        _convert(tree, str(path))
    _merge(tree, _from_environment(os.environ if environ is None else environ), "environment")
    _merge(tree, overrides or {}, "command line")
    settings = _convert(tree, str(path) if path else "environment")
    _check(settings)
    return settings


def _merge(tree: dict[str, Any], more: Mapping[str, Any], source: str) -> None:
    for table, values in more.items():
        if not isinstance(values, Mapping):
            tree[table] = values
            continue
        current = tree.setdefault(table, {})
        if not isinstance(current, dict):
            raise SettingsError(f"{source}: {table} is not a table")
        current.update(values)


def _convert(tree: Mapping[str, Any], source: str) -> Settings:
    try:
        return msgspec.convert(tree, Settings)
    except msgspec.ValidationError as exc:
        said = str(exc).replace("`$.", "`")
        at = _SETTING.search(said)
        hint = _hints().get(at["table"], {}).get(at["key"]) if at else None
        raise SettingsError(f"{source}: {said}{_choices(said, hint)}") from exc


_SETTING = re.compile(r"`(?P<table>\w+)\.(?P<key>\w+)`")


def _choices(said: str, hint: Any) -> str:
    """What a setting of a few words may be, to be said behind a fault that speaks of no more than the wrong one."""
    return f" (want {' or '.join(get_args(hint))})" if said.startswith("Invalid enum value") and get_args(hint) else ""


def find_ignored_variables(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables that look like ours and set nothing (``BITMESH_HTTP_PORT``), each with the one that was probably meant.

    Not those that hold a provider's credential.
    """
    credentials = {each.credential.removeprefix("env:") for each in settings.providers}
    meant = {
        name: _probably_meant(name)
        for name in sorted(os.environ if environ is None else environ)
        if _LIKE_OURS.fullmatch(name) and not _is_ours(name) and name not in credentials
    }
    return {name: right for name, right in meant.items() if right}


_LIKE_OURS = re.compile(r"BITMESH_\w+", re.ASCII | re.IGNORECASE)


def _is_ours(name: str) -> bool:
    return name.startswith("BITMESH_") and "__" in name


def _probably_meant(name: str) -> str:
    """The variable that a wrong name is most like, if it is like any; an empty text else."""
    import difflib  # hardly ever needed

    said = re.sub("_+", "_", name).lower().removeprefix("bitmesh_").removeprefix("proxy_")
    names = {f"{table}_{key}": f"BITMESH_{table}__{key}".upper() for table, keys in _hints().items() for key in keys}
    alike = [each for each in names if each.partition("_")[0] == said.partition("_")[0]]
    found = difflib.get_close_matches(said, alike, n=1, cutoff=_ALIKE)
    return names[found[0]] if found else ""


#: How much of a name must be right. A letter or two that are wrong or missing, not another word.
_ALIKE = 0.85


def _hints() -> dict[str, dict[str, Any]]:
    """Table → key → type, of all that a variable can set."""
    return {
        table.encode_name: {entry.encode_name: entry.type for entry in msgspec.structs.fields(table.type)}
        for table in msgspec.structs.fields(Settings)
        if isinstance(table.type, type) and issubclass(table.type, msgspec.Struct)
    }


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    hints = _hints()
    for name, text in environ.items():
        if not _is_ours(name):
            continue
        table, _, key = name.removeprefix("BITMESH_").lower().partition("__")
        if key not in hints.get(table, {}):
            meant = _probably_meant(name)
            raise SettingsError(f"environment: {name} names no setting" + (f": is {meant} meant?" if meant else ""))
        tree.setdefault(table, {})[key] = _from_text(name, text, hints[table][key])
    return tree


def _from_text(name: str, text: str, hint: Any) -> Any:
    if hint is str:
        return text
    if not text:
        raise SettingsError(f"environment: {name} is empty: unset it, or say a value")
    try:
        if text[:1] in "[{":
            return msgspec.json.decode(text, type=hint)
        return msgspec.convert(text.lower() if text.lower() in ("true", "false") else text, hint, strict=False)
    except (msgspec.ValidationError, msgspec.DecodeError) as exc:
        said = str(exc) + (' (a list is JSON: ["a", "b"])' if "`array`" in str(exc) else _choices(str(exc), hint))
        raise SettingsError(f"environment: {name}: {said}") from exc


def _check_paths(settings: Settings) -> None:
    paths = {
        "data.dir": settings.data.dir,
        "auth.master_secret_file": settings.auth.master_secret_file,
        "media.cache_dir": settings.media.cache_dir,
        "catalogue.dir": settings.catalogue.dir,
        **{f"catalogue.extra_dirs[{place}]": each for place, each in enumerate(settings.catalogue.extra_dirs)},
        **{
            f"providers.{each.name}.credential": each.credential.removeprefix("file:")
            for each in settings.providers
            if each.credential.startswith("file:")
        },
    }
    for name, path in paths.items():
        if "\0" in path or (not path and "[" in name):  # Path("") would be wherever we were started
            raise SettingsError(f"{name}: {path!r} is no path")
        try:
            Path(path).expanduser()
        except RuntimeError as exc:
            raise SettingsError(f"{name}: nobody has the home directory of {path!r}") from exc


_ADDRESS = re.compile(
    r"https?://(?:\[(?P<ipv6>[^]]+)\]|(?P<host>[\w.-]+))(?::(?P<port>[0-9]{1,5}))?(?:/[\w.~:@!$&'()*+,;=%/-]*)?",
    re.ASCII,
)
#: An address of four numbers, or what only the C library takes for one.
_NUMBERS = re.compile(r"(?:(?:0[xX][0-9a-fA-F]*|[0-9]+)\.?)+")


def _is_address(url: str) -> bool:
    """Can a provider be there? Nothing but scheme, host, port and path."""
    match = _ADDRESS.fullmatch(url)
    if match is None or not 0 < int(match["port"] or 1) < 65_536:
        return False
    if match["ipv6"] is None and not _NUMBERS.fullmatch(match["host"]):
        return True
    try:
        ipaddress.ip_address((match["ipv6"] or match["host"]).replace("%25", "%"))
    except ValueError:
        return False
    return True


def _check(settings: Settings) -> None:
    """What types cannot say."""
    _check_paths(settings)
    for name, networks in (
        ("http.trusted_proxies", settings.http.trusted_proxies),
        ("metrics.allowed_networks", settings.metrics.allowed_networks),
    ):
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as exc:
                raise SettingsError(f"{name}: {exc}") from exc
    url = settings.http.public_url
    if url and not re.fullmatch(r"https?://[^/?#@\s]+(/[^/?#\s]+)*", url):
        raise SettingsError("http.public_url: want http(s)://host[:port] without a slash at the end")
    try:
        markup = parse_usd(settings.billing.markup)
    except ValueError as exc:
        raise SettingsError(f"billing.markup: {exc}") from exc
    if not 0 <= markup <= parse_usd("1000"):
        raise SettingsError("billing.markup: want a decimal string from 0 to 1000")
    if 0 < settings.ledger.keep_s < LEAST_LEDGER_KEEP_S:
        raise SettingsError("ledger.keep_s: must not be below 5443200 (63 days, for budgets), except 0 to keep all")
    if settings.jobs.max_poll_s < settings.jobs.first_poll_s:
        raise SettingsError("jobs.max_poll_s: must not be below jobs.first_poll_s")
    for endpoint, rate in settings.limits.endpoint_per_minute.items():
        if not 0 <= rate <= MOST:
            raise SettingsError(f"limits.endpoint_per_minute.{endpoint}: want a number from 0 to {MOST}")
    for origin in settings.http.cors_origins:  # compared as they are with what browsers send
        if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+", origin):
            raise SettingsError(f"http.cors_origins: want scheme://host[:port] in lower case, not {origin!r}")
    for origin in settings.uploads.trusted_origins:
        if not re.fullmatch(r"https?://[^/?#@\s]+", origin) or not _is_address(origin):
            raise SettingsError(f"uploads.trusted_origins: want http(s)://host[:port], not {origin!r}")
    names = [provider.name for provider in settings.providers]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"providers: {name} stands there twice")
    for provider in settings.providers:
        if provider.kind and "default" not in provider.base_urls:
            raise SettingsError(f"providers.{provider.name}.base_urls: a further server needs `default`")
        for root, address in provider.base_urls.items():
            if not _is_address(address):
                raise SettingsError(
                    f"providers.{provider.name}.base_urls.{root}: want an address, http(s)://host[:port]/v1"
                )
        if provider.credential and not provider.credential.startswith(("env:", "file:", "credential:")):
            raise SettingsError(
                f"providers.{provider.name}.credential: want a reference (env:NAME, file:PATH or credential:NAME), "
                "never the secret itself"
            )
