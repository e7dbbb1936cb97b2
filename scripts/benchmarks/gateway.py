"""bitmesh-proxy as it runs in production, with everything on, in front of the mock provider.

Keys, limits (high, but counted), balances, reservations, the ledger and its durability are all there; the access log
is off. Each installation has a data directory of its own, a copy of one that the command line has made.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitmesh_proxy.settings import Http
from bitmesh_proxy.storage.database import DATABASE_NAME
from scripts.benchmarks.processes import Cores, Server, free_port, spawn

CHAT_MODEL = "bench/chat"
IMAGE_MODEL = "bench/image"
#: With 10 million rows and 5,000 models a start takes longer than one with none.
PATIENCE_S = 120.0

_CHAT_MODEL = """
[[model]]
id = "{id}"
operation = "chat"
context_tokens = 131_072
max_output_tokens = 4_096

[[offer]]
model = "{id}"
provider = "bench"
upstream_model = "{id}"
usd_per_million_input_tokens = "0.15"
usd_per_million_output_tokens = "0.60"
tools = true
"""

_IMAGE_MODEL = """
[[model]]
id = "bench/image"
operation = "image"

[[offer]]
model = "bench/image"
provider = "bench"
upstream_model = "mock-image"
usd_per_image = "0.01"
max_count = 4
"""

_SETTINGS = """
[data]
dir = {data_dir}

[limits]
address_per_minute = 100_000_000
address_burst = 10_000_000
key_per_minute = 100_000_000
key_burst = 10_000_000
key_max_concurrent = 20_000
endpoint_per_minute = {{ chat = 100_000_000 }}

[auth]
max_nonces = 10_000_000

[media]
cache_bytes = {cache_bytes}

{http}
[sandbox]
mode = "{sandbox}"

[catalogue]
extra_dirs = [{catalogue_dir}]

[logging]
level = "warning"
access_log = false

[[providers]]
name = "bench"
kind = "openai_compatible"
base_urls = {{ default = "{upstream_url}/v1" }}
credential = "env:BENCH_PROVIDER_KEY"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A key, as ``key create --json`` prints it."""

    token: str
    consumer_key: str
    consumer_secret: str

    @property
    def bearer(self) -> str:
        """The header of a call with the token."""
        return f"Authorization: Bearer {self.token}"


class Installation:
    """Settings, catalogue, and a data directory with an account and a key; ``running`` starts a server on it."""

    def __init__(
        self, *, config: Path, data_dir: Path, key: Credentials, on: Sequence[int], certificate: Path | None = None
    ) -> None:
        self.key = key
        self._certificate = certificate
        #: The file of the books.
        self.database = data_dir / DATABASE_NAME
        self._config = config
        self._on = on

    @contextmanager
    def running(self) -> Iterator[Server]:
        """The server, ready to take calls, until the block is left."""
        server = self.spawn()
        try:
            server.wait_ready(PATIENCE_S)
            yield server
        finally:
            server.stop()

    def spawn(self) -> Server:
        """Start a server without waiting for it; whoever calls this ends it."""
        port = free_port()
        command = [*_program(self._config), "serve", "--port", str(port)]
        log = self._config.with_name("serve.log")
        environ = dict(_environ())
        if self._certificate is not None:
            environ["SSL_CERT_FILE"] = str(self._certificate)
        return spawn("bitmesh-proxy", command, port, on=self._on, log=log, environ=environ)


class Installations:
    """Makes them, all in front of one provider, from one data directory that the command line sets up at first."""

    def __init__(self, directory: Path, upstream: Server, cores: Cores) -> None:
        self._directory = directory
        self._upstream = upstream
        self._cores = cores
        self._origin = directory / "origin"
        config = self._configure(self._origin, self._origin / "data")
        _run(config, "account", "create", "bench", "--credit", "1000000", "--json")
        made = _run(config, "key", "create", "--name", "bench", "--json")
        self.key = Credentials(
            token=made["token"], consumer_key=made["consumer_key"], consumer_secret=made["consumer_secret"]
        )

    def copy_data(self, to: Path) -> Path:
        """A data directory like the first, which has an account with a million dollars and one key."""
        return Path(shutil.copytree(self._origin / "data", to))

    def make(
        self,
        name: str,
        *,
        data_dir: Path | None = None,
        sandbox: bool = False,
        cache_bytes: int = 0,
        workers: int | None = None,
        models: Sequence[str] = (CHAT_MODEL,),
        upstream_url: str | None = None,
        certificate: Path | None = None,
    ) -> Installation:
        """An installation, with a copy of the first data directory unless there is one for it.

        ``sandbox``: results on a loopback port are fetched by a gateway with the sandbox only. With ``workers``
        processes it may use both cores. ``upstream_url``: the provider, where it is reached in another way, and the
        ``certificate`` that it is trusted by.
        """
        place = self._directory / name
        config = self._configure(
            place,
            data_dir or self.copy_data(place / "data"),
            sandbox=sandbox,
            cache_bytes=cache_bytes,
            workers=workers,
            models=models,
            upstream_url=upstream_url,
        )
        on = [self._cores.measured] if workers is None else self._cores.both
        data_dir = data_dir or place / "data"
        return Installation(config=config, data_dir=data_dir, key=self.key, on=on, certificate=certificate)

    def _configure(
        self,
        place: Path,
        data_dir: Path,
        *,
        sandbox: bool = False,
        cache_bytes: int = 0,
        workers: int | None = None,
        models: Sequence[str] = (CHAT_MODEL,),
        upstream_url: str | None = None,
    ) -> Path:
        catalogue = place / "catalogue"
        catalogue.mkdir(parents=True)
        rows = "".join(_CHAT_MODEL.format(id=model) for model in models)
        (catalogue / "bench.toml").write_text(rows + _IMAGE_MODEL, encoding="utf-8")
        config = place / "bitmesh-proxy.toml"
        config.write_text(
            _SETTINGS.format(
                data_dir=json.dumps(str(data_dir)),
                catalogue_dir=json.dumps(str(catalogue)),
                upstream_url=upstream_url or self._upstream.url,
                sandbox="on" if sandbox else "off",
                cache_bytes=cache_bytes,
                http="" if workers in (None, 1) else f"[http]\nworkers = {workers}\n",
            ),
            encoding="utf-8",
        )
        return config


def can_have_workers() -> bool:
    """Does the program know the setting for more than one process?"""
    return "workers" in Http.__struct_fields__


def _program(config: Path) -> list[str]:
    return [sys.executable, "-m", "bitmesh_proxy", "--config", str(config)]


def _environ() -> Mapping[str, str]:
    return {**os.environ, "BENCH_PROVIDER_KEY": "bench"}


def _run(config: Path, *arguments: str) -> Mapping[str, Any]:
    ran = subprocess.run([*_program(config), *arguments], capture_output=True, text=True, env=_environ(), check=False)
    if ran.returncode:
        raise RuntimeError(f"bitmesh-proxy {' '.join(arguments)}: {ran.stderr.strip()[:500]}")
    said: Mapping[str, Any] = json.loads(ran.stdout)
    return said
