"""Other gateways, measured in the same rounds as we are, each in front of the same provider.

A peer is named (``litellm``, ``portkey``) and started here, on the core that nginx and we have; or it is given as
``NAME=http://127.0.0.1:PORT``, runs already, wherever its user has put it, and answers from the provider at the port of
``--upstream-port``. Its CPU time is that of the process that listens on its port, with all its children.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from scripts.benchmarks.processes import HERE, Cores, Missing, Server, free_port, listening_pid, started

#: Beside ours a start takes long: ten seconds, and a minute the first time.
PATIENCE_S = 180.0
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A gateway that runs. ``bar`` is the share of its CPU time that we want to take at most; 0: none is set."""

    name: str
    title: str
    url: str
    pid: int
    path: str = CHAT
    model: str = "gpt-4o-mini"
    headers: Sequence[str] = ()
    bar: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What ``peers/NAME.sh`` installs and starts. ``{upstream}`` in a header is the provider's address."""

    title: str
    bar: float
    model: str
    headers: Sequence[str]


KNOWN: Mapping[str, Known] = {
    "litellm": Known(title="LiteLLM", bar=1 / 100, model="gpt-4o-mini", headers=["Authorization: Bearer sk-bench"]),
    "portkey": Known(
        title="Portkey",
        bar=1 / 15,
        model="gpt-4o-mini",
        headers=[
            "Authorization: Bearer sk-bench",
            "x-portkey-provider: openai",
            "x-portkey-custom-host: {upstream}/v1",
        ],
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A peer as the command line names it; without a ``url`` it is started here."""

    name: str
    url: str = ""
    path: str = CHAT
    model: str = ""
    headers: Sequence[str] = ()
    pid: int | None = None


def parse_peers(
    given: Sequence[str],
    *,
    paths: Sequence[str] = (),
    models: Sequence[str] = (),
    headers: Sequence[str] = (),
    pids: Sequence[str] = (),
) -> list[Wanted]:
    """What ``--peer`` and its company ask for. Raises ValueError with words for the user."""
    urls: dict[str, str] = {}
    for each in given:
        name, _, url = each.rpartition("=") if "://" in each else (each, "", "")
        name = name or "peer"
        if name in urls:
            raise ValueError(f"--peer: {name} is there twice")
        if url and (urlsplit(url).scheme != "http" or urlsplit(url).hostname != "127.0.0.1"):
            raise ValueError(f"--peer: want {name}=http://127.0.0.1:PORT")
        if not url and name not in KNOWN:
            raise ValueError(f"--peer: {name} is not known here ({', '.join(KNOWN)} are): want {name}=URL")
        urls[name] = url.rstrip("/")
    if {"us", "nginx", "direct"} & urls.keys():
        raise ValueError("--peer: us, nginx and direct are there already")
    given_values = {"path": paths, "model": models, "header": headers, "pid": pids}
    by_name = {option: _named(values, urls, option) for option, values in given_values.items()}
    return [
        Wanted(
            name=name,
            url=url,
            path=_last(by_name["path"].get(name)) or CHAT,
            model=_last(by_name["model"].get(name)),
            headers=by_name["header"].get(name, ()),
            pid=int(_last(by_name["pid"].get(name)) or 0) or None,
        )
        for name, url in urls.items()
    ]


def _named(values: Sequence[str], names: Mapping[str, str], option: str) -> dict[str, list[str]]:
    """``NAME=VALUE`` by name; with a single peer its name may be left out."""
    found: dict[str, list[str]] = {}
    for each in values:
        name, equals, value = each.partition("=")
        if not equals or name not in names:
            if len(names) != 1:
                raise ValueError(f"--peer-{option}: want NAME=…, with the name of a peer")
            name, value = next(iter(names)), each
        found.setdefault(name, []).append(value)
    return found


def _last(values: Sequence[str] | None) -> str:
    return values[-1] if values else ""


def open_peer(wanted: Wanted, *, upstream: Server, cores: Cores, installed: Path, logs: Path, stack: ExitStack) -> Peer:
    """The peer, running: found, or started until ``stack`` is closed. Raises Missing when it cannot be had."""
    known = KNOWN.get(wanted.name)
    if wanted.url:
        url = wanted.url
        pid = wanted.pid or listening_pid(urlsplit(url).port or 80)
        if pid is None:
            raise Missing(f"{wanted.name}: nothing of this user listens at {url}. Is it running? Else give --peer-pid.")
    else:
        starting = _start(wanted.name, upstream=upstream, cores=cores, installed=installed, logs=logs)
        server = stack.enter_context(starting)
        url, pid = server.url, server.pid
    given = {header.partition(":")[0].lower() for header in wanted.headers}
    usual = [header.format(upstream=upstream.url) for header in known.headers] if known else []
    headers = [header for header in usual if header.partition(":")[0].lower() not in given]
    return Peer(
        name=wanted.name,
        title=known.title if known else wanted.name,
        url=url,
        pid=pid,
        path=wanted.path,
        model=wanted.model or (known.model if known else "gpt-4o-mini"),
        headers=[*headers, *wanted.headers],
        bar=known.bar if known else 0.0,
    )


def _start(name: str, *, upstream: Server, cores: Cores, installed: Path, logs: Path) -> AbstractContextManager[Server]:
    starter, place, port = HERE / "peers" / f"{name}.sh", installed / name, free_port()
    if not place.is_dir():
        raise Missing(f"{name} is not installed. Once: {starter} install {place}")
    command = [str(starter), "start", str(place), str(port), upstream.url]
    log = logs / f"{name}.log"
    return started(name, command, port, on=[cores.measured], log=log, patience_s=PATIENCE_S)
