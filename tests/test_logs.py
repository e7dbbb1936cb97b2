"""Lines for machines and people, and what must never stand in one."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from bitmesh_proxy.logs import ACCESS, JsonFormatter, TextFormatter, cause_of, redact, set_up_logs
from bitmesh_proxy.settings import Logging

TOKEN = "bm_0VBuA9a8CJs1TKSr1c4xlBuV5ewoYHSeEdCX2oP9o1k"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A place for lines; the loggers are afterwards as they were."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, ACCESS.disabled, logging.getLogger("asyncio").level
    yield io.StringIO()
    root.handlers[:], root.level, ACCESS.disabled = before[:3]
    logging.getLogger("asyncio").setLevel(before[3])


@pytest.mark.parametrize(
    "text",
    [
        f"token {TOKEN} came",
        "Authorization: Bearer abcdefgh12345678",
        'OAuth oauth_consumer_key="ck_1", oauth_signature="x%2Fy"',
        "?oauth_signature=abc%3D&x=1",
        "key sk-proj-0123456789abcdefXYZ",
    ],
)
def test_what_looks_like_a_secret_is_replaced(text: str) -> None:
    said = redact(text)
    assert "[redacted]" in said
    for secret in (TOKEN, "abcdefgh12345678", "x%2Fy", "abc%3D", "0123456789abcdefXYZ"):
        assert secret not in said


def test_ordinary_words_stay() -> None:
    text = 'POST /chat 200 request_id=req_0123456789abcdef01234567 "the bearer of news"'
    assert redact(text) == text


def test_a_line_for_machines_is_one_object(stream: io.StringIO) -> None:
    set_up_logs(Logging(format="json"), stream)
    logging.getLogger("somewhere").info("said %s", "this\nand that", extra={"request_id": "req_1", "bytes": 3})
    line = json.loads(stream.getvalue())
    assert (line["level"], line["logger"], line["message"]) == ("info", "somewhere", "said this\nand that")
    assert (line["request_id"], line["bytes"]) == ("req_1", 3)
    assert line["at"].endswith("Z")
    assert stream.getvalue().count("\n") == 1


def test_a_fault_brings_its_traceback_without_secrets(stream: io.StringIO) -> None:
    set_up_logs(Logging(format="json"), stream)
    try:
        raise ValueError(f"bad token {TOKEN}")
    except ValueError:
        logging.getLogger("somewhere").exception("failed")
    assert "ValueError" in json.loads(stream.getvalue())["error"]
    assert TOKEN not in stream.getvalue()


def test_a_line_for_people_leaves_out_what_is_not_known(stream: io.StringIO) -> None:
    set_up_logs(Logging(format="text"), stream)
    logging.getLogger("somewhere").warning("careful", extra={"key_id": None, "code": "x"})
    assert stream.getvalue().rstrip().endswith("warning careful  code=x")


@pytest.mark.parametrize("settings", [Logging(format="text"), Logging(format="json")], ids=["text", "json"])
def test_what_callers_write_ends_no_line_and_tells_a_terminal_nothing(settings: Logging, stream: io.StringIO) -> None:
    """As ``GET /%0a12:00:01%20info…`` and ``/%1b[2J`` would."""
    set_up_logs(settings, stream)
    written = "/x\n12:00:01 info    forged\r\x1b[2J\x9b1m\x7f\u202e\u2028é"
    logging.getLogger("somewhere").info("GET %s 404", written, extra={"address": "a\n\x1b]0;b"})
    said = stream.getvalue()
    assert said.count("\n") == 1
    assert not set(said[:-1]) & set("\n\r\x1b\x9b\x7f\u202e\u2028")
    assert "é" in said


def test_a_traceback_tells_a_terminal_nothing_either(stream: io.StringIO) -> None:
    set_up_logs(Logging(format="text"), stream)
    try:
        raise ValueError("odd: \x1b[2J")
    except ValueError:
        logging.getLogger("somewhere").exception("failed")
    assert "odd: \\u001b[2J" in stream.getvalue()
    assert stream.getvalue().count("\n") > 2


def test_automatic_is_for_machines_unless_somebody_looks(stream: io.StringIO) -> None:
    set_up_logs(Logging(format="auto"), stream)
    assert isinstance(logging.getLogger().handlers[0].formatter, JsonFormatter)
    stream.isatty = lambda: True  # type: ignore[method-assign]  # a terminal
    set_up_logs(Logging(format="auto"), stream)
    assert isinstance(logging.getLogger().handlers[0].formatter, TextFormatter)


def test_levels_and_the_access_log_are_settings(stream: io.StringIO) -> None:
    set_up_logs(Logging(format="text", level="warning", access_log=False), stream)
    logging.getLogger("somewhere").info("too quiet")
    ACCESS.warning("GET /test 200")
    assert stream.getvalue() == ""


def test_what_is_no_http_gets_one_short_line(stream: io.StringIO) -> None:
    """Anybody can send it; its traceback would quote the headers."""
    set_up_logs(Logging(format="text"), stream)
    try:
        raise BadHttpMessage("Invalid header: b'X-Secret: planted'")
    except BadHttpMessage:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "192.0.2.1")
    assert stream.getvalue().rstrip().endswith("info    refused what is no HTTP: BadHttpMessage")
    assert "planted" not in stream.getvalue()


def test_of_a_body_that_cannot_be_read_nothing_is_said() -> None:
    for cause in (
        UnicodeDecodeError("utf-8", b"a prompt \xff", 9, 10, "invalid start byte"),
        UnicodeEncodeError("utf-8", "a prompt \ud800", 9, 10, "surrogates not allowed"),
        BadHttpMessage("Invalid HTTP header: b'a prompt'"),
    ):
        error = ValueError("it cannot be read")
        error.__cause__ = cause
        assert cause_of(error) == type(cause).__name__


def test_other_causes_are_said() -> None:
    error = ValueError("it cannot be reached")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert cause_of(error) == "ConnectionRefusedError(111, 'Connection refused')"
