from __future__ import annotations

import asyncio
import logging

import pytest

from bitmesh_proxy.upstream.names import REMEMBERED_S, Names
from tests.hand_clock import HandClock


class Resolver:
    """Says what it is told to, once it may."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        answer = self.answers.pop(0)
        await self.may_answer.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_who_asks_at_once_or_soon_after_asks_once() -> None:
    clock, resolver = HandClock(), Resolver(["192.0.2.1"], ["192.0.2.2"])
    names = Names(resolver, clock=clock)
    found = await asyncio.gather(*(names.addresses_of("api.example.test", 443) for _ in range(5)))
    assert found == [["192.0.2.1"]] * 5
    clock.now_s += REMEMBERED_S - 1
    assert await names.addresses_of("api.example.test", 443) == ["192.0.2.1"]
    assert len(resolver.asked) == 1
    clock.now_s += 1
    assert await names.addresses_of("api.example.test", 443) == ["192.0.2.2"]
    assert len(resolver.asked) == 2


async def test_each_name_and_port_has_its_own_addresses() -> None:
    resolver = Resolver(["192.0.2.1"], ["192.0.2.2"], ["192.0.2.3"])
    names = Names(resolver)
    for host, port in (("a.test", 443), ("b.test", 443), ("a.test", 80), ("a.test", 443)):
        await names.addresses_of(host, port)
    assert resolver.asked == [("a.test", 443), ("b.test", 443), ("a.test", 80)]


@pytest.mark.parametrize("answer", [OSError("no such name"), UnicodeError("no name at all"), []])
async def test_what_fails_is_said_to_all_and_not_remembered(answer: list[str] | Exception) -> None:
    names = Names(Resolver(answer, ["192.0.2.1"]))
    failed = await asyncio.gather(*(names.addresses_of("a.test", 443) for _ in range(3)), return_exceptions=True)
    assert [isinstance(each, (OSError, UnicodeError)) for each in failed] == [True] * 3
    assert await names.addresses_of("a.test", 443) == ["192.0.2.1"]


async def test_one_who_leaves_leaves_the_others_their_answer() -> None:
    resolver = Resolver(["192.0.2.1"])
    resolver.may_answer.clear()
    names = Names(resolver)
    first, second = (asyncio.create_task(names.addresses_of("a.test", 443)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    resolver.may_answer.set()
    assert await second == ["192.0.2.1"]


async def test_a_failure_that_nobody_waits_for_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    resolver = Resolver(OSError("no such name"))
    resolver.may_answer.clear()
    names = Names(resolver)
    waiting = asyncio.create_task(names.addresses_of("a.test", 443))
    await asyncio.sleep(0)
    waiting.cancel()
    names.forget("a.test", 443)
    resolver.may_answer.set()
    for _ in range(3):
        await asyncio.sleep(0)
    del waiting
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_where_somebody_answered_is_known_as_long_as_the_name_is() -> None:
    clock = HandClock()
    names = Names(Resolver(["2001:db8::1", "192.0.2.1"], ["192.0.2.1"]), clock=clock)
    names.note_answer("a.test", 443, "192.0.2.1")
    assert names.proven("a.test", 443) is None
    await names.addresses_of("a.test", 443)
    assert names.proven("a.test", 443) is None
    names.note_answer("a.test", 443, "192.0.2.1")
    assert (names.proven("a.test", 443), names.proven("a.test", 80)) == ("192.0.2.1", None)
    clock.now_s += REMEMBERED_S
    await names.addresses_of("a.test", 443)
    assert names.proven("a.test", 443) is None


async def test_where_nobody_answered_is_asked_for_anew() -> None:
    names = Names(Resolver(["192.0.2.1"], ["192.0.2.2"]))
    await names.addresses_of("a.test", 443)
    names.forget("a.test", 443)
    names.forget("b.test", 443)
    assert await names.addresses_of("a.test", 443) == ["192.0.2.2"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%lo", "2001:db8::2"])
async def test_an_address_is_its_own(address: str) -> None:
    assert await Names(Resolver()).addresses_of(address, 443) == [address]


async def test_the_end_leaves_nothing_behind() -> None:
    resolver = Resolver(["192.0.2.1"])
    resolver.may_answer.clear()
    names = Names(resolver)
    waiting = asyncio.create_task(names.addresses_of("a.test", 443))
    await asyncio.sleep(0)
    names.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(asyncio.all_tasks()) == 1


async def test_the_system_is_asked() -> None:
    names = Names()
    assert {"127.0.0.1", "::1"} & set(await names.addresses_of("localhost", 80))
    with pytest.raises(OSError, match=r".+"):
        await names.addresses_of("nobody.invalid", 80)
    with pytest.raises((OSError, UnicodeError)):
        await names.addresses_of("a" * 64 + ".test", 80)
