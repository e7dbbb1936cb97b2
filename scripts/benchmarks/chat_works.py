"""Chat: whole answers, streams, signatures, translation, and answers at a fixed rate.

A stream is opened within a ramp. Its chunks' lateness counts once all streams are open, because until then the core is
busy with opening them, which is a figure of its own (first byte, and CPU time of a stream of few chunks); CPU time per
chunk counts the openings in.
"""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import replace

from scripts.benchmarks.bench import OUR_CHAT, Bench, Work, chat_body, figures, in_turn
from scripts.benchmarks.gateway import CHAT_MODEL
from scripts.benchmarks.loads import Run, Target
from scripts.benchmarks.peer_gateways import Peer
from scripts.benchmarks.signing import signed_requests
from scripts.benchmarks.table import Bar, Row

RESPONSES = "/v1/responses"
INTERVAL_MS = 20
#: Of a stream, about: a mean answer of ShareGPT's conversations has 338 tokens, one of Alpaca's 58 (Kwon et al. 2023,
#: "Efficient Memory Management for Large Language Model Serving with PagedAttention", figure 11).
CHUNKS = 200
#: Of one that is opened for its first byte.
FEW_CHUNKS = 4
#: A rate is too much when more than this share of its requests find no connection.
NEARLY_NONE = 0.02


def whole_answers(bench: Bench, *, connections: int = 64) -> Work:
    """JSON answers of 1 KB over connections that stay open; beside nginx, and beside each peer there is."""
    work = f"chat, 1 KB JSON, {connections} connections"
    rate = Row(work=work, unit="answers/s")
    per_core = Row(work=work, unit="answers/s per core")
    cpu = Row(work=work, unit="CPU us/answer", bars=[Bar(limit=7)])
    latency = Row(work=work, unit="p99 ms")
    beside = [
        Row(
            work=f"the same ÷ {peer.title}'s",
            unit="CPU us/answer",
            against=peer.name,
            bars=[Bar(limit=peer.bar)] if peer.bar else (),
        )
        for peer in bench.peers
    ]
    body = chat_body()
    targets = [*bench.targets(body), *(peer_target(peer, body) for peer in bench.peers)]
    options = ["-c", str(connections), "-d", "0.8" if bench.is_quick else "2", "-w", "0.3"]

    def measure(number: int) -> None:
        runs = bench.round(targets, options, number)
        of_peers = {peer.name for peer in bench.peers}
        all_cpu = figures(runs, lambda run: run.cpu_us_per_answer)
        plain = {name: run for name, run in runs.items() if name not in of_peers}
        rate.add(figures(plain, lambda run: run.answers_per_s))
        per_core.add({name: 1e6 / used for name, used in all_cpu.items() if name in plain and used})
        cpu.add({name: all_cpu[name] for name in plain})
        latency.add(figures(plain, lambda run: run.latency_ms.get("p99")))
        for row in beside:
            row.add({name: all_cpu[name] for name in ("us", row.against)})

    return Work(name="json", rows=[rate, per_core, cpu, *beside, latency], measure=measure)


def peer_target(peer: Peer, body: str) -> Target:
    """A chat body, asked of a peer for its model."""
    adapted = json.dumps({**json.loads(body), "model": peer.model}, separators=(",", ":"))
    return Target(name=peer.name, url=peer.url, path=peer.path, body=adapted, pid=peer.pid, headers=peer.headers)


def first_bytes(bench: Bench) -> Work:
    """One stream at a time, short ones, again and again: when does the first byte come?"""
    work = "chat SSE, 1 stream, a chunk each 20 ms"
    first = Row(work=work, unit="first byte p50 ms", against="direct", is_difference=True, bars=[Bar(limit=1)])
    late = Row(work=work, unit="chunk lateness p99 ms")
    cpu = Row(work=f"chat SSE, 1 stream of {FEW_CHUNKS} chunks", unit="CPU us/stream")
    targets = bench.targets(chat_body(stream=True, mock=f"chunks={FEW_CHUNKS},interval={INTERVAL_MS}"))
    options = ["-c", "1", "-d", "0.9" if bench.is_quick else "2", "-w", "0.2"]

    def measure(number: int) -> None:
        runs = bench.round(targets, options, number, calmly=True)
        first.add(figures(runs, lambda run: run.first_byte_ms.get("p50")))
        late.add(figures(runs, lambda run: run.lateness_ms.get("p99")))
        cpu.add(figures(runs, lambda run: run.cpu_us_per_answer))

    return Work(name="sse1", rows=[first, late, cpu], measure=measure)


