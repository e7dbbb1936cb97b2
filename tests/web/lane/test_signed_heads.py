"""What is remembered of the heads of signed requests: all but the signatures, and never another request's."""

from __future__ import annotations

from contextlib import suppress
from random import Random

from aiohttp.http_exceptions import HttpProcessingError

from bitmesh_proxy.web.lane.known_heads import MAX_KNOWN_HEAD_BYTES
from bitmesh_proxy.web.lane.lane import Lane
from bitmesh_proxy.web.lane.signed_heads import MAX_SIGNED_HEADS
from tests.auth.bitmesh_clients import authorization
from tests.journeys.gateway import Gateway
from tests.web.lane.raw_requests import Headers, as_parsed, as_recalled, damaged, learnt, request

PEER = "192.0.2.1"


def signature(number: int = 0) -> str:
    """The header of a signed request, another one for each number."""
    value, _ = authorization(
        "POST", "http://ai.example/chat", key="ck_1", secret="s", timestamp_s=1_700_000_000, nonce=f"nonce-{number:04d}"
    )
    return value


def signed(number: int = 0, *more: tuple[str, str]) -> Headers:
    return (
        ("Host", "ai.example"),
        ("Authorization", signature(number)),
        ("X-Payload-Signature", f"{number:064x}"),
        ("Content-Type", "application/json"),
        *more,
    )


async def test_another_signature_in_a_head_that_was_seen_before(gateway: Gateway) -> None:
    fresh = Lane(gateway.app)
    for is_reversed in (False, True):
        lane = Lane(gateway.app)
        first, second = [list(signed(number))[:: -1 if is_reversed else 1] for number in (1, 2)]
        assert learnt(lane, request(first), PEER)
        recalled = as_recalled(lane, request(second, body=b"[ 2 ]"), PEER)
        assert recalled == as_parsed(fresh, request(second, body=b"[ 2 ]"), PEER)
        assert recalled is not None
        visitor = recalled[1]
        assert visitor.signed is not None
        assert (visitor.signed.header.nonce, visitor.payload_signature) == ("nonce-0002", f"{2:064x}")
        assert as_recalled(lane, request(second), "192.0.2.2") is None
        assert "nonce-" not in repr(lane.heads._signed._around)


VALUES: tuple[Headers, ...] = (
    *(
        (*signed()[:1], ("Authorization", value), *signed()[2:])
        for value in (
            *("OAuth", "OAuth ", 'OAuth oauth_consumer_key="x"', "Bearer a-token", "oauth x", f"{signature()},"),
            *(f" {signature()}", f"{signature()} ", f"{signature()}\t", signature().replace(", ", ",\t")),
            *(signature().replace("OAuth", "oauth"), signature() + ', x="é"', signature() + ', x=": 2"'),
            *(signature() + ', realm="a\r b"', signature() + ', x="\x00"', signature() + f', x="{"y" * 9000}"'),
            signature() + "\r\nX-Payload-Signature: 1",
        )
    ),
    *(
        (*signed()[:2], ("X-Payload-Signature", value), *signed()[3:])
        for value in ("", "a b", " a", "a ", "é", ": 2", "a\x00", "a\rb", "a\nb", "x" * 9000, "x\r\nX-Api-Key: b")
    ),
    (*signed()[:2], *signed()[3:]),
    signed(0, ("X-Payload-Signature", "b")),
    signed(0, ("x-payload-signature", "b")),
    signed(0, ("X-Api-Key", "b")),
    signed(0, ("Authorization", "Bearer b")),
    signed(0, ("authorization", signature(9))),
    signed(0, ("Authorization", signature(9))),
    signed(0, ("Origin", "https://x.example")),
    signed(0, ("X-A", "Authorization: OAuth x")),
    signed(0, ("X-Forwarded-For", "203.0.113.7")),
    signed(0, ("X-Length", "2")),
)


async def test_what_is_remembered_is_what_the_parser_says(gateway: Gateway) -> None:
    """Whatever stands in the two headers, or beside them, and whichever came before."""
    chance, fresh = Random(6), Lane(gateway.app)
    recalled_count = 0
    for beside in ((), (("X-Forwarded-For", "203.0.113.7"),), (("User-Agent", "x"), ("X-B", "c"))):
        lane = Lane(gateway.app)
        for headers in (signed(), *VALUES, signed(1), *VALUES, *[signed(number) for number in range(40)]):
            ordered = [*headers, *beside]
            if chance.random() < 0.3:
                ordered.reverse()
            data = request(ordered, body=b"x" * chance.choice([1, 2, 5, 10]))
            if chance.random() < 0.2:
                data = damaged(chance, data)
            recalled = as_recalled(lane, data, "127.0.0.1")
            if recalled is not None:
                assert recalled == as_parsed(fresh, data, "127.0.0.1"), data
                recalled_count += 1
            with suppress(HttpProcessingError):
                learnt(lane, data, "127.0.0.1")
    assert recalled_count > 100


async def test_so_many_are_remembered_and_none_that_is_large(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    assert learnt(lane, request(signed(0, ("X-A", "x" * MAX_KNOWN_HEAD_BYTES))), PEER)
    assert lane.heads._signed._around == {}
    for number in range(MAX_SIGNED_HEADS + 2):
        assert learnt(lane, request(signed(0, ("X-A", f"{number}"))), PEER)
    assert len(lane.heads._signed._around) == 2
    assert (lane.heads._known, lane.heads._around) == ({}, {})
