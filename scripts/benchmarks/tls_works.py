"""A provider behind TLS, as all real ones are: what that costs us, and what it costs nginx.

Another nginx on the load's core speaks TLS in front of the mock provider: on one port it keeps connections, on another
it closes each after its answer, so that every call needs a new one (nginx and we take sessions up again there). Its
certificate signs itself and is made for the run. With a real provider's chain of certificates a handshake that takes no
session up costs some 0.4 ms more than here.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from scripts.benchmarks.bench import OUR_CHAT, THEIR_CHAT, Bench, Work, chat_body, figures
from scripts.benchmarks.chat_works import INTERVAL_MS
from scripts.benchmarks.loads import Target
from scripts.benchmarks.processes import Missing, nginx
from scripts.benchmarks.table import Row

CHUNKS = 100
STREAMS = 100


def provider_over_tls(bench: Bench) -> Work:
    """Whole answers and streams over TLS, and whole answers each on a new connection. Raises Missing without nginx or
    openssl."""
    whole = Row(work="chat, 1 KB JSON, provider over TLS", unit="CPU us/answer")
    fresh = Row(work="the same, each on a new connection", unit="CPU us/answer")
    chunk = Row(work=f"chat SSE, {STREAMS} streams, provider over TLS", unit="CPU us/chunk")
    kept, closed = _targets(bench, is_kept=True), _targets(bench, is_kept=False)
    seconds = "0.5" if bench.is_quick else "0.8"
    chunks = CHUNKS // 2 if bench.is_quick else CHUNKS
    stream = chat_body(stream=True, mock=f"chunks={chunks},interval={INTERVAL_MS}")
    lasting_s = chunks * INTERVAL_MS / 1000
    once = ["-c", str(STREAMS), "-d", str(lasting_s + 2), "--once", "--ramp", "200", "--settle", str(lasting_s)]

    def measure(number: int) -> None:
        for row, targets, options in (
            (whole, kept, ["-c", "64", "-d", seconds, "-w", "0.3"]),
            (fresh, closed, ["-c", "16", "-d", seconds, "-w", "0.3"]),
        ):
            runs = bench.round([replace(each, body=chat_body()) for each in targets], options, number)
            row.add(figures(runs, lambda run: run.cpu_us_per_answer))
        runs = bench.round([replace(each, body=stream) for each in kept], once, number)
        chunk.add(figures(runs, lambda run: run.cpu_us_per_event))

    return Work(name="tls", rows=[whole, fresh, chunk], measure=measure)


def _targets(bench: Bench, *, is_kept: bool) -> list[Target]:
    """nginx and us, in front of a provider that keeps connections or closes each."""
    name = "tls-kept" if is_kept else "tls-closed"
    place = bench.directory / name
    certificate, key = make_certificate(place)
    provider = bench.stack.enter_context(
        nginx(
            place / "provider",
            bench.upstream,
            on=bench.cores.load,
            ssl=" ssl",
            server=f"ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;"
            + ("" if is_kept else " keepalive_timeout 0;"),
        )
    )
    yardstick = bench.stack.enter_context(
        nginx(
            place / "nginx",
            provider,
            on=bench.cores.measured,
            scheme="https",
            proxy=f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {certificate}; proxy_ssl_name localhost;"
            " proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;",
        )
    )
    url = provider.url.replace("http://127.0.0.1", "https://localhost")
    ours = bench.installations.make(name, upstream_url=url, certificate=certificate)
    server = bench.stack.enter_context(ours.running())
    targets = [
        Target(name="nginx", url=yardstick.url, path=THEIR_CHAT, pid=yardstick.pid),
        bench.us(OUR_CHAT, server=server),
    ]
    return [replace(each, helper_pid=provider.pid) for each in targets]


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key. Raises Missing without the openssl program."""
    program = shutil.which("openssl")
    if program is None:
        raise Missing("openssl is not installed: it makes the certificate of the provider behind TLS.")
    directory.mkdir(parents=True, exist_ok=True)
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise Missing(f"openssl made no certificate: {made.stderr.strip()[-300:]}")
    return certificate, key
