"""``sandbox``: the providers' stand-in by itself."""

from __future__ import annotations

import asyncio
import signal

import click

from bitmesh_proxy.cli.options import fail


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=3900,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--token-interval-ms", default=15, show_default=True, type=click.IntRange(0), help="Milliseconds between tokens."
)
@click.option(
    "--job-duration-s", default=6.0, show_default=True, type=click.FloatRange(0), help="Seconds that a clip takes."
)
def sandbox(host: str, port: int, token_interval_ms: int, job_duration_s: float) -> None:
    """Play the providers' HTTP APIs, without a gateway. Until SIGTERM or Ctrl-C."""
    asyncio.run(_run(host, port, token_interval_ms=token_interval_ms, job_duration_s=job_duration_s))


async def _run(host: str, port: int, *, token_interval_ms: int, job_duration_s: float) -> None:
    from bitmesh_proxy.sandbox.registry import PLAYS
    from bitmesh_proxy.sandbox.server import Sandbox
    from bitmesh_proxy.sandbox.stage import Options
    from bitmesh_proxy.settings import Sandbox as SandboxSettings

    defaults = SandboxSettings()
    options = Options(
        token_interval_s=token_interval_ms / 1000,
        job_duration_s=job_duration_s,
        max_movie_frames=defaults.max_clip_frames,
        max_movie_pixels=defaults.max_clip_pixels,
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with Sandbox(host=host, port=port, options=options) as running:
            click.echo(f"The sandbox listens on {running.url}. It plays:")
            for play in PLAYS:
                click.echo(f"  {play.name:<12} {running.url}/{play.name}")
            await stop.wait()
    except UnicodeError:
        fail(f"cannot listen on {host}:{port}: that is no name of a host")
    except OSError as exc:
        fail(f"cannot listen on {host}:{port}: {exc.strerror or exc}")
