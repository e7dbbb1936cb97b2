"""Fetches from outside over real sockets: where they go, what they carry, and how much they take."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from bitmesh_proxy.media.fetch_answer import Kind
from bitmesh_proxy.media.fetch_errors import (
    FetchBroken,
    FetchError,
    FetchNotMedia,
    FetchRefused,
    FetchTimedOut,
    FetchTooLarge,
    FetchUnreachable,
)
from bitmesh_proxy.media.guarded_fetch import FetchLimits, GuardedFetcher
from bitmesh_proxy.media.origins import Origin
from tests.closed_port import closed_port
from tests.media.outside import Names, Outside, body, raw_serving, redirect, serving

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
TLS = Path(__file__).parent / "tls"
QUICK = FetchLimits(max_bytes=64 * 1024, connect_timeout_s=5, idle_timeout_s=5, total_timeout_s=10)


def trusting(*outsides: Outside, limits: FetchLimits = QUICK, names: Names | None = None) -> GuardedFetcher:
    return GuardedFetcher(limits, trusted_origins=[outside.origin for outside in outsides], resolver=names)


async def read(fetcher: GuardedFetcher, link: str, **options: object) -> bytes:
    async with fetcher.open(link, **options) as answer:  # type: ignore[arg-type]  # passed on as they are
        return b"".join([chunk async for chunk in answer.chunks()])


async def test_the_answer_comes_as_it_was_sent() -> None:
    async with serving({"/a.png": body(PNG)}) as outside, trusting(outside) as fetcher:
        async with fetcher.open(outside.url("/a.png")) as answer:
            assert (answer.status, answer.media_type, answer.content_length) == (200, "image/png", len(PNG))
            assert b"".join([chunk async for chunk in answer.chunks()]) == PNG
    _, _, headers = outside.requests[0]
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


async def test_an_error_status_is_the_callers_to_judge() -> None:
    async with (
        serving({"/x": body(b"<html>no</html>", "text/html", status=403)}) as outside,
        trusting(outside) as fetcher,
    ):
        async with fetcher.open(outside.url("/x")) as answer:
            assert answer.status == 403


# ------------------------------------------------------------ where it goes


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "http://0.0.0.0/",
        "http://[fd00:ec2::254]/",
    ],
)
async def test_an_address_that_is_not_public_is_refused_before_anything_is_sent(link: str) -> None:
    async with GuardedFetcher(QUICK, resolver=Names({})) as fetcher:
        with pytest.raises(FetchRefused, match="not public"):
            await read(fetcher, link)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["::1"], ["93.184.215.14", "127.0.0.1"], ["2606:4700::1111", "fd00::1"]],
)
async def test_a_name_is_refused_if_one_of_its_addresses_is_not_public(addresses: list[str]) -> None:
    names = Names({"innocent.test": [addresses]})
    async with GuardedFetcher(QUICK, resolver=names) as fetcher:
        with pytest.raises(FetchRefused, match="not public"):
            await read(fetcher, "http://innocent.test/a.png")
    assert names.asked == ["innocent.test"]


async def test_localhost_by_the_real_name_service_is_refused() -> None:
    async with GuardedFetcher(QUICK) as fetcher:
        with pytest.raises(FetchRefused, match="not public"):
            await read(fetcher, "http://localhost/")


@pytest.mark.parametrize("port", [22, 3000, 6379, 8080])
async def test_unusual_ports_are_refused_even_where_private_addresses_are_not(port: int) -> None:
    async with GuardedFetcher(QUICK, allow_private=True) as fetcher:
        with pytest.raises(FetchRefused, match="port"):
            await read(fetcher, f"http://127.0.0.1:{port}/")


async def test_a_trusted_origin_is_trusted_for_its_own_port_only() -> None:
    async with serving({"/": body(PNG)}) as trusted, serving({"/": body(PNG)}) as other, trusting(trusted) as fetcher:
        assert await read(fetcher, trusted.url()) == PNG
        with pytest.raises(FetchRefused):
            await read(fetcher, other.url())
        with pytest.raises(FetchRefused):
            await read(fetcher, trusted.url().replace("http:", "https:"))
    assert other.requests == []


async def test_a_name_that_changes_its_mind_gains_nothing() -> None:
    """Checked and connected from one answer of the name service; the second answer is never asked for."""
    async with serving({"/": body(PNG)}) as first:
        port = first.origin.port
        async with serving({"/": body(b"\xff\xd8\xffsecret")}, host="127.0.0.2", port=port) as second:
            names = Names({"rebind.test": [["127.0.0.1"], ["127.0.0.2"]]})
            async with GuardedFetcher(QUICK, trusted_origins=[first.named("rebind.test")], resolver=names) as fetcher:
                assert await read(fetcher, first.url(host="rebind.test")) == PNG
            assert names.asked == ["rebind.test"]
            assert second.requests == []


async def test_a_name_that_turns_private_later_is_refused_later() -> None:
    async def closing(request: web.Request) -> web.StreamResponse:
        return web.Response(body=PNG, content_type="image/png", headers={"Connection": "close"})

    async with serving({"/": closing}) as outside:
        names = Names({"turn.test": [["127.0.0.1"], ["127.0.0.1"]], "other.test": [["10.0.0.1"]]})
        async with GuardedFetcher(QUICK, trusted_origins=[outside.named("turn.test")], resolver=names) as fetcher:
            await read(fetcher, outside.url(host="turn.test"))
            await read(fetcher, outside.url(host="turn.test"))
            assert names.asked == ["turn.test", "turn.test"]  # nothing is remembered between connections


async def test_with_tls_the_name_is_asked_for_and_checked() -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    asked_for: list[str | None] = []
    server_side.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    client_side = ssl.create_default_context(cafile=str(TLS / "certificate.pem"))
    names = Names({"media.test": [["127.0.0.1"]], "wrong.test": [["127.0.0.1"]]})
    async with serving({"/": body(PNG)}, tls=server_side) as outside:
        trusted = [outside.named("media.test"), outside.named("wrong.test")]
        async with GuardedFetcher(QUICK, trusted_origins=trusted, resolver=names, ssl_context=client_side) as fetcher:
            assert await read(fetcher, outside.url(host="media.test")) == PNG
            assert asked_for == ["media.test"]
            assert outside.requests[0][2]["Host"] == f"media.test:{outside.origin.port}"
            with pytest.raises(FetchUnreachable):
                await read(fetcher, outside.url(host="wrong.test"))
    assert len(outside.requests) == 1


async def test_a_name_that_does_not_exist_and_a_port_where_nobody_listens() -> None:
    with closed_port() as port:
        gone = Origin("http", "127.0.0.1", port)
        async with GuardedFetcher(QUICK, trusted_origins=[gone], resolver=Names({})) as fetcher:
            with pytest.raises(FetchUnreachable):
                await read(fetcher, "http://nowhere.test/")
            with pytest.raises(FetchUnreachable):
                await read(fetcher, f"http://127.0.0.1:{port}/")


# ------------------------------------------------------------ redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(status: int) -> None:
    routes = {"/short": redirect("/long%2Fpath?sig=%2B", status=status), "/long/path": body(PNG)}
    async with serving(routes) as outside, trusting(outside) as fetcher:
        assert await read(fetcher, outside.url("/short")) == PNG
    assert [path for _, path, _ in outside.requests] == ["/short", "/long%2Fpath?sig=%2B"]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://inside.test/",
        "http://127.1/",
        "file:///etc/passwd",
        "//user@inside.test/",
        "http://inside.test:6379/",
    ],
)
async def test_a_redirect_is_judged_like_the_first_link(location: str) -> None:
    names = Names({"inside.test": [["10.0.0.1"]]})
    async with serving({"/": redirect(location)}) as outside, trusting(outside, names=names) as fetcher:
        with pytest.raises(FetchRefused):
            await read(fetcher, outside.url())
    assert len(outside.requests) == 1


@pytest.mark.parametrize(("count", "is_followed"), [(3, True), (4, False)])
async def test_redirects_are_counted(count: int, is_followed: bool) -> None:
    routes = {f"/{n}": redirect(f"/{n - 1}") for n in range(1, count + 1)} | {"/0": body(PNG)}
    async with serving(routes) as outside, trusting(outside) as fetcher:
        if is_followed:
            assert await read(fetcher, outside.url(f"/{count}")) == PNG
        else:
            with pytest.raises(FetchRefused, match="too many"):
                await read(fetcher, outside.url(f"/{count}"))


async def test_a_redirect_to_nowhere_is_no_answer() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302)

    async with serving({"/": answer}) as outside, trusting(outside) as fetcher:
        with pytest.raises(FetchBroken):
            await read(fetcher, outside.url())


async def test_from_https_to_http_only_towards_a_trusted_origin() -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    client_side = ssl.create_default_context(cafile=str(TLS / "certificate.pem"))
    names = Names({"media.test": [["127.0.0.1"]], "public.test": [["127.0.0.1"]]})
    async with serving({"/": body(PNG)}) as plain:
        routes = {"/trusted": redirect(plain.url()), "/public": redirect("http://public.test/")}
        async with serving(routes, tls=server_side) as secure:
            trusted = [secure.named("media.test"), plain.origin]
            async with GuardedFetcher(
                QUICK, trusted_origins=trusted, allow_private=True, resolver=names, ssl_context=client_side
            ) as fetcher:
                assert await read(fetcher, secure.url("/trusted", host="media.test")) == PNG
                with pytest.raises(FetchRefused, match="https to http"):
                    await read(fetcher, secure.url("/public", host="media.test"))
    assert names.asked == ["media.test"]  # the connection was kept; public.test was never looked up


async def test_a_credential_goes_to_the_first_origin_and_never_beyond() -> None:
    async with serving({}) as elsewhere:
        away_and_back = {
            "/start": redirect("/same"),
            "/same": redirect(elsewhere.url("/away")),
            "/back": body(PNG),
        }
        async with serving(away_and_back) as first, serving({"/away": redirect(first.url("/back"))}) as second:
            away_and_back["/same"] = redirect(second.url("/away"))
            async with trusting(first, second) as fetcher:
                assert await read(fetcher, first.url("/start"), headers={"Authorization": "Bearer secret"}) == PNG
    seen = [(path, "Authorization" in headers) for _, path, headers in first.requests]
    assert seen == [("/start", True), ("/same", True), ("/back", False)]
    assert [("Authorization" in headers) for _, _, headers in second.requests] == [False]


async def test_cookies_of_one_hop_do_not_reach_the_next() -> None:
    async def sets_cookie(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "/x", "Set-Cookie": "tracker=1; Path=/"})

    async with serving({"/": sets_cookie, "/x": body(PNG)}) as outside, trusting(outside) as fetcher:
        await read(fetcher, outside.url())
    assert all("Cookie" not in headers for _, _, headers in outside.requests)


# ------------------------------------------------------------ what it takes


async def test_a_declared_length_over_the_limit_is_refused_before_the_body() -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 999999999999\r\n\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    async with raw_serving(script) as outside, trusting(outside) as fetcher:
        with pytest.raises(FetchTooLarge):
            await read(fetcher, outside.url())


async def test_an_endless_body_is_cut_at_the_limit() -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(PNG)
            await writer.drain()

    limits = FetchLimits(max_bytes=2 * 1024 * 1024)
    async with raw_serving(script) as outside, trusting(outside, limits=limits) as fetcher:
        taken = [0]
        with pytest.raises(FetchTooLarge):
            await _count(fetcher, outside.url(), taken)
        assert 0 < taken[0] <= limits.max_bytes
        with pytest.raises(FetchTooLarge):
            await read(fetcher, outside.url(), max_bytes=100)


async def _count(fetcher: GuardedFetcher, link: str, total: list[int]) -> None:
    async with fetcher.open(link) as answer:
        async for chunk in answer.chunks():
            total[0] += len(chunk)


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _saying(text: bytes, *, then_wait: bool = False) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()
        if then_wait:
            await asyncio.Event().wait()

    return script


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (_saying(b""), FetchBroken),
        (_saying(b"SSH-2.0-OpenSSH_9.2\r\n"), FetchBroken),
        (_saying(HEAD + b"Content-Length: 100\r\n\r\nhalf"), FetchBroken),
        (_saying(HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"), FetchBroken),
        (_saying(HEAD + b"Transfer-Encoding: chunked\r\n\r\nnot a chunk\r\n"), FetchBroken),
        (_saying(HEAD + b"X-Long: " + b"a" * 20_000 + b"\r\n\r\n"), FetchBroken),
        (_saying(b"", then_wait=True), FetchTimedOut),
        (_saying(HEAD + b"Content-Length: 100\r\n\r\nhalf", then_wait=True), FetchTimedOut),
    ],
)
async def test_an_answer_that_breaks_or_stalls(script: Script, error: type[FetchError]) -> None:
    limits = FetchLimits(idle_timeout_s=0.2, total_timeout_s=5)
    async with raw_serving(script) as outside, trusting(outside, limits=limits) as fetcher:
        with pytest.raises(error):
            await read(fetcher, outside.url())


async def test_a_drip_that_never_falls_silent_ends_with_the_total_time() -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    limits = FetchLimits(idle_timeout_s=5, total_timeout_s=0.3)
    async with raw_serving(script) as outside, trusting(outside, limits=limits) as fetcher:
        with pytest.raises(FetchTimedOut):
            await read(fetcher, outside.url())


async def test_the_time_that_our_own_reader_takes_is_not_counted() -> None:
    limits = FetchLimits(idle_timeout_s=5, total_timeout_s=0.5)
    pieces = [b"a" * 1000, b"b" * 1000]
    async with serving({"/": _in_pieces(pieces)}) as outside, trusting(outside, limits=limits) as fetcher:
        async with fetcher.open(outside.url()) as answer:
            chunks = answer.chunks()
            taken = await anext(chunks)
            await asyncio.sleep(0.6)
            taken += b"".join([chunk async for chunk in chunks])
    assert taken == b"".join(pieces)


def _in_pieces(pieces: list[bytes]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "image/png"
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    return answer


async def test_compression_that_was_not_offered_is_refused() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(PNG), content_type="image/png", headers={"Content-Encoding": "gzip"})

    async with serving({"/": answer}) as outside, trusting(outside) as fetcher:
        with pytest.raises(FetchBroken, match="compressed"):
            await read(fetcher, outside.url())


@pytest.mark.parametrize(
    ("declared", "kinds", "is_taken"),
    [
        ("image/png", {"image"}, True),
        ("IMAGE/PNG; charset=binary", {"image"}, True),
        ("application/octet-stream", {"image"}, True),
        ("binary/octet-stream", {"video"}, True),
        (None, {"image"}, True),
        ("application/pdf", {"file"}, True),
        ("video/mp4", {"image"}, False),
        ("application/pdf", {"image"}, False),
        ("text/html", {"image", "video", "audio", "file"}, False),
        ("application/json", {"image", "video", "audio", "file"}, False),
    ],
)
async def test_only_the_kinds_that_were_asked_for(declared: str | None, kinds: set[Kind], is_taken: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + (f"Content-Type: {declared}\r\n".encode() if declared else b"")
    script = _saying(head + b"Content-Length: 4\r\n\r\n\x89PNG")
    async with raw_serving(script) as outside, trusting(outside) as fetcher:
        if is_taken:
            assert await read(fetcher, outside.url(), kinds=frozenset(kinds)) == b"\x89PNG"
        else:
            with pytest.raises(FetchNotMedia):
                await read(fetcher, outside.url(), kinds=frozenset(kinds))


# ------------------------------------------------------------ back-pressure


async def test_nothing_is_read_ahead_of_a_slow_reader() -> None:
    """The sender is stopped by the reader's pace, and what is in memory does not grow with what is left to come."""
    total, piece = 100 * 1024 * 1024, bytes(64 * 1024)
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        response.content_type, response.content_length = "video/mp4", total
        await response.prepare(request)
        while sent < total:
            await response.write(piece)
            sent += len(piece)
        return response

    limits = FetchLimits(max_bytes=total)
    async with serving({"/": answer}) as outside, trusting(outside, limits=limits) as fetcher:
        async with fetcher.open(outside.url()) as slow:
            chunks = slow.chunks()
            await anext(chunks)
            while True:  # until the sender has come to a stop
                before = sent
                await asyncio.sleep(0.05)
                if sent == before:
                    break
            assert sent < total / 2
            tracemalloc.start()
            taken = 0
            async for chunk in chunks:
                taken += len(chunk)
                if taken > 30 * 1024 * 1024:
                    break
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 4 * 1024 * 1024


async def test_leaving_ends_the_exchange_at_once() -> None:
    ended = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "video/mp4"
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1024))
                await asyncio.sleep(0)
        finally:
            ended.set()

    async with serving({"/": answer}) as outside, trusting(outside, limits=FetchLimits()) as fetcher:
        async with fetcher.open(outside.url()) as slow:
            await anext(slow.chunks())
        await ended.wait()


async def test_an_unopened_fetcher_says_so() -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await read(GuardedFetcher(QUICK, trusted_origins=[Origin("http", "a.test", 80)]), "http://a.test/")
