"""Chat calls and what their providers answer, by chance: good ones, odd ones, broken ones, cut at any place.

Each is made of one number, with a generator seeded by it: to let hypothesis draw every choice takes twice as long as
all that is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

import orjson

from tests.journeys.twins import ONE, TWO, Case, Ending, Play, conversation

PATHS = ("/chat", "/v1/chat", "/v1/chat/completions", "/v1/openai/chat/completions")
USAGES: tuple[Any, ...] = (
    {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    {"prompt_tokens": 9, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 4}},
    {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}, "x": None},
    {"prompt_tokens": 10**9, "completion_tokens": 10**12},
    {"prompt_tokens": -1, "completion_tokens": "2"},
    {"prompt_tokens": "x", "completion_tokens": 2, "total_tokens": 5},
    {"prompt_tokens": 3, "completion_tokens": None, "total_tokens": 5},
    {"prompt_tokens": 0, "completion_tokens": 2},
    {},
    None,
    [],
    "none",
)
TEXTS = ("", "Hello", "H\u00e9llo \U0001f426", '"usage"', "\\ud83d", "data: [DONE]\n\n", "x" * 300)
ERRORS: tuple[Any, ...] = (
    {"error": {"message": "no", "type": "t", "code": "c"}},
    {"error": {"message": "Rate limited", "code": 429}},
    {"error": "no"},
    {"error": None},
    {"detail": "no"},
    {"message": "\udcff".encode("utf-8", "replace").decode(), "error": {}},
)
#: Values that not every reader of JSON takes.
UNREADABLE = (b"1e999", b"NaN", b'"\\ud83d"', b'"\xff"', b"01")
JUNK = (b"", b"<html>no</html>", b"{", b'{"a": }', b"null", b"[]", b"[1]", b"\xff\xfe", b'{"error"', b"  \n", b"{}")
JSON_TYPES = (b"application/json", b"application/json; charset=utf-8", b"text/html", b"application/problem+json", b"")
STREAM_TYPES = (b"text/event-stream",) * 6 + (b"Text/Event-Stream; charset=utf-8", b"application/json", b"text/plain")
GOOD = (b"200 OK",) * 8 + (b"201 Created", b"204 No Content", b"299 x")
BAD = tuple(
    b"%d Reason" % code
    for code in (302, 304, 400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 500, 502, 503, 529, 599, 999)
)
WITHOUT_BODY = (b"204", b"304")
EXTRA_LINES = (
    b"X-Bitmesh-Sandbox: 1\r\n",
    b"x-bitmesh-sandbox:1\r\n",
    b"Retry-After: 7\r\n",
    b"RETRY-AFTER: soon\r\n",
    b"Retry-After: Wed, 21 Oct 2035 07:28:00 GMT\r\n",
    b"Set-Cookie: a=b\r\n",
    b"X-Request-Id: theirs\r\n",
    b"X-A: \xc3\xbc\xff\r\n",
    b"Connection: keep-alive\r\n",
    b"Content-Encoding: identity\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Server: theirs\r\nDate: then\r\n",
)
INTERIM = (b"",) * 6 + (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
)
SIZES = ("%x\r\n",) * 4 + ("%X\r\n", "%05x\r\n", "%x;name=value\r\n")
ENDS_OF_CHUNKS = (b"0\r\n\r\n",) * 4 + (b"0\r\nX-T: 1\r\n\r\n", b"000\r\n\r\n")
STREAM_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": False}},
    {"stream_options": {}},
    {"stream_options": None},
)
PICTURE = "data:image/png;base64,iVBORw0KGgo="
#: Beside a good conversation, or in its place.
ODD_FIELDS: tuple[dict[str, Any], ...] = (
    {},
    {"test": True},
    {"test": "yes"},
    {"stream": "true"},
    {"stream": 1},
    {"stream": None},
    {"stream_options": "x"},
    {"max_tokens": 0},
    {"max_tokens": "8"},
    {"max_tokens": 1e300},
    {"max_completion_tokens": 5},
    {"temperature": 3},
    {"temperature": None, "top_p": 0.5, "unheard_of": {"a": [1]}},
    {"n": 2, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    {"model": None},
    {"model": 7},
    {"model": " " + ONE},
    {"model": "nobody/nothing"},
    {"messages": []},
    {"messages": "case-N"},
    {"messages": [None]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "nobody", "content": "case-N"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "case-N"}]}]},
    {"messages": [{"role": "user", "content": "case-N"}, {"role": "assistant", "content": None}]},
    {"messages": [{"role": "user", "content": "case-N " + "x" * 20_000}]},
    {
        "messages": [
            {"role": "user", "content": "case-N"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]},
        ]
    },
)
ODD_BYTES = (b"\xff", b"\0", b'"', b"{", b"}", b",", b"\n", b"1e999", b"NaN", b"\\ud800", b"[" * 100)
ODD_HEADERS: tuple[dict[str, str | None], ...] = (
    {},
    {},
    {"Content-Type": "application/json; charset=utf-8"},
    {"Content-Type": "application/json;charset=UTF-8"},
    {"Content-Type": "text/plain"},
    {"Content-Type": None},
    {"Authorization": "Bearer nobody"},
    {"Authorization": None},
    {"X-Forwarded-For": "203.0.113.7, 10.0.0.1", "X-Forwarded-Proto": "https"},
    {"X-Forwarded-For": "nonsense", "X-Forwarded-Host": "\u00fc"},
    {"Origin": "https://a.example"},
    {"Accept": "text/event-stream", "User-Agent": "x" * 5000},
)
#: How a body is framed, and whether more may follow on the connection.
GOOD_FRAMINGS = ("sized", "chunked", "chunked", "until closed")
BROKEN_FRAMINGS = ("short", "cut", "both", "two lengths", "bad chunk", "bad length")


def case_of(seed: int, *, stream: bool, is_odd: bool) -> Case:
    """A call, and what one provider or two answer. ``is_odd``: maybe one that no provider gets to see."""
    chance = Random(seed)
    model = ONE if chance.random() < 0.6 else TWO
    headers: dict[str, str | None] = {}
    if is_odd:
        body, headers = odd_call(chance, model, stream)
    else:
        more: dict[str, Any] = {"stream": True, **chance.choice(STREAM_OPTIONS)} if stream else {}
        body = conversation(model, **more)
    return Case(
        path=chance.choice(PATHS),
        body=body,
        headers=headers,
        plays=[stream_play(chance) if stream else whole_play(chance) for _ in range(2)],
    )


def odd_call(chance: Random, model: str, stream: bool) -> tuple[bytes, dict[str, str | None]]:
    """A call that somebody may send, good or not, and headers of it."""
    body = conversation(**{"model": model, "stream": stream, **chance.choice(ODD_FIELDS)})
    kind = chance.random()
    if kind < 0.15:
        body = body[: chance.randrange(len(body))]
    elif kind < 0.3:
        at = chance.randrange(len(body))
        body = body[:at] + chance.choice(ODD_BYTES) + body[at:]
    elif kind < 0.4:
        body = chance.choice([b"\xef\xbb\xbf" + body, b" \r\n" + body + b"\n", body + b"x", b"[" + body + b"]"])
    return body, dict(chance.choice(ODD_HEADERS))


def whole_play(chance: Random) -> Play:
    """An answer to who did not ask for a stream."""
    kind = chance.random()
    if kind < 0.1:
        return wire(chance, chance.choice(JUNK), types=JSON_TYPES, statuses=GOOD + BAD)
    if kind < 0.35:
        statuses = BAD if chance.random() < 0.8 else GOOD
        return wire(chance, orjson.dumps(chance.choice(ERRORS)), types=JSON_TYPES, statuses=statuses)
    message = {"role": "assistant", "content": chance.choice(TEXTS)}
    body: dict[str, Any] = {"id": "c-1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}
    if chance.random() < 0.7:
        body["usage"] = chance.choice(USAGES)
    data = orjson.dumps(body, option=chance.choice([0, orjson.OPT_INDENT_2]))
    if chance.random() < 0.05:
        data = b'{"odd":' + chance.choice(UNREADABLE) + b"," + data[1:]
    around = chance.choice([b"", b"", b"\n", b" \r\n"])
    if chance.random() < 0.02:
        data = data.replace(b"}", b"x" * 20_000 + b"}", 1)  # more than is taken
    return wire(chance, around + data + around, types=JSON_TYPES[:2], statuses=GOOD)


def stream_play(chance: Random) -> Play:
    """An answer to who did."""
    if chance.random() < 0.1:
        return whole_play(chance)
    end = chance.choice([b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r"])
    events = [event(chance) + end for _ in range(chance.randrange(7))]
    if chance.random() < 0.8:
        events.append(chance.choice([b"data: [DONE]", b"data:[DONE]", b"event: done\ndata: [DONE]"]) + end)
    body = chance.choice([b"", b"", b"", b": hello\n\n", b"\xef\xbb\xbf"]) + b"".join(events)
    return wire(chance, body, types=STREAM_TYPES, statuses=GOOD * 4 + BAD)


def event(chance: Random) -> bytes:
    """One event of a stream, whatever it says, but for its end."""
    kind = chance.choice(["text"] * 6 + ["last", "usage", "usage", "both", "error", "junk", "comment"])
    if kind == "comment":
        return b": still there"
    prefix = chance.choice([b"data: ", b"data: ", b"data:", b"event: x\ndata: ", b"id: 1\r\ndata: "])
    if kind == "junk":
        return prefix + chance.choice(JUNK)
    if kind == "error":
        return prefix + orjson.dumps(chance.choice(ERRORS))
    delta = {"content": chance.choice(TEXTS)} if kind == "text" else {}
    choice = {"index": 0, "delta": delta, "finish_reason": "stop" if kind in ("last", "both") else None}
    body: dict[str, Any] = {"id": "c-1", "choices": [] if kind == "usage" else [choice]}
    if kind in ("usage", "both"):
        body["usage"] = chance.choice(USAGES)
    data = orjson.dumps(body)
    return prefix + (data.replace(b'":', b'" : ') if chance.random() < 0.2 else data)


def wire(chance: Random, body: bytes, *, types: Sequence[bytes], statuses: Sequence[bytes]) -> Play:
    """An answer with this body: head, framing, cuts and the connection's end as they come."""
    status = chance.choice(statuses)
    lines = [b"HTTP/1.1 " + status + b"\r\n"]
    if content_type := chance.choice(types):
        lines.append(
            chance.choice([b"Content-Type", b"content-type", b"CONTENT-TYPE"]) + b": " + content_type + b"\r\n"
        )
    lines += chance.sample(EXTRA_LINES, chance.choice([0, 0, 1, 2]))
    framing = chance.choice(BROKEN_FRAMINGS if chance.random() < 0.12 else GOOD_FRAMINGS)
    if framing in ("sized", "short", "both", "two lengths"):
        lines.append(b"Content-Length: %d\r\n" % (len(body) + (3 if framing == "short" else 0)))
    if framing == "two lengths":
        lines.append(b"Content-Length: %d\r\n" % (len(body) + 1))
    if framing == "bad length":
        lines.append(b"Content-Length: many\r\n")
    if framing in ("chunked", "both", "bad chunk", "cut"):
        lines.append(chance.choice([b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:Chunked\r\n"]))
        body = in_chunks(chance, body)
    if framing == "bad chunk":
        body = body[: len(body) // 2] + b"zz\r\n" + body[len(body) // 2 :]
    if framing == "cut":
        body = body[: chance.randrange(len(body))]
    ending: Ending = "open"
    if framing not in ("sized", "chunked"):
        ending = chance.choice(["closed", "closed", "reset"])
    elif chance.random() < 0.15:
        lines.append(b"Connection: close\r\n")
        ending = "closed"
    data = chance.choice(INTERIM) + b"".join(lines) + b"\r\n" + body
    if status.startswith(WITHOUT_BODY):  # what came later would be taken for the next answer, by any reader of HTTP
        return Play(pieces=[data], ending="closed")
    return Play(pieces=cut(chance, data), ending=ending)


def in_chunks(chance: Random, body: bytes) -> bytes:
    """A body as chunks of some size."""
    size = chance.randint(1, max(1, len(body)))
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join((chance.choice(SIZES) % len(each)).encode() + each + b"\r\n" for each in chunks)
    return framed + chance.choice(ENDS_OF_CHUNKS)


def cut(chance: Random, data: bytes) -> list[bytes]:
    """The same in pieces."""
    places = sorted(chance.sample(range(1, len(data)), min(len(data) - 1, chance.randrange(7))))
    return [data[start:end] for start, end in pairwise([0, *places, len(data)])]
