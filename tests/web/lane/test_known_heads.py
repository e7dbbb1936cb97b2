"""What is remembered of heads is what the parser says of them: no two that differ are ever taken for one another."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from aiohttp.http_exceptions import HttpProcessingError

from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.web.lane.known_heads import (
    _MARKS_MASK,
    KNOWN_BYTES,
    MAX_ENDINGS,
    MAX_KNOWN_BYTES,
    MAX_KNOWN_HEAD_BYTES,
)
from bitmesh_proxy.web.lane.lane import MAX_BODY_BYTES, Lane
from tests.auth.bitmesh_clients import authorization
from tests.journeys.gateway import Gateway
from tests.web.lane.raw_requests import (
    PLAIN,
    TOKEN,
    Headers,
    as_parsed,
    as_recalled,
    damaged,
    learnt,
    replaced,
    request,
    taken,
)

ALPHABET = "ab,:;= \udcff"
NAMES = ("Host", "X-A", "x-a", *("Authorization", "authorization", "X-Api-Key", "Content-Type") * 2)
NAMES_OF_PROXIES = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")
NAMES_OF_OTHERS = ("Origin", "Expect", "Content-Encoding", "Idempotency-Key")
VALUES = (
    *("ai.example", "b.example:8080", "", "x y", "https", "[::1]", "203.0.113.7", "10.0.0.1, 203.0.113.8"),
    *("Bearer a-token", "Bearer another", "a-token", 'OAuth oauth_consumer_key="k"'),
    *("application/json", "text/plain"),
)


def some_headers(chance: Random) -> Headers:
    """Plain ones, changed here and there."""
    headers = list(PLAIN)
    for _ in range(chance.randrange(4)):
        kind, at = chance.random(), chance.randrange(len(headers)) if headers else 0
        if kind < 0.3 or not headers:
            headers.insert(
                at, (chance.choice(chance.choice([NAMES, NAMES_OF_PROXIES, NAMES_OF_OTHERS])), chance.choice(VALUES))
            )
        elif kind < 0.5:
            headers[at] = (headers[at][0], chance.choice(VALUES))
        elif kind < 0.7:
            name, value = headers[at]
            cut = chance.randrange(len(value) + 1)
            headers[at] = (name, (value[:cut] + chance.choice(ALPHABET) + value[cut:]).strip(" "))
        elif kind < 0.85:
            headers[at] = (headers[at][0].swapcase(), headers[at][1])
        else:
            headers.pop(at)
    return headers


async def test_what_is_remembered_is_what_the_parser_says(gateway: Gateway) -> None:
    """A lane that remembers many heads, of several callers, says what one says that has seen none, or nothing."""
    chance = Random(4)
    old, fresh = Lane(gateway.app), Lane(gateway.app)
    heads, peers = [some_headers(chance) for _ in range(300)], ["192.0.2.1", "127.0.0.1", "", None]
    names = ["Content-Length"] * 6 + ["content-length", "CONTENT-Length", "X-Content-Length"]
    recalled_count = 0
    for _ in range(5):
        for headers in heads:
            peer, name = chance.choice(peers), chance.choice(names)
            body = bytes(chance.choices(b"{}\r\n x", k=chance.choice([1, 2, 9, 10, 99, 150, 1000])))
            data = request(headers, body=body, name=name)
            if chance.random() < 0.3:
                data = damaged(chance, data)
            recalled = as_recalled(old, data, peer)
            if recalled is not None:
                assert recalled == as_parsed(fresh, data, peer), data
                recalled_count += 1
            with suppress(HttpProcessingError):
                learnt(old, data, peer)
    assert recalled_count > 200


@pytest.mark.parametrize("headers", [PLAIN, PLAIN[::-1]])
async def test_a_head_is_recalled_with_other_bodies(gateway: Gateway, headers: Headers) -> None:
    lane = Lane(gateway.app)
    assert learnt(lane, request(headers, body=b"{}"))
    expected = taken(lane, headers)
    assert expected is not None
    sizes = (
        1,
        2,
        8,
        9,
        10,
        11,
        98,
        99,
        100,
        101,
        999,
        1000,
        99_999,
        100_000,
        MAX_BODY_BYTES,
        *range(12, 12 + MAX_ENDINGS),
    )
    for body in (b"{}", b"[]", b"\r\n\r\n", *(b"x" * size for size in sizes), b"{}"):
        assert as_recalled(lane, request(headers, body=body), "192.0.2.1") == (*expected, body)
    assert all(len(around.endings) <= MAX_ENDINGS for around in lane.heads._around.values())


NOT_RECALLED = {
    "no body": request(body=b""),
    "a large body": request(body=b"x" * (MAX_BODY_BYTES + 1)),
    "less": request(body=b"{}")[:-1],
    "more": request(body=b"{}") + b"\r\n",
    "two": request(body=b"{}") * 2,
    "the head alone": request(body=b"{}")[:-2],
    "another line": request(line="POST /v1/chat HTTP/1.1"),
    "an older version": request(line="POST /chat HTTP/1.0"),
    "a token of another kind": request((*PLAIN[:2], ("Authorization", "bearer another"))),
    "one line more": request((*PLAIN, ("Expect", "100-continue"))),
    "zeros in front": request(length="002"),
    "a sign": request(length="+2"),
    "a blank": request(length="2 "),
    "a tenth": request(body=b"x" * 20, length="2"),
    "ten times": request(body=b"{}", length="20"),
    "no length": request(length=""),
    "another token, and more": request(replaced("Authorization", "Bearer another"), body=b"{}") + b"x",
    "another token, and less": request(replaced("Authorization", "Bearer anothe"), body=b"{}")[:-1],
    "a token of two lines": request(replaced("Authorization", "Bearer a\r\nb: c")),
    "a blank in a token": request(replaced("Authorization", "Bearer a-toke ")),
    "a length of line ends": request(length="\n\n"),
    "an empty line in front": b"\r\n" + request(),
    "other line ends": request().replace(b"\r\n", b"\n"),
    "nothing": b"",
    "no head": b"{}",
}


async def test_nothing_else_is_recalled(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    assert learnt(lane, request())
    assert lane.heads.recall(request(), "192.0.2.1") is not None
    for name, data in NOT_RECALLED.items():
        assert lane.heads.recall(data, "192.0.2.1") is None, name
    for peer in ("192.0.2.2", "", None):
        assert lane.heads.recall(request(), peer) is None, peer


async def test_a_length_that_stands_elsewhere_too_is_not_taken_for_the_bodys(gateway: Gateway) -> None:
    """Two callers whose tokens are numbers, and happen to be the lengths of their bodies."""
    lane = Lane(gateway.app)

    def by_number(number: int) -> bytes:
        return request((PLAIN[0], ("X-Api-Key", f"{number}"), PLAIN[1], ("X-B", "c")), body=b"x" * number)

    for number in (5, 7):
        data = by_number(number)
        assert data.index(b"X-Api-Key") < data.index(b"Content-Length")
        assert learnt(lane, data)
        assert lane.heads.recall(data, "192.0.2.1") is None
    assert (lane.heads._known, lane.heads._around) == ({}, {})


AUTHORIZATIONS = (
    *("Bearer another", "Bearer x", f"Bearer {'x' * 512}", f"Bearer {'x' * 513}", "Bearer ", "Bearer", "Bearer a b"),
    *("Bearer  two-blanks", "bearer lower", "Bearer a,b", 'Bearer a"b', "Bearer \udcff", "Basic eA==", TOKEN),
    *('OAuth oauth_consumer_key="k"', "Bearer a:", "Bearer a: 2", "Bearer 2", "Bearer a\x00b", "Bearer a\rb"),
)
BESIDE_THE_TOKEN: tuple[Headers, ...] = (
    (),
    (("User-Agent", "x"), ("X-Forwarded-For", "203.0.113.7")),
    (("X-Api-Key", TOKEN),),
    (("X-Api-Key", "another"),),
    (("Authorization", f"Bearer {TOKEN}"),),
    (("authorization", "Bearer another"),),
    (("Cache-Control", "none"), ("X-Requested-X", "y")),
    (("Origin", "https://x.example"),),
    (("Proxy-Authorization", "Bearer first"),),
    (("X-A", "Authorization: Bearer x"),),
    (("X-Length", "2"),),
)


@pytest.mark.parametrize("beside", BESIDE_THE_TOKEN)
async def test_another_token_in_a_head_that_was_seen_before(gateway: Gateway, beside: Headers) -> None:
    """What is known of the rest of a head makes no credential good, and hides none that contradicts it."""
    for first in ((*PLAIN, *beside), (*beside, *PLAIN), (PLAIN[2], *PLAIN[:2], *beside)):
        for is_reversed in (False, True):
            old, fresh = Lane(gateway.app), Lane(gateway.app)
            for credential in (f"Bearer {TOKEN}", *AUTHORIZATIONS, *AUTHORIZATIONS):
                headers = [
                    (name, credential if (name, value) == ("Authorization", f"Bearer {TOKEN}") else value)
                    for name, value in first
                ]
                data = request(headers[::-1] if is_reversed else headers)
                assert as_recalled(old, data, "127.0.0.1") in (None, as_parsed(fresh, data, "127.0.0.1")), data
                with suppress(HttpProcessingError):
                    learnt(old, data, "127.0.0.1")


async def test_of_many_tokens_one_head_is_learnt(gateway: Gateway) -> None:
    lane, forgotten = Lane(gateway.app), 0
    for headers in (PLAIN, PLAIN[::-1]):
        assert learnt(lane, request(headers))
        for number in range(2 * MAX_KNOWN_BYTES // (KNOWN_BYTES + 150)):
            changed = [(name, f"Bearer token-{number}" if name == "Authorization" else each) for name, each in headers]
            for _ in ("first", "again"):
                found = as_recalled(lane, request(changed, body=b"x" * (1 + number % 11)), "192.0.2.1")
                if found is None:  # everything was forgotten
                    forgotten += 1
                    assert learnt(lane, request(headers))
                else:
                    assert found[2] == token_digest(f"token-{number}")
            assert lane.heads._known_bytes <= MAX_KNOWN_BYTES
    assert 2 <= forgotten <= 5
    assert 1 <= len(lane.heads._around) <= 2
    assert "token-" not in repr(list(lane.heads._around))


@pytest.mark.parametrize("headers", [PLAIN, PLAIN[::-1]])
async def test_an_entry_is_kept_once_its_token_comes_again(gateway: Gateway, headers: Headers) -> None:
    lane = Lane(gateway.app)
    assert learnt(lane, request(headers))
    (around,) = lane.heads._around.values()
    assert list(around.entries) == [TOKEN.encode()]
    changed = [(name, "Bearer another" if name == "Authorization" else each) for name, each in headers]
    first, second, third = [lane.heads.recall(request(changed), "192.0.2.1") for _ in range(3)]
    assert first is not None
    assert second is not None
    assert third is not None
    assert list(around.entries) == [TOKEN.encode(), b"another"]
    assert first[0] is not second[0]
    assert second[0] is third[0]


async def test_callers_who_take_turns_have_their_entries(gateway: Gateway) -> None:
    """With heads of different kinds, one of which comes last each time."""
    lane = Lane(gateway.app)
    kinds = [(*PLAIN, ("User-Agent", name)) for name in "xyz"] + [PLAIN, PLAIN[::-1]]
    for headers in kinds:
        assert learnt(lane, request(headers))
    changed = [[(name, each.replace(TOKEN, "another")) for name, each in headers] for headers in kinds]
    rounds = [[lane.heads.recall(request(headers), "192.0.2.1") for headers in (*kinds, *changed)] for _ in range(4)]
    for turn in zip(*rounds, strict=True):
        entries = [recalled[0] for recalled in turn if recalled is not None]
        assert len(entries) == 4
        assert entries[2] is entries[3]
    digests = [token_digest(TOKEN)] * len(kinds) + [token_digest("another")] * len(kinds)
    assert [recalled and (recalled[2] or recalled[0].token_digest) for recalled in rounds[0]] == digests


async def test_few_tokens_are_taken_for_others(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    assert learnt(lane, request())
    (around,) = lane.heads._around.values()
    for number in range(10_000):
        assert lane.heads._newcomer(around, b"%d" % number) is not None
    # In most places there is another's mark by now, and one of 256 of those is the same.
    assert 5 < len(around.entries) < 120
    # Whose mark stands: nobody came behind it to the same place.
    standing: dict[int, bytes] = {}
    for number in reversed(range(10_000)):
        standing.setdefault(hash(token_digest(f"{number}")) & _MARKS_MASK, b"%d" % number)
    last = list(standing.values())[:10]
    for token in last:
        lane.heads._newcomer(around, token)
    assert around.entries.keys() >= set(last)


async def test_the_peer_counts_as_much_as_what_it_says(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    told = (*PLAIN, ("X-Forwarded-For", "203.0.113.7"))
    near, far = taken(lane, told, peer="127.0.0.1"), taken(lane, told, peer="198.51.100.1")
    assert near is not None
    assert far is not None
    assert (near[1].address, far[1].address) == ("203.0.113.7", "198.51.100.1")
    for peer in ("127.0.0.1", "198.51.100.1"):
        assert learnt(lane, request(told), peer)
    for peer, found in (("127.0.0.1", near), ("198.51.100.1", far)):
        assert as_recalled(lane, request(told), peer) == (*found, b"{}")


async def test_so_much_is_remembered_and_no_head_that_is_large(gateway: Gateway) -> None:
    """Nobody has shown a key yet: what is kept must not grow with what anybody sends."""
    lane = Lane(gateway.app)
    assert learnt(lane, request((*PLAIN, ("X-A", "x" * MAX_KNOWN_HEAD_BYTES))))
    assert (lane.heads._known, lane.heads._around) == ({}, {})
    padding = "x" * (MAX_KNOWN_HEAD_BYTES - 300)
    most = forgotten = before_bytes = 0
    for number in range(MAX_KNOWN_BYTES // MAX_KNOWN_HEAD_BYTES):
        data = request((*PLAIN, ("X-A", f"{padding}{number}")))
        assert learnt(lane, data)
        assert lane.heads.recall(data, "192.0.2.1") is not None
        kept = sum(len(before) + len(behind) + KNOWN_BYTES for _, before, behind in lane.heads._known)
        kept += sum(len(b"".join(parts)) + KNOWN_BYTES for _, _, *parts in lane.heads._around)
        most, forgotten, before_bytes = max(most, kept), forgotten + (kept < before_bytes), kept
        assert kept <= lane.heads._known_bytes <= MAX_KNOWN_BYTES
    assert most > MAX_KNOWN_BYTES * 0.9
    assert forgotten >= 1


async def test_a_signed_head_is_not_remembered(gateway: Gateway) -> None:
    """No two requests have the same."""
    lane = Lane(gateway.app)
    header, _ = authorization("POST", "http://ai.example/chat", key="k", secret="s", timestamp_s=1_700_000_000)
    data = request((*PLAIN[:2], ("Authorization", header)))
    assert learnt(lane, data)
    assert (lane.heads._known, lane.heads._around) == ({}, {})
