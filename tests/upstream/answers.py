"""Answers of providers as bytes: some by hand, and any number as hypothesis draws them."""

from __future__ import annotations

from hypothesis import strategies as st

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
SIZED = HEAD + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nX-T: 1\r\n\r\n"
#: The bytes, the body in them, and whether another answer may follow.
ANSWERS = {
    "sized": (SIZED, b"hello", True),
    "empty": (HEAD + b"Content-Length: 0\r\n\r\n", b"", True),
    "chunked": (CHUNKED, b"hello", True),
    "last": (HEAD + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello", b"hello", False),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + SIZED, b"hello", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
}


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Answers as providers give them, and some as they should not."""
    status = draw(st.sampled_from([200, 200, 200, 201, 204, 304, 400, 429, 500, 599]))
    body = draw(st.binary(max_size=60))
    head = draw(
        st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"])
    )
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    head += b"HTTP/%b %d Reason\r\n" % (version, status)
    for name in draw(st.lists(st.sampled_from([b"X-A", b"x-b", b"Content-Type", b"Set-Cookie"]), max_size=4)):
        head += (
            name + b":" + draw(st.sampled_from([b" a", b"", b"  a, b ", b" \xc3\xbc", b" text/event-stream"])) + b"\r\n"
        )
    head += draw(st.sampled_from([b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n"]))
    framing = draw(st.sampled_from(["sized", "chunked", "chunked", "until closed", "short", "both", "bad chunk"]))
    if framing in ("sized", "short", "both"):
        head += b"Content-Length: %d\r\n" % (len(body) + (1 if framing == "short" else 0))
    if framing in ("chunked", "both", "bad chunk"):
        head += b"Transfer-Encoding: chunked\r\n"
        size = draw(st.integers(min_value=1, max_value=30))
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        body += draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nX-T: 1\r\n\r\n", b"000\r\n\r\n"]))
        if framing == "bad chunk":
            body = b"zz\r\n" + body
    return head + b"\r\n" + (b"" if status in (204, 304) else body)
