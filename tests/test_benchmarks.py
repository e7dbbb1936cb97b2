"""The parts of ``scripts/bench`` that read and reckon. What it measures is no test: machines differ."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
from urllib.parse import quote

import pytest

from scripts.benchmarks.__main__ import arguments
from scripts.benchmarks.gateway import Credentials
from scripts.benchmarks.loads import Run, parse_output
from scripts.benchmarks.processes import cpu_s, stolen_share
from scripts.benchmarks.signing import signed_requests
from scripts.benchmarks.table import Row, figure, half_spread_percent, render
from scripts.benchmarks.works import chat_body

#: What ``load`` prints, shortened.
OUTPUT = (
    '{"url":"http://127.0.0.1:1/","conns":4,"secs":1.0,"done":90,"rps":90.0,"errors":1,"non2xx":2,"s2":98,"s4":2,"s5":0,'
    '"unfinished":0,"mbps":0.1,"bytes":2000000,"reads":99,"events":50,"load_cpu":0.01,'
    '"lat":{"n":90,"p50":1.5,"p99":3.25},"ttfb":{"p50":0.5},"chunk":{"p99":12.0}}'
)


def test_what_the_load_prints_is_read() -> None:
    run = parse_output(OUTPUT)
    assert (run.answers, run.failures, run.events, run.megabytes) == (98, 3, 50, 2.0)
    assert (run.latency_ms["p99"], run.first_byte_ms["p50"], run.lateness_ms["p99"]) == (3.25, 0.5, 12.0)
    assert run.cpu_us_per_answer is None  # nobody's CPU time was taken


def test_cpu_time_is_shared_out() -> None:
    run = Run(answers=4, failures=0, answers_per_s=0, megabytes_per_s=0, megabytes=2.0, events=0, cpu_s=0.001)
    assert run.cpu_us_per_answer == pytest.approx(250)
    assert run.cpu_us_per_megabyte == pytest.approx(500)
    assert run.cpu_us_per_event is None


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
    row = Row(work="w", unit="ms", against="direct", is_difference=True)
    row.add({"direct": 1.0, "us": 3.5})
    assert row.ratio == 2.5
    assert row.cells()[5] == "+2.50"


def test_without_a_yardstick_there_is_no_ratio() -> None:
    row = Row(work="w", unit="u")
    row.add({"us": 5.0})
    row.add({"us": 5.0})
    assert row.ratio is None
    assert row.noise_percent == 0
    assert row.cells() == ("w", "u", "", "", "5.00", "", "0 %", "")


def test_noise_is_half_the_distance_of_the_quartiles() -> None:
    assert half_spread_percent([1.0]) is None
    assert half_spread_percent([8.0, 9.0, 10.0, 11.0, 12.0]) == pytest.approx(10)


@pytest.mark.parametrize(
    ("value", "shown"), [(None, ""), (0.1234, "0.123"), (4.561, "4.56"), (78.94, "78.9"), (12345.6, "12,346")]
)
def test_figures_have_three_digits_that_matter(value: float | None, shown: str) -> None:
    assert figure(value) == shown


def test_the_table_stands_in_columns() -> None:
    row = Row(work="chat", unit="answers/s", bar="<= 7")
    row.add({"direct": 3.0, "nginx": 2.0, "us": 1.0})
    lines = render([row]).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "chat", "answers/s", "3.00", "2.00", "1.00", "0.50", "", "<= 7",
    ]  # fmt: skip


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


def test_ones_own_cpu_time_can_be_taken() -> None:
    before_s = cpu_s(os.getpid())
    assert sum(range(200_000)) > 0
    assert cpu_s(os.getpid()) > before_s > 0


@pytest.mark.parametrize(
    "argv",
    [["--only", "jsn"], ["--peer", "http://example.test:80"], ["--peer", "https://127.0.0.1:1"], ["--rounds", "0"]],
)
def test_what_makes_no_sense_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(argv)
    assert ended.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_the_help_says_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--help"])
    said = capsys.readouterr().out
    assert "--quick" in said
    assert "nginx" in said