def streams(bench: Bench, count: int) -> Work:
    """Streams side by side: when the first byte comes, how late each chunk is, what a chunk costs."""
    work = f"chat SSE, {count:,} streams, a chunk each 20 ms"
    first = Row(work=work, unit="first byte p50 ms", against="direct", is_difference=True)
    first_late = Row(work=work, unit="first byte p99 ms", against="direct", is_difference=True)
    late = Row(work=work, unit="chunk lateness p99 ms")
    cpu = Row(work=work, unit="CPU us/chunk", bars=[Bar(limit=1.6)])
    if count <= 100:
        first.bars = [Bar(limit=1)]
    else:
        late.bars = [Bar(limit=3.5), Bar(limit=50, of="us")]
    # A thousand take a second to open, and then there have to be chunks enough.
    ramp_ms, fewer = (1000, 100) if count > 100 else (200, 60)
    chunks = fewer if bench.is_quick else CHUNKS
    targets = bench.targets(chat_body(stream=True, mock=f"chunks={chunks},interval={INTERVAL_MS}"))
    seconds = chunks * INTERVAL_MS / 1000
    options = ["-c", str(count), "-d", str(seconds + 2), "--once", "--ramp", str(ramp_ms), "--settle", str(seconds)]

    def measure(number: int) -> None:
        runs = bench.round(targets, options, number, calmly=True)
        first.add(figures(runs, lambda run: run.first_byte_ms.get("p50")))
        first_late.add(figures(runs, lambda run: run.first_byte_ms.get("p99")))
        late.add(figures(runs, lambda run: run.lateness_ms.get("p99")))
        cpu.add(figures(runs, lambda run: run.cpu_us_per_event))

    return Work(name=f"sse{count}", rows=[first, first_late, late, cpu], measure=measure)


def stream_memory(bench: Bench, count: int) -> Work:
    """What an open stream takes: of a server that was just started, since memory once taken is rarely given back."""
    row = Row(work=f"memory, {count:,} open streams", unit="KiB/stream", against="", bars=[Bar(limit=16, of="us")])
    installation = bench.installations.make("memory")
    # All are open at once, and have been quiet for a moment.
    ramp_ms, interval_ms = (800, 1200) if bench.is_quick else (2500, 3000)
    body = chat_body(stream=True, mock=f"chunks=2,interval={interval_ms}")
    options = ["-c", str(count), "-d", "8", "--once", "--ramp", str(ramp_ms)]

    def measure(_number: int) -> None:
        with installation.running() as server:
            target = bench.us(OUR_CHAT, body, server=server)
            # What it loads and makes for its first answers.
            bench.run(
                bench.us(OUR_CHAT, chat_body(stream=True, mock="chunks=1"), server=server), ["-c", "8", "-d", "1"]
            )
            run = bench.run(target, options)
        row.add({"us": (run.resident_kib_peak - run.resident_kib_before) / count})

    return Work(name="memory", rows=[row], measure=measure, once=True)


def signed_answers(bench: Bench) -> Work:
    """OAuth-signed calls beside calls with a token: the same answers, the same server."""
    row = Row(work="chat, OAuth-signed ÷ bearer", unit="CPU us/answer", against="bearer", bars=[Bar(limit=2.5)])
    body = chat_body()
    seconds = 0.6 if bench.is_quick else 1.5
    file = bench.directory / "signed.bin"
    bearer = bench.us(OUR_CHAT, body, name="bearer")
    signed = Target(name="us", url=bench.gateway.url, path=OUR_CHAT, pid=bench.gateway.pid, requests_file=file)

    def measure(number: int) -> None:
        with file.open("wb") as output:
            output.writelines(
                signed_requests(
                    int(5000 * seconds),
                    url=bench.gateway.url,
                    path=OUR_CHAT,
                    body=body.encode(),
                    key=bench.installations.key,
                    now_s=int(time.time()),
                    label=f"{number:04d}",
                )
            )
        runs = bench.round([signed, bearer], ["-c", "16", "-d", str(seconds)], number)
        row.add(figures(runs, lambda run: run.cpu_us_per_answer))

    return Work(name="oauth", rows=[row], measure=measure)


