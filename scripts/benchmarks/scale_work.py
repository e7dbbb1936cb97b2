"""What a call costs in a large installation: 100,000 keys, 5,000 models, 10 million rows of the ledger.

Calls come with keys and models drawn at random, other ones in every round. The small installation beside it has ten of
each. The large one's books take minutes to make and some four gigabytes, so that they are kept for the next run (in the
directory of ``--cache``), and used where they are: each run adds its own calls to them.

What a call costs is meant, not what it costs to begin: before the first round each server answers a round that does not
count, and is left alone until it has done what that made it do beside. Then the large one has read its keys into memory
(once in its life, 0.7 s of CPU) and has met most of its models. Rounds have other keys: nearly every call is the first
of its key for a long time, which is the worst that such an installation can meet. Lines of their own say what it costs
while a thousand of its keys call, as on a common day, and while only ten call, for ten models, as they do in the small
one: that is what the size of the books costs by itself.

Where a trial says that the books would take more time than the run can spare, a million rows have to do; ``--only
scale`` has more to spare. Quick runs take the large books if they are there, and else make some of a hundred thousand
rows.
"""

from __future__ import annotations

import fcntl
import hashlib
import random
import shutil
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bitmesh_proxy.storage.database import DATABASE_NAME
from scripts.benchmarks import big_books
from scripts.benchmarks.bench import OUR_CHAT, Bench, Work, chat_body, figures
from scripts.benchmarks.big_books import Size, fill, token
from scripts.benchmarks.loads import Target
from scripts.benchmarks.process_works import wait_for_answer
from scripts.benchmarks.processes import Missing, Server, cpu_s
from scripts.benchmarks.progress import say
from scripts.benchmarks.table import Bar, Row

LARGE = Size(keys=100_000, models=5_000, rows=10_000_000)
LARGE_SOONER = Size(keys=100_000, models=5_000, rows=1_000_000)
LARGE_QUICKLY = Size(keys=100_000, models=5_000, rows=100_000)
SMALL = Size(keys=10, models=10, rows=10)
#: What a row takes with its charge and its places in the indexes, and something over.
ROW_BYTES = 450
#: Keys that call on a common day.
ACTIVE_KEYS = 1_000
#: Keys that call, and models that are asked for, while all else lies still.
FEW = 10
#: The run that does not count.
WARM_S = 2.0
#: A server is idle that takes no more of a core than this share, for so long.
IDLE_S, IDLE_SHARE = 1.0, 0.05
#: Rows of the trial, and how much longer than there each of ten million takes, whose indexes are sorted on disk.
TRIAL_ROWS, TRIAL_FACTOR = 200_000, 1.3


def large_installation(bench: Bench) -> Work:
    """See the module's docstring. Raises Missing without the disk space, or when another run has the books."""
    size = _affordable(bench)
    amount = f"{size.keys:,} keys, {size.models:,} models, {size.rows / 1e6:g} M rows"
    cost = Row(work=f"{amount} ÷ with 10", unit="CPU us/answer", against="small", bars=[Bar(limit=1.1)])
    common = Row(work=f"the same while {ACTIVE_KEYS:,} keys call", unit="CPU us/answer", against="small")
    still = Row(work=f"the same while {FEW} keys call for {FEW} models", unit="CPU us/answer", against="small")
    began = Row(work=f"start with {amount}", unit="s", against="small")
    starts: dict[str, float] = {}
    servers = {}
    for name, each in (("us", size), ("small", SMALL)):
        servers[name], starts[name] = _running(bench, name, each)
    began.add(starts)
    chance = random.Random(4)  # noqa: S311 - any will do, and the same in every run
    seconds = 0.4 if bench.is_quick else 0.5
    options = ["-c", "64", "-d", str(seconds)]

    def target(name: str, server: str, of: Size, lasting_s: float = seconds) -> Target:
        """``of``: the keys and models that are called with."""
        url, pid = servers[server].url, servers[server].pid
        file = bench.directory / f"calls-{name}.bin"
        with file.open("wb") as output:
            output.writelines(calls(int(lasting_s * 12_000), of, url=url, chance=chance))
        return Target(name=name, url=url, path=OUR_CHAT, pid=pid, requests_file=file)

    ways = [
        ("us", "us", size),
        ("small", "small", SMALL),
        ("active", "us", replace(size, keys=ACTIVE_KEYS)),
        ("few", "us", replace(size, keys=FEW, models=FEW)),
    ]

    def measure(number: int) -> None:
        for turn in bench.turns(number):
            targets = [target(*way) for way in ways]
            found = figures(bench.round(targets, options, turn), lambda run: run.cpu_us_per_answer)
            cost.add({"us": found["us"], "small": found["small"]})
            common.add({"us": found["active"], "small": found["small"]})
            still.add({"us": found["few"], "small": found["small"]})

    for way in ways:
        bench.run(target(*way, WARM_S), ["-c", "64", "-d", str(WARM_S)])
    for server in servers.values():
        wait_until_idle(server)
    return Work(name="scale", rows=[cost, common, still, began], measure=measure)


