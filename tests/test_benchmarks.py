"""The parts of ``scripts/bench`` that read, reckon and order. What it measures is no test: machines differ."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import os
import random
import shutil
import socket
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.parse import quote

import pytest

from bitmesh_proxy.catalogue.loader import catalogue_dirs, load_catalogue
from bitmesh_proxy.context import Caller
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import DATABASE_NAME, Database
from bitmesh_proxy.storage.key_directory import KeyDirectory
from bitmesh_proxy.storage.keys import KeySpec, KeyStore
from bitmesh_proxy.storage.verification import verify_books
from bitmesh_proxy.upstream.access import provider_names
from scripts.benchmarks.__main__ import NAMES, arguments, verdict
from scripts.benchmarks.bench import QUICK_TURNS, TURNS, Bench, Work, chat_body, in_turn
from scripts.benchmarks.big_books import Size, fill, token
from scripts.benchmarks.gateway import Credentials, Installations
from scripts.benchmarks.ledger_work import CALL, WRITE, added_buckets, is_steady, quantile, read_buckets
from scripts.benchmarks.loads import Run, Target, parse_output, run_load
from scripts.benchmarks.peer_gateways import CHAT, KNOWN, Peer, Wanted, open_peer, parse_peers
from scripts.benchmarks.processes import (
    HERE,
    Cores,
    Missing,
    Server,
    Tools,
    build,
    busy_s,
    cpu_s,
    free_port,
    listening_pid,
    mock_provider,
    stolen_share,
)
from scripts.benchmarks.scale_work import calls
from scripts.benchmarks.schedule import measure_all
from scripts.benchmarks.signing import signed_requests
from scripts.benchmarks.table import Bar, Row, figure, half_spread_percent, render
from tests.hand_clock import HandClock

#: What ``load`` prints, shortened.
OUTPUT = (
    '{"url":"http://127.0.0.1:1/","conns":4,"secs":1.0,"done":90,"rps":90.0,"errors":1,"non2xx":2,"s2":98,"s4":2,"s5":0,'
    '"unsent":7,"mbps":0.1,"bytes":2000000,"reads":99,"events":50,"load_cpu":0.01,'
    '"lat":{"n":90,"p50":1.5,"p99":3.25},"ttfb":{"p50":0.5},"chunk":{"p99":12.0}}'
)


def run_of(*, answers: int = 0, answers_per_s: float = 0, unsent: int = 0, cpu: float | None = None) -> Run:
    return Run(
        answers=answers, failures=0, answers_per_s=answers_per_s, megabytes_per_s=0, megabytes=2.0, events=0,
        unsent=unsent, cpu_s=cpu,
    )  # fmt: skip


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    """The compiled load generator, and the mock provider, running."""
    if not shutil.which("taskset"):
        pytest.skip("needs taskset")
    directory = tmp_path_factory.mktemp("tools")
    try:
        tools = build(directory)
    except Missing as missing:
        pytest.skip(str(missing))
    assert build(directory) == tools
    with mock_provider(tools.upstream, directory, Cores.pick()) as server:
        assert listening_pid(int(server.url.rsplit(":", 1)[1])) == server.pid
        yield tools.load, server


# ------------------------------------------------------------ runs


def test_what_the_load_prints_is_read() -> None:
    run = parse_output(OUTPUT)
    assert (run.answers, run.failures, run.events, run.megabytes, run.unsent) == (98, 3, 50, 2.0, 7)
    assert (run.latency_ms["p99"], run.first_byte_ms["p50"], run.lateness_ms["p99"]) == (3.25, 0.5, 12.0)
    assert run.cpu_us_per_answer is None  # nobody's CPU time was taken


def test_cpu_time_is_shared_out() -> None:
    run = run_of(answers=4, cpu=0.001)
    assert run.cpu_us_per_answer == pytest.approx(250)
    assert run.cpu_us_per_megabyte == pytest.approx(500)
    assert run.cpu_us_per_event is None


# ------------------------------------------------------------ the table


def test_ratios_are_taken_within_a_round() -> None:
    row = Row(work="w", unit="u")
    row.add({"direct": None, "nginx": 10.0, "us": 30.0})
    row.add({"nginx": 100.0, "us": 200.0})  # a busy round: ten times slower, for both
    row.add({"nginx": 10.0, "us": 40.0})
    assert row.ratios() == [3.0, 2.0, 4.0]
    assert row.ratio == 3.0
    assert row.median("us") == 40.0
    assert row.median("direct") is None


def test_a_difference_is_one() -> None:
    row = Row(work="w", unit="ms", against="direct", is_difference=True, bars=[Bar(limit=2)])
    row.add({"direct": 1.0, "us": 3.5})
    assert row.ratio == 2.5
    assert row.cells()[6:] == ("+2.50", "", "<= +2", "no")
    assert row.missed_by == pytest.approx(0.25)


def test_without_a_yardstick_there_is_no_ratio() -> None:
    row = Row(work="w", unit="u", bars=[Bar(limit=7)])
    row.add({"us": 5.0})
    row.add({"us": 5.0})
    assert row.ratio is None
    assert row.is_met is None
    assert row.noise_percent == 0
    assert row.cells() == ("w", "u", "", "", "5.00", "", "", "0 %", "<= 7", "")


def test_a_bar_that_is_just_reached_is_met() -> None:
    row = Row(work="w", unit="u", against="peer", bars=[Bar(limit=1 / 100)])
    row.add({"us": 1.0, "peer": 100.0})
    assert row.is_met
    assert row.cells()[5:] == ("peer 100", "1/100", "", "<= 1/100", "yes")


def test_what_is_to_be_large_is_missed_from_below() -> None:
    assert Bar(limit=1, is_least=True).missed_by(1.5) == 0
    assert Bar(limit=1, is_least=True).missed_by(0.75) == pytest.approx(0.25)
    assert Bar(limit=0, of="us").missed_by(0) == 0
    assert Bar(limit=0, of="us").missed_by(1) == math.inf


@pytest.mark.parametrize(
    ("nginx", "us", "met"), [(10.0, 30.0, True), (2.0, 30.0, False), (20.0, 60.0, False), (None, 30.0, None),
                             (None, 60.0, False)]
)  # fmt: skip
def test_of_two_bars_both_have_to_be_met(nginx: float | None, us: float, met: bool | None) -> None:
    row = Row(work="w", unit="ms", bars=[Bar(limit=3.5), Bar(limit=50, of="us")])
    row.add({"nginx": nginx, "us": us})
    assert row.bar_text() == "<= 3.5 and us <= 50"
    assert row.is_met is met


def test_the_json_can_be_read_whatever_was_missed() -> None:
    row = Row(work="w", unit="rows", against="", bars=[Bar(limit=0, of="us")])
    row.add({"us": 3.0})
    said = json.loads(json.dumps(row.as_json(), allow_nan=False))
    assert (said["met"], said["missed_by_percent"], said["bar"]) == (False, None, "<= 0")


def test_noise_is_half_the_distance_of_the_quartiles() -> None:
    assert half_spread_percent([1.0]) is None
    assert half_spread_percent([8.0, 9.0, 10.0, 11.0, 12.0]) == pytest.approx(10)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (0.0, "0"), (0.1234, "0.123"), (4.561, "4.56"), (78.94, "78.9"), (12345.6, "12,346")],
)
def test_figures_have_three_digits_that_matter(value: float | None, shown: str) -> None:
    assert figure(value) == shown


def test_the_table_stands_in_columns_and_leaves_out_what_nobody_fills() -> None:
    row = Row(work="chat", unit="answers/s", bars=[Bar(limit=7)])
    row.add({"direct": 3.0, "nginx": 2.0, "us": 1.0})
    lines = render([row]).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "chat", "answers/s", "3.00", "2.00", "1.00", "0.50", "", "<= 7", "yes",
    ]  # fmt: skip
    beside = Row(work="chat", unit="u", against="peer", note="slow")
    beside.add({"peer": 2.0, "us": 1.0})
    lines = render([row, beside]).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert "other" in lines[0]
    assert "chat (slow)" in lines[3]


# ------------------------------------------------------------ the order of rounds


def work_of(
    name: str, clock: HandClock, *, takes_s: float, told: list[str], once: bool = False, fails_in: int = -1
) -> Work:
    row = Row(work=name, unit="u", against="")

    def measure(number: int) -> None:
        clock.now_s += takes_s
        if number == fails_in:
            raise RuntimeError("no luck")
        told.append(f"{name}{number}")
        row.add({"us": float(number)})

    return Work(name=name, rows=[row], measure=measure, once=once)


def test_rounds_go_from_work_to_work() -> None:
    clock, told = HandClock(0.0), list[str]()
    makers = [
        ("a", lambda: work_of("a", clock, takes_s=1, told=told)),
        ("b", lambda: work_of("b", clock, takes_s=1, told=told, once=True)),
        ("c", lambda: work_of("c", clock, takes_s=1, told=told)),
    ]
    rows = measure_all(makers, rounds=3, end_s=100, faults=[], say=print, clock=clock)
    assert told == ["a0", "b0", "c0", "a1", "c1", "a2", "c2"]
    assert [len(row.rounds) for row in rows] == [3, 1, 3]


def test_what_would_not_end_in_time_is_left_out_but_never_the_first_round() -> None:
    clock, told = HandClock(0.0), list[str]()
    makers = [
        ("long", lambda: work_of("long", clock, takes_s=60, told=told)),
        ("short", lambda: work_of("short", clock, takes_s=5, told=told)),
    ]
    measure_all(makers, rounds=4, end_s=80, faults=[], say=print, clock=clock)
    assert told == ["long0", "short0", "short1", "short2", "short3"]


def test_a_work_that_fails_keeps_what_it_has_and_holds_up_nobody() -> None:
    clock, told, faults = HandClock(0.0), list[str](), list[str]()

    def cannot() -> Work:
        raise Missing("not here")

    makers = [
        ("never", cannot),
        ("once", lambda: work_of("once", clock, takes_s=1, told=told, fails_in=1)),
        ("well", lambda: work_of("well", clock, takes_s=1, told=told)),
    ]
    rows = measure_all(makers, rounds=3, end_s=100, faults=faults, say=print, clock=clock)
    assert faults == ["never: not here", "once: no luck"]
    assert [(row.work, len(row.rounds)) for row in rows] == [("once", 1), ("well", 3)]


@pytest.mark.parametrize(
    ("us", "faults", "is_check", "status"),
    [(7.0, [], True, 0), (9.0, [], True, 0), (9.2, [], True, 2), (9.2, [], False, 0), (9.2, ["x"], True, 1)],
)
def test_a_check_allows_for_noise(us: float, faults: list[str], is_check: bool, status: int) -> None:
    row, plain = Row(work="w", unit="u", bars=[Bar(limit=7)]), Row(work="w", unit="answers/s")
    row.add({"nginx": 1.0, "us": us})
    plain.add({"nginx": 1000.0, "us": 1.0})
    assert verdict([row, plain], faults, is_check=is_check) == status


# ------------------------------------------------------------ the ledger's waits


METRICS = """# HELP bitmesh_ledger_write_seconds From a write's queueing to its commit
# TYPE bitmesh_ledger_write_seconds histogram
bitmesh_ledger_write_seconds_bucket{le="0.001"} 10.0
bitmesh_ledger_write_seconds_bucket{le="0.005"} 90.0
bitmesh_ledger_write_seconds_bucket{le="+Inf"} 100.0
bitmesh_ledger_write_seconds_count 100.0
bitmesh_ledger_write_seconds_sum 0.2
bitmesh_ledger_wait_seconds_bucket{le="0.002"} 7.0
bitmesh_ledger_wait_seconds_bucket{le="+Inf"} 8.0
bitmesh_request_duration_seconds_bucket{endpoint="chat",le="0.005"} 3.0
"""


def test_waits_are_read_from_the_metrics_text() -> None:
    assert read_buckets(METRICS, WRITE) == {0.001: 10, 0.005: 90, math.inf: 100}
    assert read_buckets(METRICS, CALL) == {0.002: 7, math.inf: 8}
    with pytest.raises(RuntimeError, match="does not count"):
        read_buckets("bitmesh_requests_total 1.0\n", CALL)


def test_a_runs_own_waits_are_what_came_to_the_histogram() -> None:
    later = METRICS.replace("} 7.0", "} 9.0").replace("} 8.0", "} 12.0")
    assert added_buckets(METRICS, later, CALL) == {0.002: 2, math.inf: 4}
    assert set(added_buckets(METRICS, later, WRITE).values()) == {0}


@pytest.mark.parametrize(
    ("share", "value_s"), [(0.05, 0.0005), (0.1, 0.001), (0.5, 0.003), (0.9, 0.005), (0.99, 0.005)]
)
def test_a_quantile_lies_evenly_within_its_class(share: float, value_s: float) -> None:
    assert quantile(read_buckets(METRICS, WRITE), share) == pytest.approx(value_s)


def test_nothing_written_is_no_quantile() -> None:
    with pytest.raises(RuntimeError, match="nothing was written"):
        quantile({0.001: 0, math.inf: 0}, 0.5)


def test_a_rate_is_carried_when_nearly_all_is_answered_in_time() -> None:
    assert is_steady(run_of(answers_per_s=990, unsent=2), 1000)
    assert not is_steady(run_of(answers_per_s=900), 1000)
    assert not is_steady(run_of(answers_per_s=1000, unsent=500), 1000)


# ------------------------------------------------------------ peers


def test_peers_are_known_or_have_an_address() -> None:
    assert parse_peers(["litellm", "mine=http://127.0.0.1:4000/"], models=["mine=m"], headers=["mine=A: b=c"]) == [
        Wanted(name="litellm"),
        Wanted(name="mine", url="http://127.0.0.1:4000", path=CHAT, model="m", headers=["A: b=c"]),
    ]


def test_a_single_peer_need_not_be_named_again() -> None:
    given = parse_peers(["http://127.0.0.1:4000"], paths=["/chat"], headers=["A: b=c", "D: e"], pids=["12"])
    assert given == [Wanted(name="peer", url="http://127.0.0.1:4000", path="/chat", headers=["A: b=c", "D: e"], pid=12)]


def test_what_a_known_peer_needs_is_there() -> None:
    for name, known in KNOWN.items():
        starter = HERE / "peers" / f"{name}.sh"
        assert os.access(starter, os.X_OK)
        assert 0 < known.bar < 1
        assert all(": " in header for header in known.headers)


def opened(tmp_path: Path, wanted: Wanted, upstream: Server) -> Peer:
    with ExitStack() as stack:
        return open_peer(
            wanted, upstream=upstream, cores=Cores.pick(), installed=tmp_path / "peers", logs=tmp_path, stack=stack
        )


def test_a_peer_that_runs_is_found_by_its_port(tmp_path: Path, provider: tuple[Path, Server]) -> None:
    upstream = provider[1]
    wanted = Wanted(name="portkey", url=upstream.url, headers=["authorization: Bearer mine"])
    peer = opened(tmp_path, wanted, upstream)
    assert (peer.title, peer.pid, peer.model, peer.bar) == ("Portkey", upstream.pid, "gpt-4o-mini", 1 / 15)
    assert peer.headers == [
        "x-portkey-provider: openai",
        f"x-portkey-custom-host: {upstream.url}/v1",
        "authorization: Bearer mine",
    ]


def test_a_peer_that_is_not_there_says_how_to_get_it(tmp_path: Path, provider: tuple[Path, Server]) -> None:
    with pytest.raises(Missing, match=r"litellm\.sh install .*peers/litellm"):
        opened(tmp_path, Wanted(name="litellm"), provider[1])
    with pytest.raises(Missing, match="nothing of this user listens"):
        opened(tmp_path, Wanted(name="x", url=f"http://127.0.0.1:{free_port()}"), provider[1])


# ------------------------------------------------------------ the gateway as it is measured


def test_installations_have_settings_and_catalogues_that_load(tmp_path: Path, provider: tuple[Path, Server]) -> None:
    installations = Installations(tmp_path, provider[1], Cores.pick())
    assert installations.key.token.startswith("bm_")
    models = Size(keys=1, models=30, rows=1).model_names()
    installation = installations.make("many", models=models, workers=2, sandbox=True, cache_bytes=1000)
    assert installation.database.is_file()
    settings = load_settings(tmp_path / "many" / "bitmesh-proxy.toml", environ={})
    assert (settings.http.workers, settings.sandbox.mode, settings.logging.access_log) == (2, "on", False)
    catalogue = load_catalogue(catalogue_dirs(settings), providers=provider_names(settings))
    assert {model.id for model in catalogue.models} >= set(models)


# ------------------------------------------------------------ large books


async def test_large_books_are_right(tmp_path: Path) -> None:
    path, size = tmp_path / DATABASE_NAME, Size(keys=300, models=7, rows=2_000)

    async def opened() -> Database:
        return await Database.open(path, busy_timeout_s=5, max_pending_writes=100)

    database = await opened()
    account = await AccountStore(database).create("bench")
    await KeyStore(database).create(KeySpec(id="key_first", account_id=account.id, token_digest=bytes(32)))
    await database.close()
    with closing(sqlite3.connect(path)) as connection:
        rules = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
    fill(path, size)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall() == rules
        counts = "SELECT count(*), count(DISTINCT key), count(DISTINCT model) FROM requests"
        assert connection.execute(counts).fetchone() == (2_000, 300, 7)
        misplaced = (
            "SELECT count(*) FROM requests JOIN keys ON keys.number = key WHERE keys.account <> requests.account"
        )
        assert connection.execute(misplaced).fetchone() == (0,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database = await opened()
    try:
        assert await verify_books(database) == []
        directory = KeyDirectory(database)
        for number in (1, 300):
            found = directory.by_token_digest(hashlib.sha256(token(number).encode()).digest())
            assert isinstance(found, Caller)
        assert directory.by_token_digest(hashlib.sha256(token(301).encode()).digest()) is None
    finally:
        await database.close()


@pytest.mark.parametrize(("is_quick", "count"), [(False, TURNS), (True, QUICK_TURNS)])
def test_turns_of_a_round_go_to_and_fro(is_quick: bool, count: int) -> None:
    targets = [Target(name=name, url="", path="") for name in ("us", "one")]
    bench = cast(Bench, SimpleNamespace(is_quick=is_quick))
    for number in (0, 1):
        firsts = [in_turn(targets, turn)[0].name for turn in Bench.turns(bench, number)]
        assert firsts == [("us", "one")[turn % 2] for turn in range(number, number + count)]


@pytest.mark.parametrize(("keys", "models_asked_for"), [(50, 20), (5, 20), (5, 4)])
def test_calls_of_many_keys_are_whole(keys: int, models_asked_for: int) -> None:
    size = Size(keys=keys, models=models_asked_for, rows=1)
    made = list(calls(200, size, url="http://127.0.0.1:9", chance=random.Random(1)))
    tokens, models = set(), set()
    for each in made:
        assert struct.unpack(">I", each[:4])[0] == len(each) - 4
        head, _, body = each[4:].partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        tokens.add(head.split(b"Bearer ")[1].split(b"\r\n")[0].decode())
        models.add(json.loads(body)["model"])
    assert tokens <= {token(number) for number in range(1, keys + 1)}
    assert len(tokens) > 0.8 * keys
    assert models == set(size.model_names())


# ------------------------------------------------------------ signatures


def test_signed_requests_are_whole_signed_and_never_the_same() -> None:
    key = Credentials(token="t", consumer_key="ck", consumer_secret="s&s")
    body = chat_body().encode()
    made = list(signed_requests(2, url="http://127.0.0.1:9", path="/chat", body=body, key=key, now_s=7, label="a"))
    nonces = set()
    for each in made:
        length = struct.unpack(">I", each[:4])[0]
        assert len(each) == 4 + length
        head, _, rest = each[4:].partition(b"\r\n\r\n")
        assert rest == body
        fields = dict(part.split("=", 1) for part in head.decode().split("OAuth ")[1].split("\r\n")[0].split(", "))
        nonces.add(fields["oauth_nonce"])
        parameters = "&".join(
            f"{name}={value.strip(chr(34))}" for name, value in sorted(fields.items()) if name != "oauth_signature"
        )
        base = f"POST&{quote('http://127.0.0.1:9/chat', safe='')}&{quote(parameters, safe='')}"
        wanted = base64.b64encode(hmac.digest(b"s%26s&", base.encode(), hashlib.sha1)).decode()
        assert fields["oauth_signature"] == f'"{quote(wanted, safe="")}"'
        payload = hashlib.sha256(body + b"ck" + wanted.encode()).hexdigest()
        assert f"X-Payload-Signature: {payload}".encode() in head
    assert len(nonces) == 2


def test_stolen_time_is_a_share() -> None:
    assert stolen_share([0] * 8, [70, 0, 0, 20, 0, 0, 0, 10]) == pytest.approx(0.1)
    assert stolen_share([1] * 8, [1] * 8) == 0


def test_who_listens_is_found_with_its_eldest() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert listening_pid(listening.getsockname()[1]) == os.getpid()
        port = listening.getsockname()[1]
    assert listening_pid(port) is None


def test_ones_own_cpu_time_can_be_taken() -> None:
    before_s = cpu_s(os.getpid())
    assert sum(range(200_000)) > 0
    assert cpu_s(os.getpid()) > before_s > 0
    assert cpu_s(None) == 0


def test_cores_have_worked() -> None:
    usable = os.sched_getaffinity(0)
    assert busy_s(usable) > 0
    assert busy_s([]) == 0


# ------------------------------------------------------------ the C programs


def asked(provider: tuple[Path, Server], body: str, options: list[str]) -> Run:
    load, server = provider
    target = Target(name="direct", url=server.url, path=CHAT, body=body)
    return run_load(load, target, options, cores=Cores.pick(), provider_pid=server.pid)


def test_answers_are_counted(provider: tuple[Path, Server]) -> None:
    run = asked(provider, chat_body(), ["-c", "2", "-n", "20", "-d", "5"])
    assert (run.answers, run.failures, run.unsent) == (20, 0, 0)


def test_chunks_of_streams_are_counted(provider: tuple[Path, Server]) -> None:
    run = asked(provider, chat_body(stream=True, mock="chunks=9,interval=5"), ["-c", "5", "-d", "5", "--once"])
    assert (run.answers, run.events, run.lateness_ms["n"]) == (5, 45, 45)
    assert run.first_byte_ms["n"] == 5


def test_lateness_counts_once_all_streams_are_open(provider: tuple[Path, Server]) -> None:
    options = ["-c", "2", "-d", "5", "--once", "--ramp", "200", "--settle", "5"]
    run = asked(provider, chat_body(stream=True, mock="chunks=30,interval=10"), options)
    # The second begins 100 ms after the first; before that, nothing counts.
    assert run.events == 60
    assert 30 <= run.lateness_ms["n"] < 60


def test_requests_at_a_fixed_rate_wait_for_nobody(provider: tuple[Path, Server]) -> None:
    # One connection, and 100 ms for each answer: of 40 requests that are due, most find no connection.
    run = asked(provider, chat_body(mock="delay=100"), ["-c", "1", "-R", "100", "-d", "0.4"])
    assert run.answers + run.unsent == 40
    assert run.unsent > 20
    # Counted from when they were due: the last waited for those before, too.
    assert run.latency_ms["max"] > 2 * run.latency_ms["min"]


def test_answers_among_streams_are_counted_and_so_are_the_streams(provider: tuple[Path, Server]) -> None:
    load, server = provider
    bench = Bench(
        tools=Tools(load=load, upstream=load),
        cores=Cores.pick(),
        directory=load.parent,
        cache=load.parent,
        stack=ExitStack(),
        upstream=server,
        nginx=None,
        installations=cast(Installations, None),
        gateway=server,
        peers=[],
    )
    calls = Target(name="direct", url=server.url, path=CHAT, body=chat_body())
    streams = replace(calls, body=chat_body(stream=True, mock="chunks=40,interval=10"))
    run, beside = bench.run_among(
        calls,
        ["-c", "2", "-n", "20", "-d", "5"],
        others=streams,
        their_options=["-c", "3", "-d", "5", "--once"],
        after_s=0.1,
    )
    assert (run.answers, run.failures, run.events) == (20, 0, 0)
    assert (beside.answers, beside.failures, beside.events) == (3, 0, 120)
    assert bench.faults == []
    refused, few = replace(calls, body=chat_body(mock="status=500")), ["-c", "1", "-n", "2", "-d", "5"]
    bench.run_among(calls, few, others=refused, their_options=few, after_s=0)
    assert bench.faults == [f"direct: 2 of 2 answers failed ({CHAT})"]


# ------------------------------------------------------------ the command line


@pytest.mark.parametrize(
    "argv",
    [
        ["--only", "jsn"],
        ["--rounds", "0"],
        ["--peer", "http://example.test:80"],
        ["--peer", "https://127.0.0.1:1"],
        ["--peer", "nobody"],
        ["--peer", "us=http://127.0.0.1:1"],
        ["--peer-pid", "12"],
        ["--peer", "litellm", "--peer", "portkey", "--peer-model", "gpt"],
        ["--peer", "litellm", "--peer-pid", "litellm=no"],
    ],
)
def test_what_makes_no_sense_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(argv)
    assert ended.value.code == 2
    assert argv[-2] in capsys.readouterr().err or argv[0] in capsys.readouterr().err


def test_the_help_says_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--help"])
    said = capsys.readouterr().out
    assert "--quick" in said
    assert all(name in said for name in NAMES)