def translated_streams(bench: Bench, *, count: int = 100) -> Work:
    """A stream of ``/v1/responses``, every event of it made by us, beside a chat's that is passed through."""
    row = Row(work=f"/v1/responses, {count} streams ÷ chat's", unit="CPU us/chunk", against="chat", bars=[Bar(limit=3)])
    chunks = 60
    mock = f"chunks={chunks},interval={INTERVAL_MS}"
    body = json.dumps({"model": CHAT_MODEL, "input": f"One line about the sea, mock:{mock}", "stream": True})
    targets = [bench.us(RESPONSES, body), bench.us(OUR_CHAT, chat_body(stream=True, mock=mock), name="chat")]
    options = ["-c", str(count), "-d", "3", "--once", "--ramp", "200"]
    _check_translation(targets[0])

    def per_chunk(run: Run) -> float | None:
        # Our own count: the text of a response is said again in its last events, so that the load sees more stamps.
        return None if run.cpu_s is None or not run.answers else run.cpu_s * 1e6 / (run.answers * chunks)

    def measure(number: int) -> None:
        row.add(figures(bench.round(targets, options, number), per_chunk))

    return Work(name="responses", rows=[row], measure=measure)


def _check_translation(target: Target) -> None:
    """A stream that ends in an error is a 200 as well. Raises RuntimeError."""
    name, _, value = target.headers[0].partition(": ")
    request = urllib.request.Request(  # noqa: S310 - our own server on 127.0.0.1
        target.url + target.path, (target.body or "").encode(), {name: value, "Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        events = answer.read()
    if b"event: response.completed" not in events or events.count(b"event: response.output_text.delta") < 10:
        raise RuntimeError(f"{target.path} did not stream a text to its end")


def fixed_rate(bench: Bench, *, per_second: int = 500) -> Work:
    """Latency while nobody is overloaded: requests come at their times, whatever became of those before."""
    work = f"chat, 1 KB JSON, {per_second:,} requests/s"
    middle = Row(work=work, unit="p50 ms", against="direct", is_difference=True)
    late = Row(work=work, unit="p99 ms", against="direct", is_difference=True)
    targets = bench.targets(chat_body())
    seconds = 0.8 if bench.is_quick else 2
    options = ["-c", "64", "-R", str(per_second), "-d", str(seconds), "-w", "0.2"]

    def measure(number: int) -> None:
        runs = bench.round(targets, options, number, calmly=True)
        middle.add(figures(runs, lambda run: run.latency_ms.get("p50")))
        late.add(figures(runs, lambda run: run.latency_ms.get("p99")))
        unsent = runs["us"].unsent
        if unsent > NEARLY_NONE * per_second * seconds:
            middle.note = late.note = f"too much for us: {unsent:,} could not be sent in {seconds} s"

    return Work(name="latency", rows=[middle, late], measure=measure)


def calls_among_streams(bench: Bench, *, count: int = 200, per_second: int = 500) -> Work:
    """Whole answers at a fixed rate while streams are open: how long both wait for each other."""
    work = f"chat, 1 KB JSON, {per_second:,} requests/s among {count} streams"
    calls = Row(work=work, unit="answer p99 ms")
    late = Row(work=work, unit="chunk lateness p99 ms")
    seconds, ramp_s = (0.8 if bench.is_quick else 2), 0.4
    # They are open before the first of these calls, and behind the last.
    chunks = int((seconds + 1.2) * 1000 / INTERVAL_MS)
    whole, streamed = chat_body(), chat_body(stream=True, mock=f"chunks={chunks},interval={INTERVAL_MS}")
    options = ["-c", "64", "-R", str(per_second), "-d", str(seconds), "-w", "0.2"]
    their_options = ["-c", str(count), "-d", str(seconds + 3), "--once", "--ramp", str(int(ramp_s * 1000))]
    targets = [target for target in bench.targets(whole) if target.name != "direct"]

    def measure(number: int) -> None:
        calls_ms, late_ms = {}, {}
        for target in in_turn(targets, number):
            run, beside = bench.run_among(
                target,
                options,
                others=replace(target, body=streamed),
                their_options=their_options,
                after_s=ramp_s + 0.2,
            )
            calls_ms[target.name] = run.latency_ms.get("p99")
            late_ms[target.name] = beside.lateness_ms.get("p99")
        calls.add(calls_ms)
        late.add(late_ms)

    return Work(name="mixed", rows=[calls, late], measure=measure)
