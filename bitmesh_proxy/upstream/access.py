"""How each provider is reached: its configured addresses and credential, joined to its data.

Addresses and credentials come from the configuration only; no field of a request can change where a request goes or
which key it carries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

from msgspec.structs import replace

from bitmesh_proxy.calls import MediaOutput
from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.discreet import Discreet
from bitmesh_proxy.providers import PROVIDERS, openai_compatible
from bitmesh_proxy.providers.base import Provider
from bitmesh_proxy.settings import ProviderSettings, Settings, SettingsError, resolve_credential

#: What the sandbox takes for a key. No secret: the sandbox takes any.
SANDBOX_CREDENTIAL = "sandbox"


class ProviderAccess(Discreet, frozen=True, kw_only=True):
    """One reachable provider. ``auth_headers`` carry the credential and stay out of ``repr``."""

    unshown: ClassVar[frozenset[str]] = frozenset({"auth_headers"})

    provider: Provider
    roots: Mapping[str, str]
    auth_headers: Mapping[str, str]
    max_concurrent: int = 0
    is_sandbox: bool = False

    @property
    def name(self) -> str:
        """The provider's name."""
        return self.provider.name

    def url(self, request: UpstreamRequest) -> str:
        """The absolute address of a request (without its query)."""
        return self.roots[request.root] + request.path

    def locate(self, outputs: Sequence[MediaOutput]) -> tuple[MediaOutput, ...]:
        """The same results, with those that have only a path at the provider under their configured address."""
        return tuple(
            output if output.path is None else replace(output, url=self.roots["default"] + output.path, path=None)
            for output in outputs
        )


def configured_access(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, ProviderAccess]:
    """Every provider that has a credential (or needs none), by name. Raises SettingsError for an unknown name."""
    env = os.environ if environ is None else environ
    by_name = {entry.name: entry for entry in settings.providers}
    known = {provider.name: provider for provider in PROVIDERS}
    access: dict[str, ProviderAccess] = {}
    for provider in PROVIDERS:
        entry = by_name.pop(provider.name, None)
        if entry is not None and entry.takes_reported_cost:
            raise SettingsError(
                f"providers.{provider.name}.takes_reported_cost: only for a further server "
                '(`kind = "openai_compatible"`)'
            )
        if entry is not None and not entry.enabled:
            continue
        reference = entry.credential if entry and entry.credential else f"env:{provider.credential_env}"
        secret = resolve_credential(reference, env)
        if not secret and entry is None:
            secret = resolve_credential(f"credential:providers_{provider.name}", env)
        if secret:
            access[provider.name] = _access(provider, entry, secret)
    for entry in by_name.values():
        if entry.kind != "openai_compatible":
            names = ", ".join(sorted(known))
            raise SettingsError(
                f"providers.{entry.name}: unknown provider (known: {names}); "
                'a further server needs `kind = "openai_compatible"`'
            )
        if entry.enabled:
            access[entry.name] = _access(_compatible(entry), entry, resolve_credential(entry.credential or "env:", env))
    return access


def missing_credentials(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which providers' credentials are not where the settings say, in words. Raises SettingsError as a start does."""
    return {
        entry.name: f"there is nothing at {entry.credential}, where the settings say that its credential is"
        for entry in settings.providers
        if entry.enabled and entry.credential and not resolve_credential(entry.credential, environ)
    }


def sandbox_access(settings: Settings, sandbox_url: str) -> dict[str, ProviderAccess]:
    """Every known provider, played by the sandbox at ``sandbox_url``. Further servers keep their own address."""
    access = {
        provider.name: ProviderAccess(
            provider=provider,
            roots={name: _sandbox_root(sandbox_url, provider.name, url) for name, url in provider.roots.items()},
            auth_headers=provider.auth(SANDBOX_CREDENTIAL),
            is_sandbox=True,
        )
        for provider in PROVIDERS
    }
    for entry in settings.providers:
        if entry.kind and entry.enabled:
            secret = resolve_credential(entry.credential or "env:")
            access[entry.name] = _access(_compatible(entry), entry, secret)
    return access


def provider_names(settings: Settings) -> Sequence[str]:
    """Names that an offer may use: every known provider, and every configured further server."""
    return [provider.name for provider in PROVIDERS] + [entry.name for entry in settings.providers if entry.kind]


def _compatible(entry: ProviderSettings) -> Provider:
    try:
        return openai_compatible.make(
            entry.name,
            title=entry.title or entry.name,
            base_urls=entry.base_urls,
            reads_cost=entry.takes_reported_cost,
        )
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc


def _access(provider: Provider, entry: ProviderSettings | None, secret: str) -> ProviderAccess:
    roots = dict(provider.roots)
    for name, url in (entry.base_urls if entry else {}).items():
        if name not in roots:
            raise SettingsError(
                f"providers.{provider.name}.base_urls: no root {name!r} (has: {', '.join(sorted(roots))})"
            )
        if not url.startswith(("http://", "https://")):
            raise SettingsError(f"providers.{provider.name}.base_urls.{name}: want http(s)://…")
        roots[name] = url.rstrip("/")
    return ProviderAccess(
        provider=provider,
        roots=roots,
        auth_headers=provider.auth(secret) if secret else {},
        max_concurrent=entry.max_concurrent if entry else 0,
    )


def _sandbox_root(sandbox_url: str, name: str, real_url: str) -> str:
    """``https://api.together.ai/v2`` → ``{sandbox}/together/v2``: the sandbox keeps every provider's own paths."""
    path = real_url.split("://", 1)[1].partition("/")[2]
    return f"{sandbox_url}/{name}/{path}".rstrip("/")
