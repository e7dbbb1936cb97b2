"""bitmesh-proxy as it runs in production, with everything on, in front of the mock provider.

Keys, limits (high, but counted), balances, reservations, the ledger and its durability are all there; the access log
is off. Each instance has a data directory of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmarks.processes import Cores, Server, free_port, spawn

CHAT_MODEL = "bench/chat"
IMAGE_MODEL = "bench/image"

_CATALOGUE = """
[[model]]
id = "bench/chat"
operation = "chat"
context_tokens = 131_072
max_output_tokens = 4_096

[[offer]]
model = "bench/chat"
provider = "bench"
upstream_model = "mock"
usd_per_million_input_tokens = "0.15"
usd_per_million_output_tokens = "0.60"
tools = true

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
    """A data directory with settings, catalogue, account and key; ``running`` starts a server on it."""

    def __init__(self, directory: Path, upstream: Server, cores: Cores, *, for_media: bool, is_caching: bool) -> None:
        self.directory = directory
        self._cores = cores
        self._environ = {**os.environ, "BENCH_PROVIDER_KEY": "bench"}
        self._config = directory / "bitmesh-proxy.toml"
        directory.mkdir(parents=True)
        (directory / "catalogue").mkdir()
        (directory / "catalogue" / "bench.toml").write_text(_CATALOGUE, encoding="utf-8")
        self._config.write_text(
            _SETTINGS.format(
                data_dir=json.dumps(str(directory / "data")),
                catalogue_dir=json.dumps(str(directory / "catalogue")),
                upstream_url=upstream.url,
                # Results on a loopback port are fetched by a gateway with the sandbox only.
                sandbox="on" if for_media else "off",
                cache_bytes=4 << 30 if is_caching else 0,
            ),
            encoding="utf-8",
        )
        self._cli("account", "create", "bench", "--credit", "1000000", "--json")
        made = self._cli("key", "create", "--name", "bench", "--json")
        self.key = Credentials(
            token=made["token"], consumer_key=made["consumer_key"], consumer_secret=made["consumer_secret"]
        )

    @property
    def database(self) -> Path:
        """The file of the books."""
        return self.directory / "data" / "bitmesh-proxy.db"

    @contextmanager
    def running(self) -> Iterator[Server]:
        """The server, ready to take calls, until the block is left."""
        server = self.spawn()
        try:
            server.wait_ready()
            yield server
        finally:
            server.stop()

    def spawn(self) -> Server:
        """Start a server without waiting for it; whoever calls this ends it."""
        port = free_port()
        command = [sys.executable, "-m", "bitmesh_proxy", "--config", str(self._config), "serve", "--port", str(port)]
        return spawn(
            "bitmesh-proxy",
            command,
            port,
            core=self._cores.measured,
            log=self.directory / "serve.log",
            environ=self._environ,
        )

    def _cli(self, *arguments: str) -> Mapping[str, Any]:
        command = [sys.executable, "-m", "bitmesh_proxy", "--config", str(self._config), *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, env=self._environ, check=False)
        if ran.returncode:
            raise RuntimeError(f"bitmesh-proxy {' '.join(arguments)}: {ran.stderr.strip()[:500]}")
        said: Mapping[str, Any] = json.loads(ran.stdout)
        return said