def wait_until_idle(server: Server, *, most_s: float = 20.0) -> None:
    """Until the server has taken nearly no CPU for a while: what goes on behind answers is done."""
    end_s, used_s = time.monotonic() + most_s, cpu_s(server.pid)
    while time.monotonic() < end_s:
        time.sleep(IDLE_S)
        before_s, used_s = used_s, cpu_s(server.pid)
        if used_s - before_s < IDLE_S * IDLE_SHARE:
            return


def calls(count: int, size: Size, *, url: str, chance: random.Random) -> Iterator[bytes]:
    """Whole requests, each behind its length (``load --requests``), with keys and models drawn from the first ones."""
    host, models = url.removeprefix("http://"), size.model_names()
    for _ in range(count):
        body, bearer = chat_body(model=chance.choice(models)), token(chance.randint(1, size.keys))
        request = (
            f"POST {OUR_CHAT} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {bearer}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        yield struct.pack(">I", len(request)) + request


def _running(bench: Bench, name: str, size: Size) -> tuple[Server, float]:
    """A server on books of that size, and how long it took from its start to its first answer.

    It is the second start: the first one after a change of the catalogue reads all models anew and keeps what it read.
    """
    installation = bench.installations.make(
        f"scale-{name}", data_dir=_books(bench, size) / "data", models=size.model_names()
    )
    with installation.running():
        pass
    began_s = time.monotonic()
    server = installation.spawn()
    bench.stack.callback(server.stop)
    wait_for_answer(server, since_s=began_s)
    return server, time.monotonic() - began_s


def _affordable(bench: Bench) -> Size:
    """How large the books can be that this run has time for."""
    if _place(bench.cache, LARGE).is_dir():
        return LARGE
    if bench.is_quick:
        return LARGE_QUICKLY
    data_dir = bench.installations.copy_data(bench.directory / "trial")
    began_s = time.monotonic()
    fill(data_dir / DATABASE_NAME, Size(keys=10, models=10, rows=TRIAL_ROWS))
    wanted_s = (time.monotonic() - began_s) * LARGE.rows / TRIAL_ROWS * TRIAL_FACTOR
    shutil.rmtree(data_dir)
    if wanted_s <= bench.spare_s:
        return LARGE
    say(f"Books of {LARGE.rows:,} rows would take {wanted_s:.0f} s to make: `scripts/bench --only scale` makes them.")
    return LARGE_SOONER


def _books(bench: Bench, size: Size) -> Path:
    """Books of that size, made if they are not there, and nobody else's until the run ends."""
    place = _place(bench.cache, size)
    of_this_size = place.stem.rsplit("-", 1)[0]
    _lock(bench.cache / f"{of_this_size}.lock", bench.stack)
    if place.is_dir():
        return place
    free = shutil.disk_usage(bench.cache).free
    if free < size.rows * ROW_BYTES * 1.25:
        raise Missing(
            f"books of {size.rows:,} rows need {size.rows * ROW_BYTES >> 20:,} MiB of disk; {free >> 20:,} are free"
        )
    for old in bench.cache.glob(f"{of_this_size}-*.books*"):
        shutil.rmtree(old)  # made in another way, or half made
    say(f"Making books of {size.rows:,} rows for this and later runs, in {bench.cache} …")
    began_s = time.monotonic()
    making = place.with_suffix(".books-in-making")
    making.mkdir()
    data_dir = bench.installations.copy_data(making / "data")
    fill(data_dir / DATABASE_NAME, size)
    making.rename(place)
    say(f"… made in {time.monotonic() - began_s:.0f} s")
    return place


def _place(cache: Path, size: Size) -> Path:
    """Where books of that size are kept, as long as the way they are made is the same. The program migrates them."""
    digest = hashlib.sha256(Path(big_books.__file__).read_bytes()).hexdigest()[:12]
    return cache / f"{size.keys}-{size.models}-{size.rows}-{digest}.books"


def _lock(path: Path, stack: ExitStack) -> None:
    file = stack.enter_context(path.open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Missing(f"another run of the benchmark uses these books ({path})") from None
